"""Templates to Markdown, and Markdown to one self-contained HTML page."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import pairwise

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markdown_it import MarkdownIt
from markdown_it.token import Token
from markupsafe import Markup
from PIL import Image

from tagger.checkpoint.markdown import escape
from tagger.reporting import formatting

PHOTOGRAPHS = ("neighbours.png", "templates.png", "filters.png", "mistakes.png", ".jpg")
"""Name endings of figures whose colours are not inverted in dark mode."""
_TYPES = {"png": "png", "jpg": "jpeg", "svg": "svg+xml"}
_WIDE = 720
"""Width in pixels above which a figure scrolls on a phone."""


def markdown(template: str, **facts: object) -> str:
    """Render a template; every value except Markup is escaped, so that Markdown shows it literally."""
    lines = [line.strip(" ") if line[:4].strip() else line for line in _template(template).render(facts).splitlines()]
    apart = [line for line, before in zip(lines, ["", *lines], strict=False) if line or before]
    return "\n".join(apart).rstrip() + "\n"


def html(markdown: str, image: Callable[[str], bytes]) -> str:
    """Return a page of Markdown: images inline, no script, no request.

    `image` returns a PNG, JPEG or SVG by its file name, which ends in .png, .jpg or .svg.
    """
    parser = MarkdownIt("commonmark", {"html": False, "xhtmlOut": False}).enable("table")
    tokens = parser.parse(markdown)
    for figure in (child for token in tokens for child in token.children or () if child.type == "image"):
        _inline(figure, image)
    _let_keys_scroll(tokens)
    starts = [index for index, token in enumerate(tokens) if token.type == "heading_open" and token.tag == "h2"]

    def rendered(part: Sequence[Token]) -> Markup:
        return Markup(parser.renderer.render(part, parser.options, {}))

    head, *sections = (tokens[first:end] for first, end in pairwise([0, *starts, len(tokens)]))
    title = "".join(child.content for child in head[1].children or ())
    parts = [(rendered(part[1:2]), rendered(part[3:])) for part in sections]
    return _template("page.html.jinja").render(title=Markup.escape(title), head=rendered(head), parts=parts)


def _let_keys_scroll(tokens: Sequence[Token]) -> None:
    """Make tables and wide figures, which may scroll, reachable with the keyboard."""
    for before, token in pairwise(tokens):
        if before.type == "table_open" or any("wide" in str(each.attrs.get("class")) for each in token.children or ()):
            before.attrSet("tabindex", "0")


def _inline(figure: Token, image: Callable[[str], bytes]) -> None:
    """Embed the content of an image in its token."""
    name = str(figure.attrs["src"]).rpartition("/")[2]
    content = image(name)
    width, height = _size(name, content)
    kind = "photo" if name.endswith(PHOTOGRAPHS) else "chart"
    source = f"data:image/{_TYPES[name[-3:]]};base64,{base64.b64encode(content).decode()}"
    figure.attrs |= {"src": source, "width": width, "height": height, "class": kind + " wide" * (width > _WIDE)}


def _size(name: str, content: bytes) -> tuple[int, int]:
    """Return width and height in pixels."""
    if name.endswith(".svg"):
        width, height = re.findall(rb'(?:width|height)="(\d+)"', content)[:2]
        return int(width), int(height)
    return Image.open(io.BytesIO(content)).size


@lru_cache
def _template(name: str) -> Template:
    made = Environment(
        loader=PackageLoader("tagger.reporting"), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        finalize=lambda value: value if isinstance(value, Markup) else escape(value),
    )  # fmt: skip
    names = ("count", "listed", "one_line", "percent", "sentence")
    made.filters |= {name: getattr(formatting, name) for name in names}
    return made.get_template(name)
