"""The report as Markdown and as one HTML page that needs nothing else."""

from __future__ import annotations

import base64
import struct
from collections.abc import Iterator
from functools import lru_cache

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from tagger.reporting.blocks import Block, Bullets, Figure, Listing, Table, Text
from tagger.reporting.contents import answer, sections, title
from tagger.reporting.facts import Ladder
from tagger.reporting.wording import one_line


def html(ladder: Ladder) -> str:
    """Return a page with its pictures inside: no script, no request to anywhere. Names are escaped.

    Raises ValueError when scores, truth and label names do not fit.
    """
    return _template().render(title=title(ladder), answer=answer(ladder), sections=sections(ladder), picture=_picture)


def markdown(ladder: Ladder, pictures: str | None = None) -> str:
    """Return the report as Markdown; with `pictures`, the folder of the files of `plot_files`, it shows them."""
    parts = [f"# {_escaped(title(ladder))}", f"**{_escaped(answer(ladder))}**"]
    for section in sections(ladder):
        blocks = [text for block in section.blocks if (text := _markdown(block, pictures))]
        parts += [f"## {_escaped(section.title)}", *blocks] if blocks else []
    return "\n\n".join(parts) + "\n"


def plot_files(ladder: Ladder) -> Iterator[tuple[str, bytes]]:
    """Yield file name and PNG of every picture, drawn as they are asked for."""
    figures = (block for section in sections(ladder) for block in section.blocks if isinstance(block, Figure))
    return ((_file(figure), figure.draw()) for figure in figures)


def _file(figure: Figure) -> str:
    return f"{figure.name}.png"


@lru_cache
def _template() -> Template:
    loader = PackageLoader("tagger.reporting", "")
    made = Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
    return made.get_template("page.html.jinja")


def _picture(figure: Figure) -> dict[str, str | int]:
    """Draw the figure for an img element."""
    png = figure.draw()
    width, height = struct.unpack(">II", png[16:24])
    return {"source": f"data:image/png;base64,{base64.b64encode(png).decode()}", "width": width, "height": height}


def _markdown(block: Block, pictures: str | None) -> str:
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
            return _markdown_figure(block, pictures)


def _markdown_table(made: Table) -> str:
    rule = [{"l": ":--", "r": "--:"}[side] for side in made.sides]
    rows = [[_escaped(cell) for cell in row] for row in made.rows]
    if made.best is not None:
        rows[made.best] = [f"**{cell}**" if cell else "" for cell in rows[made.best]]
    lines = "\n".join(f"| {' | '.join(cells)} |" for cells in ([_escaped(name) for name in made.header], rule, *rows))
    return f"{lines}\n\n{_escaped(made.caption)}" if made.caption else lines


def _markdown_figure(figure: Figure, pictures: str | None) -> str:
    if pictures is None:
        return ""
    shown = f"![{_escaped(figure.alt)}]({pictures}/{_file(figure)})"
    return f"{shown}\n\n{_escaped(figure.caption)}" if figure.caption else shown


def _escaped(text: str) -> str:
    """Return text on one line that Markdown shows as it is, inside a table too."""
    marked = "".join("\\" + letter if letter in "\\`*_[]<>|$~#" else letter for letter in one_line(text))
    return marked.replace("&", "&amp;")
