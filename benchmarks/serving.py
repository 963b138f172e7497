"""Throughput and latency of `tagger serve`, and throughput of `tagger tag` on the same photographs and cores.

    python -m benchmarks.serving PHOTOS [MODEL] [--seconds 30] [--clients 1 8 32]
    python -m benchmarks.serving PHOTOS [MODEL] --requests 100000

Clients are threads of this process, each with one connection that stays open; they post files that are in memory. They
share the cores with the server, and take about 0.15 ms per request. Prints a Markdown table; the last row is `tagger
tag` after start-up. With `--requests N`, the memory of the server is printed instead, after every tenth of N requests
with thumbnails.
"""

from __future__ import annotations

import argparse
import io
import json
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import cycle, islice
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

import numpy as np
from PIL import Image

from benchmarks import machine

COMMAND = [sys.executable, "-m", "tagger.cli"]
HEAD = (
    "POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/octet-stream\r\nContent-Length: {}\r\n\r\n"
)
WARM_UP = 5.0
"""Seconds of requests that are not counted."""


@contextmanager
def server(model: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Start a server on a free port; yield its address."""
    command = [*COMMAND, "serve", model, "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        yield urlsplit(process.stdout.readline().split()[-1]).netloc, process
        process.terminate()


def client(address: str, contents: list[bytes], first: int, until: float) -> list[float]:
    """Post images one after the other until a time; return the seconds of each.

    Speaks HTTP by hand: http.client would take a good part of the cores that it shares with the server.
    """
    host, _, port = address.rpartition(":")
    seconds = []
    with socket.create_connection((host, int(port)), timeout=60) as connection, connection.makefile("rb") as answers:
        for content in islice(cycle(contents), first, None):
            started = time.perf_counter()
            if started > until:
                break
            connection.sendall(HEAD.format(len(content)).encode() + content)
            receive(answers)
            seconds.append(time.perf_counter() - started)
    return seconds


def receive(answers: BinaryIO) -> None:
    """Receive a whole response; its status must be 200."""
    status, length = answers.readline(), 0
    assert status.startswith(b"HTTP/1.1 200"), status
    while (line := answers.readline()) not in (b"\r\n", b""):
        name, _, value = line.partition(b":")
        length = int(value) if name.lower() == b"content-length" else length
    answers.read(length)


def load(address: str, contents: list[bytes], clients: int, seconds: float) -> list[float]:
    """Run a number of clients for some seconds; return the seconds of every request."""
    until = time.perf_counter() + seconds
    with ThreadPoolExecutor(clients) as pool:
        runs = [pool.submit(client, address, contents, 17 * number, until) for number in range(clients)]
        return [each for run in runs for each in run.result()]


def row(clients: int, seconds: list[float], duration: float) -> str:
    """Return the table's row for one number of clients."""
    p50, p99 = np.percentile(seconds, [50, 99]) * 1000
    return f"| {clients} | {len(seconds) / duration:,.1f} | {p50:.1f} | {p99:.1f} |"


def resident(process: subprocess.Popen[str]) -> float:
    """Return the resident memory of a process in MB (Linux)."""
    facts = Path(f"/proc/{process.pid}/status").read_text().split()
    return int(facts[facts.index("VmRSS:") + 1]) / 1024


def memory(model: str, contents: list[bytes], requests: int, clients: int) -> None:
    """Send a number of requests, and print the server's resident memory after every tenth of them."""
    thumbnails = [shrunk(content) for content in contents]
    print("| requests | resident MB |\n|--:|--:|")
    with server(model) as (address, process):
        done = 0
        while done < requests:
            until = done + requests // 10
            while done < until:
                done += len(load(address, thumbnails, clients, 1.0))
            print(f"| {done:,} | {resident(process):,.0f} |", flush=True)


def shrunk(content: bytes) -> bytes:
    """Return a photograph as a thumbnail."""
    sink = io.BytesIO()
    with Image.open(io.BytesIO(content)) as image:
        image.convert("RGB").resize((64, 48)).save(sink, "JPEG")
    return sink.getvalue()


def tag_rate(photos: str, model: str) -> float:
    """Return the images/s of `tagger tag` on the photographs, after start-up."""
    with tempfile.TemporaryDirectory() as out:
        ran = subprocess.run(
            [*COMMAND, "tag", photos, "--model", model, "--out", out, "--json"], capture_output=True, text=True
        )
    assert ran.returncode == 0, ran.stderr
    return float(json.loads(ran.stdout)["images_per_second"])


def main() -> None:
    """Parse the arguments, measure, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos")
    parser.add_argument("model", nargs="?", default="checkpoints/cifar10-speedrun")
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--requests", type=int)
    options = parser.parse_args()
    contents = [path.read_bytes() for path in sorted(Path(options.photos).rglob("*.*"))]
    print(f"{len(contents)} photographs, {options.model}, {machine.describe()}\n")
    if options.requests:
        memory(options.model, contents, options.requests, min(options.clients))
        return
    print("| clients | images/s | p50 ms | p99 ms |\n|--:|--:|--:|--:|")
    with server(options.model) as (address, process):
        load(address, contents, max(options.clients), WARM_UP)
        before = resident(process)
        for clients in options.clients:
            print(row(clients, load(address, contents, clients, options.seconds), options.seconds), flush=True)
        after = resident(process)
    print(f"| `tagger tag` | {tag_rate(options.photos, options.model):,.1f} | | |")
    print(f"\nmemory of the server: {before:,.0f} MB after warming up, {after:,.0f} MB at the end")


if __name__ == "__main__":
    main()
