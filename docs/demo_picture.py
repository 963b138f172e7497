"""Draw a results table of a few images as an SVG: the picture of the README.

python -m docs.demo_picture .demo/results docs/demo.svg
"""

from __future__ import annotations

import base64
import html
import io
import sys
from pathlib import Path
from typing import Any

from PIL import Image, ImageFile

import tagger

WIDTH, ROW, THUMBNAIL = 760, 56, (72, 48)
STYLE = "text{font:14px system-ui,sans-serif;fill:#1f2328}.dim{fill:#59636e}.bad{fill:#b35900}"


def main() -> None:
    """Read the table, write the picture."""
    ImageFile.LOAD_TRUNCATED_IMAGES = True
    results, out = sys.argv[1:]
    rows = tagger.read_results(results).to_dict("records")
    drawn = "\n".join(draw(row, ROW * place) for place, row in enumerate(rows))  # type: ignore[arg-type]
    size = f'width="{WIDTH}" height="{ROW * len(rows)}" viewBox="0 0 {WIDTH} {ROW * len(rows)}"'
    background = '<rect width="100%" height="100%" fill="#fff"/>'
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" {size}><style>{STYLE}</style>{background}\n{drawn}\n</svg>\n'
    Path(out).write_text(svg, encoding="utf-8")


def draw(row: dict[str, Any], top: int) -> str:
    """Return one image's row: thumbnail, file name, status, and its best tags with bars."""
    name, middle = row["uri"].rpartition("/")[2], top + ROW // 2 + 5
    parts = [thumbnail(row["uri"], top), text(96, middle, name), text(270, middle, row["status"], status_style(row))]
    if row["candidates"] is None:
        parts.append(text(370, middle, row["error"], "dim"))
        return "".join(parts)
    for place, pair in enumerate(row["candidates"][:3]):
        y = top + 17 + 16 * place
        parts.append(f'<rect x="370" y="{y - 9}" width="{120 * pair["score"]:.1f}" height="8" rx="2" fill="#4493f8"/>')
        parts.append(text(500, y, f"{pair['score']:.2f}", "dim") + text(540, y, pair["tag"]))
    return "".join(parts)


def status_style(row: dict[str, Any]) -> str:
    """Return the style of a status."""
    return "dim" if row["status"] == "ok" else "bad"


def text(x: int, y: int, content: str, style: str = "") -> str:
    """Return a line of text."""
    return f'<text x="{x}" y="{y}" class="{style}">{html.escape(content)}</text>'


def thumbnail(path: str, top: int) -> str:
    """Return the image, small and embedded; a grey box for a file that is none."""
    width, height = THUMBNAIL
    place = f'x="8" y="{top + 4}" width="{width}" height="{height}"'
    try:
        with Image.open(path) as image:
            image.draft("RGB", (4 * width, 4 * height))
            small = image.convert("RGB")
    except OSError:  # not an image
        return f'<rect {place} fill="#d1d9e0"/>'
    small.thumbnail((2 * width, 2 * height))
    stream = io.BytesIO()
    small.save(stream, "JPEG", quality=75)
    return f'<image {place} href="data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}"/>'


if __name__ == "__main__":
    main()
