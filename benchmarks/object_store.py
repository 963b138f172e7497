"""Tagging from an object store against tagging from the local disk, alternated.

    python -m benchmarks.object_store PHOTOS [MODEL] [--copies 4] [--rounds 3] [--latency 50]

The store is a small S3 server on loopback that responds to every request after `--latency` milliseconds; it runs on the
same cores as tagger. Prints a Markdown table of images/s after start-up.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit
from xml.sax.saxutils import escape

from benchmarks import machine, s3

PORT = 9555
BUCKET = "photos"


@contextlib.contextmanager
def started(folder: Path, latency: float) -> Iterator[None]:
    """Serve a folder in a separate process; `latency` is in milliseconds."""
    command = [sys.executable, "-m", "benchmarks.object_store", str(folder), "--serve", "--latency", str(latency)]
    with s3.running(command, PORT):
        yield


async def serve(folder: Path, latency: float) -> None:
    """Respond to GET, HEAD and ListObjectsV2 for the files of a folder, after `latency` seconds."""
    server = await asyncio.start_server(lambda r, w: _talk(r, w, folder, latency), "127.0.0.1", PORT)
    async with server:
        await server.serve_forever()


async def _talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, folder: Path, latency: float) -> None:
    while head := await _head(reader):
        method, target, _ = head.split(b"\r\n", 1)[0].decode().split(" ", 2)
        await asyncio.sleep(latency)
        key = unquote(urlsplit(target).path).removeprefix(f"/{BUCKET}").lstrip("/")
        body = _object(folder, key) if key else _listing(folder)
        status = "404 Not Found" if body is None else "200 OK"
        content = body or b""
        writer.write(
            f'HTTP/1.1 {status}\r\nContent-Length: {len(content)}\r\nETag: "{len(content)}"\r\n'
            "Last-Modified: Tue, 01 Sep 2026 00:00:00 GMT\r\n\r\n".encode()
        )
        if method != "HEAD":
            writer.write(content)
        await writer.drain()
    writer.close()


async def _head(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, ConnectionError):
        return b""


def _object(folder: Path, key: str) -> bytes | None:
    path = folder / key
    return path.read_bytes() if path.is_file() else None


def _listing(folder: Path) -> bytes:
    entries = "".join(
        f"<Contents><Key>{escape(str(path.relative_to(folder)))}</Key><Size>{path.stat().st_size}</Size>"
        f"<LastModified>2026-09-01T00:00:00.000Z</LastModified><ETag>&quot;{path.stat().st_size}&quot;</ETag></Contents>"
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    )
    head = '<?xml version="1.0" encoding="UTF-8"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
    return f"{head}<Name>{BUCKET}</Name><IsTruncated>false</IsTruncated>{entries}</ListBucketResult>".encode()


def main() -> None:
    """Parse the arguments, measure, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("model", nargs="?", default="checkpoints/cifar10-speedrun")
    parser.add_argument("--copies", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--latency", type=float, default=50, help="milliseconds")
    parser.add_argument("--serve", action="store_true", help="only run the server")
    arguments = parser.parse_args()
    if arguments.serve:
        asyncio.run(serve(arguments.photos, arguments.latency / 1000))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "photos"
        folder.mkdir()
        for index in range(arguments.copies):
            for path in arguments.photos.iterdir():
                os.link(path, folder / f"{index}-{path.name}")
        with started(folder, arguments.latency):
            rates = measure(folder, arguments.model, Path(name), arguments.rounds)
    local = statistics.median(rates["local disk"])
    print(f"{machine.describe()}, medians of {arguments.rounds}, {arguments.latency:g} ms\n")
    print("| source | images/s after start-up | of local |\n|---|--:|--:|")
    for source, each in rates.items():
        print(f"| {source} | {statistics.median(each):.1f} | {statistics.median(each) / local:.0%} |")


def measure(folder: Path, model: str, work: Path, rounds: int) -> dict[str, list[float]]:
    """Tag the folder from disk and from the store in turn; return images/s after start-up."""
    sources = {"local disk": str(folder), "object store": f"s3://{BUCKET}/"}
    rates: dict[str, list[float]] = {name: [] for name in sources}
    for number in range(rounds):
        for name, source in sources.items():
            rates[name].append(_rate(source, model, work / f"out-{name.split()[0]}-{number}"))
            print(f"round {number + 1}: {name} {rates[name][-1]:.1f} images/s", file=sys.stderr)
    return rates


def _rate(source: str, model: str, out: Path) -> float:
    command = [sys.executable, "-m", "tagger.cli", "tag", source, "--model", model, "--out", str(out), "--json"]
    ran = subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ | s3.environment(PORT))
    summary = json.loads(ran.stdout)
    return float(summary["steady_images_per_second"] or summary["images_per_second"])


if __name__ == "__main__":
    main()
