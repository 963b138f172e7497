"""Images far more expensive than their file size: time and memory of `tagger tag` for each alone, and all together.

    python -m benchmarks.hostile [MODEL]

Each image has at most 100 megapixels, so `--max-pixels` does not exclude it. Prints a Markdown table.
"""

from __future__ import annotations

import io
import json
import shutil
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from PIL import Image

from benchmarks import machine

SIDE = 9900
GREY, RGB, PALETTE, RGBA = 0, 2, 3, 6
"""Colour types of PNG."""
LIMIT = 600
"""Maximum seconds of one run."""


def main() -> None:
    """Create the images, tag each alone and all together, print the table."""
    model = sys.argv[1] if len(sys.argv) > 1 else "imagenet"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        print(machine.describe(), "\n")
        print("| image | bytes | seconds | GB | row |\n|---|--:|--:|--:|---|")
        every = folder / "every"
        every.mkdir()
        for file, content in images():
            alone = folder / "alone"
            alone.mkdir()
            (alone / file).write_bytes(content)
            (every / file).write_bytes(content)
            print(line(file, alone, model), flush=True)
            shutil.rmtree(alone)
        print(line("all together", every, model))


def line(name: str, source: Path, model: str) -> str:
    """Tag a folder in a separate process; return its row of the table."""
    out = source.parent / "out"
    command = [sys.executable, "-m", "tagger.cli", "tag", str(source), "--model", model, "--out", str(out), "--json"]
    started = time.perf_counter()
    ran = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT)
    seconds = time.perf_counter() - started
    summary = json.loads(ran.stdout)
    statuses = {"ok": summary["tagged"], **summary["failed"]}
    shutil.rmtree(out)
    size = sum(path.stat().st_size for path in source.iterdir())
    words = ", ".join(f"{count} {status}" if count > 1 else status for status, count in statuses.items() if count)
    return f"| {name} | {size:,} | {seconds:.1f} | {summary['peak_memory'] / 1e9:.2f} | {words} |"


def images() -> Iterator[tuple[str, bytes]]:
    """Yield name and content of each image."""
    yield "16-bit RGBA.png", png(SIDE, SIDE, 16, RGBA)
    yield "16-bit RGB.png", png(SIDE, SIDE, 16, RGB)
    yield "16-bit grey.png", png(SIDE, SIDE, 16, GREY)
    yield "RGBA.png", png(SIDE, SIDE, 8, RGBA)
    yield "1 bit.png", png(SIDE, SIDE, 1, GREY)
    yield "1 pixel wide.png", png(1, 99_000_000, 8, RGB)
    yield "1 pixel high.png", png(99_000_000, 1, 8, RGB)
    yield "palette.gif", saved("GIF", "P")
    yield "RGB.tiff", saved("TIFF", "RGB", compression="tiff_deflate")
    yield "RGB.jp2", saved("JPEG2000", "RGB")
    yield "RGBA.webp", saved("WEBP", "RGBA")
    yield "progressive.jpg", saved("JPEG", "RGB", progressive=True)
    yield "5,000 scans.jpg", scans()
    yield "65,535 icons.ico", b"\0\0\1\0\xff\xff" + b"\x10\x10\0\0\1\0\x20\0\0\0\0\1\0\0\0\0" * 65535


def png(width: int, height: int, depth: int, colour: int) -> bytes:
    """Return a black PNG."""
    channels = {GREY: 1, RGB: 3, PALETTE: 1, RGBA: 4}[colour]
    deflate = zlib.compressobj(9)
    row = bytes(1 + (width * channels * depth + 7) // 8)
    lines = 1 + (1 << 20) // len(row)
    packed = [deflate.compress(row * min(lines, height - y)) for y in range(0, height, lines)]

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    pixels = b"".join([*packed, deflate.flush()])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def saved(format: str, mode: str, **options: object) -> bytes:
    """Return an image of 98 megapixels, written by Pillow."""
    sink = io.BytesIO()
    save: Callable[..., None] = Image.new(mode, (SIDE, SIDE)).save
    save(sink, format, **options)
    return sink.getvalue()


def scans() -> bytes:
    """Return a progressive JPEG whose last scan is repeated 5,000 times."""
    sink = io.BytesIO()
    Image.new("RGB", (1000, 1000)).save(sink, "JPEG", progressive=True)
    data = sink.getvalue()
    return data[:-2] + data[data.rindex(b"\xff\xda") : -2] * 5000 + b"\xff\xd9"


if __name__ == "__main__":
    main()
