"""A document as Markdown or as one self-contained HTML page."""

from __future__ import annotations

import base64
import struct
from collections.abc import Iterator, Mapping
from functools import lru_cache

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from tagger.reporting.document import Block, Bullets, Document, Figure, Listing, Table, Text
from tagger.reporting.formatting import one_line


def html(document: Document, drawn: Mapping[str, bytes] | None = None) -> str:
    """Return a self-contained page: images inline, no script, no request. Text is escaped.

    `drawn` has the PNGs of `plot_files`; without it the figures are drawn.
    """
    plots = drawn or {}
    return _template().render(document=document, image=lambda figure: _image(plots.get(_file(figure)) or figure.draw()))


def markdown(document: Document, plots: str | None = None) -> str:
    """Return Markdown; `plots` is the folder with the files of `plot_files`, without it figures are left out."""
    parts = [f"# {_escaped(document.title)}", f"**{_escaped(document.summary)}**"]
    for section in document.sections:
        blocks = [text for block in section.blocks if (text := _markdown(block, plots))]
        parts += [f"## {_escaped(section.title)}", *blocks] if blocks else []
    return "\n\n".join(parts) + "\n"


def plot_files(document: Document) -> Iterator[tuple[str, bytes]]:
    """Yield the file name and PNG of each figure, drawn one at a time."""
    figures = (block for section in document.sections for block in section.blocks if isinstance(block, Figure))
    return ((_file(figure), figure.draw()) for figure in figures)


def _file(figure: Figure) -> str:
    return f"{figure.name}.png"


@lru_cache
def _template() -> Template:
    loader = PackageLoader("tagger.reporting")
    made = Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
    return made.get_template("page.html.jinja")


def _image(png: bytes) -> dict[str, str | int]:
    """Return the attributes of an img element."""
    width, height = struct.unpack(">II", png[16:24])
    return {"source": f"data:image/png;base64,{base64.b64encode(png).decode()}", "width": width, "height": height}


def _markdown(block: Block, plots: str | None) -> str:
    match block:
        case Text(words):
            return _escaped(words)
        case Listing(code):
            return "\n".join(f"    {line}" for line in code.splitlines())
        case Bullets(lines):
            return "\n".join(f"- {_escaped(name)}: {_escaped(text)}" for name, text in lines)
        case Table():
            return _markdown_table(block)
        case Figure():
            return _markdown_figure(block, plots)


def _markdown_table(made: Table) -> str:
    rule = [{"l": ":--", "r": "--:"}[side] for side in made.sides]
    rows = [[_escaped(cell) for cell in row] for row in made.rows]
    if made.best is not None:
        rows[made.best] = [f"**{cell}**" if cell else "" for cell in rows[made.best]]
    lines = "\n".join(f"| {' | '.join(cells)} |" for cells in ([_escaped(name) for name in made.header], rule, *rows))
    return f"{lines}\n\n{_escaped(made.caption)}" if made.caption else lines


def _markdown_figure(figure: Figure, plots: str | None) -> str:
    if plots is None:
        return ""
    shown = f"![{_escaped(figure.alt)}]({plots}/{_file(figure)})"
    return f"{shown}\n\n{_escaped(figure.caption)}" if figure.caption else shown


def _escaped(text: str) -> str:
    """Return text on one line that Markdown shows as it is, inside a table too."""
    marked = "".join("\\" + letter if letter in "\\`*_[]<>|$~#" else letter for letter in one_line(text))
    return marked.replace("&", "&amp;")
