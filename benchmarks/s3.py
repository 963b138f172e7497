"""S3 on loopback: moto's server, and a proxy in front of it that delays requests and fails some of them."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

KEYS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}
SLOW_DOWN = b"HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


@contextlib.contextmanager
def server() -> Iterator[int]:
    """Start moto's S3 server; yield its port."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with running(command, port):
        yield port


@contextlib.contextmanager
def proxy(target: int, latency: float = 0, failing: float = 0, port: int | None = None) -> Iterator[int]:
    """Start a proxy in front of a server; yield its port. `latency` is in milliseconds, `failing` from 0 to 1."""
    port = port or free_port()
    options = [str(port), str(target), "--latency", str(latency), "--failing", str(failing)]
    with running([sys.executable, "-m", "benchmarks.s3", *options], port):
        yield port


def environment(port: int) -> dict[str, str]:
    """Return the environment variables with which S3 clients use a server."""
    return {**KEYS, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}


@contextlib.contextmanager
def running(command: list[str], port: int) -> Iterator[None]:
    """Run a server during the `with` block, which begins once the server accepts connections."""
    quiet = subprocess.DEVNULL
    with subprocess.Popen(command, stdout=quiet, stderr=quiet) as process:
        try:
            _wait_for(port)
            yield
        finally:
            process.kill()


def free_port() -> int:
    """Return a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for(port: int) -> None:
    for _ in range(300):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise SystemExit(f"no server on port {port}")


async def serve(port: int, target: int, latency: float, failing: float) -> None:
    """Forward requests after `latency` seconds; failing ones get a 503, no response, or half of one."""
    rng = random.Random(0)

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError), contextlib.closing(writer):
            while True:
                request = await _request(reader, writer)
                fault = rng.choice(("refused", "cut off", "unanswered")) if rng.random() < failing else None
                await asyncio.sleep(latency)
                if fault == "cut off":
                    return
                answer = SLOW_DOWN if fault == "refused" else await _ask(target, request)
                writer.write(answer[: len(answer) // 2] if fault == "unanswered" else answer)
                await writer.drain()
                if fault:
                    return

    async with await asyncio.start_server(talk, "127.0.0.1", port) as started:
        await started.serve_forever()


async def _request(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    headers = _headers(head)
    if b"expect" in headers:
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    body = await reader.readexactly(int(headers.get(b"content-length", 0)))
    lines = [line for line in head.split(b"\r\n") if not line.lower().startswith((b"expect:", b"connection:"))]
    return b"\r\n".join([lines[0], b"Connection: close", *lines[1:]]) + body


async def _ask(target: int, request: bytes) -> bytes:
    """Send a request to the server; return its whole response, with headers for a connection that stays open."""
    reader, writer = await asyncio.open_connection("127.0.0.1", target)
    with contextlib.closing(writer):
        writer.write(request)
        answer = await reader.read()
    head, end, body = answer.partition(b"\r\n\r\n")
    lines = [line for line in head.split(b"\r\n") if not line.lower().startswith(b"connection:")]
    if not {b"content-length", b"transfer-encoding"} & {*_headers(head)}:
        lines.append(b"Content-Length: %d" % len(body))
    return b"\r\n".join(lines).replace(b"HTTP/1.0", b"HTTP/1.1", 1) + end + body


def _headers(head: bytes) -> dict[bytes, bytes]:
    fields = (line.split(b":", 1) for line in head.split(b"\r\n")[1:] if b":" in line)
    return {name.lower(): value.strip() for name, value in fields}


def main() -> None:
    """Parse the arguments and serve."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("port", type=int)
    parser.add_argument("target", type=int)
    parser.add_argument("--latency", type=float, default=0, help="milliseconds")
    parser.add_argument("--failing", type=float, default=0, help="share of the requests")
    arguments = parser.parse_args()
    asyncio.run(serve(arguments.port, arguments.target, arguments.latency / 1000, arguments.failing))


if __name__ == "__main__":
    main()
