"""Keywords inside an image file: its XMP packet, else its IPTC record."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from typing import IO

from PIL import Image, IptcImagePlugin, UnidentifiedImageError

from tagger import storage
from tagger.errors import ImageError
from tagger.images import xmp
from tagger.images.decode import known_formats

_KEYWORDS, _CHARSET = (2, 25), (1, 90)
"""IPTC data sets, as (record, number)."""
_UTF8 = b"\x1b%G"


def read(uri: str) -> xmp.Packet:
    """Return the keywords of an image file; of a local one only the header is read.

    Raises SourceError for a file or a packet that cannot be read, ImageError for a file that is not an image.
    """
    with _opened(uri) as file:
        try:
            with Image.open(file, formats=known_formats()) as image:
                packet, iptc = image.info.get("xmp"), IptcImagePlugin.getiptcinfo(image) or {}
        except UnidentifiedImageError as error:
            raise ImageError("unsupported", f"{uri}: not in a supported image format") from error
        except Exception as error:  # on damaged bytes Pillow raises exceptions of any type
            raise ImageError("corrupt", f"{uri}: cannot read the keywords ({error})") from error
    found = xmp.read(uri, packet.rstrip(b"\0")) if packet else xmp.Packet(uri, b"")
    if not found.keywords and (texts := iptc.get(_KEYWORDS)):
        charset = "utf-8" if iptc.get(_CHARSET) == _UTF8 else None
        found.keywords[xmp.SUBJECT] = [
            _text(each, charset) for each in ([texts] if isinstance(texts, bytes) else texts)
        ]
    return found


@contextlib.contextmanager
def _opened(uri: str) -> Iterator[IO[bytes]]:
    if storage.is_remote(uri) or "::" in uri:
        yield io.BytesIO(storage.read_bytes(uri))
    else:
        with storage.open_input(uri) as file:
            yield file


def _text(content: bytes, charset: str | None) -> str:
    """Decode an IPTC text; without a declared character set as UTF-8 if valid, else as Latin-1."""
    try:
        return content.decode("utf-8", "strict" if charset is None else "replace")
    except UnicodeDecodeError:
        return content.decode("latin-1")
