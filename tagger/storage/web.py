"""Read files over HTTP, with a limit on what a server may send."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tagger.errors import SourceError, SourceTooLarge

if TYPE_CHECKING:
    from fsspec.implementations.http import HTTPFileSystem

MAX_BYTES = 1 << 28
"""Maximum size of a decompressed body, which a server need not declare in advance."""
MAX_REDIRECTS = 5


async def read(fs: HTTPFileSystem, url: str) -> bytes:
    """Return the body of a URL; raises SourceTooLarge, or SourceError for a bad redirect."""
    from aiohttp import InvalidURL, NonHttpUrlClientError, TooManyRedirects

    session = await fs.set_session()
    content = bytearray()
    try:
        async with session.get(fs.encode_url(url), max_redirects=MAX_REDIRECTS, **fs.kwargs) as response:
            fs._raise_not_found_for_status(response, url)
            async for chunk in response.content.iter_chunked(1 << 18):
                content += chunk
                if len(content) > MAX_BYTES:
                    raise SourceTooLarge(f"{url}: is larger than {MAX_BYTES >> 20} MB")
    except TooManyRedirects as error:
        raise SourceError(f"{url}: redirects more than {MAX_REDIRECTS} times") from error
    except (InvalidURL, NonHttpUrlClientError) as error:  # of the file, or of a redirect
        raise SourceError(f"{url}: {error} is not a valid http(s) URL") from error
    return bytes(content)
