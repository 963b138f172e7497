"""Fetch images from URLs. A host name is resolved once, and only the checked addresses are connected to."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

import httpcore
import httpx

from tagger.serving.body import Held
from tagger.serving.errors import Refused

SECONDS = 15.0
"""Maximum time of a whole download, including redirects."""
MAX_URL = 4096
REDIRECTS = 3
MAX_PORT = 65_535
_RESOLVERS = ThreadPoolExecutor(64, "resolve")
"""Separate threads, so that a slow name server does not delay anything else."""
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
"""IPv6 addresses that a gateway maps to the IPv4 address in their last 32 bits."""
_REQUEST = {"Accept": "image/*, */*", "Accept-Encoding": "identity", "User-Agent": "tagger"}


def refused(message: str) -> Refused:
    """Return the error for a URL without an image."""
    return Refused(400, "BadRequestImageUrl", message)


class Fetcher:
    """A client that fetches images within limits, from the IP addresses that `permits` allows."""

    def __init__(self, max_bytes: int, permits: Callable[[str], bool], seconds: float = SECONDS) -> None:
        self._max_bytes, self._seconds = max_bytes, seconds
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=httpx.create_ssl_context(),
            network_backend=_CheckedBackend(permits),
            max_connections=None,  # slow hosts must not delay others; memory is limited by `Held`
            max_keepalive_connections=0,
        )

    async def fetch(self, url: str, held: Held) -> bytes:
        """Return the content of a URL; raises Refused."""
        try:
            async with asyncio.timeout(self._seconds):
                return await self._follow(url, held)
        except TimeoutError as error:
            raise refused(f"the URL returned no image within {self._seconds:g} seconds") from error
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException, OSError) as error:
            raise refused(f"the URL cannot be fetched ({type(error).__name__})") from error

    async def _follow(self, url: str, held: Held) -> bytes:
        for _ in range(REDIRECTS + 1):
            target = _parsed(url)
            request = httpcore.URL(
                scheme=target.raw_scheme, host=target.raw_host, port=target.port, target=target.raw_path
            )
            headers = {"Host": target.netloc.decode("ascii"), **_REQUEST}
            async with self._pool.stream("GET", request, headers=list(headers.items())) as response:
                location = httpx.Headers(response.headers).get("location")
                if response.status in (301, 302, 303, 307, 308) and location:
                    url = str(target.join(location))
                    continue
                if response.status != 200:
                    raise refused(f"the URL returned the status {response.status}")
                return await self._content(response, held)
        raise refused(f"the URL redirects more than {REDIRECTS} times")

    async def _content(self, response: httpcore.Response, held: Held) -> bytes:
        content = bytearray()
        async for piece in response.aiter_stream():
            content += piece
            held.add(len(piece))
            if len(content) > self._max_bytes:
                raise Refused(
                    400, "BadRequestImageSizeBytes", f"the image is larger than the limit of {self._max_bytes} bytes"
                )
        return bytes(content)


def _parsed(url: str) -> httpx.URL:
    if len(url) > MAX_URL:
        raise refused(f"the URL has {len(url)} characters; the limit is {MAX_URL}")
    try:
        target = httpx.URL(url.strip())
        host, port = target.host, target.port or 0  # a host that is not valid IDNA raises only here
    except (httpx.InvalidURL, ValueError) as error:
        raise refused("the URL is not valid") from error
    if port > MAX_PORT:
        raise refused(f"the port of the URL must be at most {MAX_PORT}, got {port}")
    if target.scheme not in ("http", "https") or not host:
        raise refused("expected a URL that begins with http:// or https://")
    return target


class _CheckedBackend(httpcore.AsyncNetworkBackend):
    """Network backend that resolves a name once, checks its addresses, and connects only to those."""

    def __init__(self, permits: Callable[[str], bool]) -> None:
        self._permits = permits
        self._backend = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect to the first address that accepts; raises Refused unless all addresses are permitted."""
        addresses = await _resolve(host, port)
        if not all(map(self._permits, addresses)):
            raise refused("the URL leads to a private or local address; --allow-private-urls permits it")
        for address in addresses:
            try:
                return await self._backend.connect_tcp(address, port, timeout, local_address, socket_options)
            except httpcore.ConnectError as error:
                failure = error
        raise failure


async def _resolve(host: str, port: int) -> list[str]:
    try:
        found = await asyncio.get_running_loop().run_in_executor(
            _RESOLVERS, lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        )
    except (OSError, UnicodeError) as error:
        raise refused("the host of the URL cannot be resolved") from error
    return list(dict.fromkeys(str(each[4][0]) for each in found))


def anywhere(address: str) -> bool:
    """Permit every address."""
    return True


def is_public(address: str) -> bool:
    """Return whether an IP address, and any IPv4 address embedded in it, is on the public internet."""
    parsed = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(parsed, ipaddress.IPv6Address):
        inside = parsed.ipv4_mapped or parsed.sixtofour
        if parsed in _NAT64:
            inside = ipaddress.IPv4Address(int(parsed) & 0xFFFFFFFF)
        if inside is not None:
            return is_public(str(inside))
        if parsed.is_site_local:
            return False
    return parsed.is_global and not (parsed.is_multicast or parsed.is_reserved)
