"""Streaming JSON parser, so that a COCO file of a gigabyte need not fit into memory."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TextIO

from tagger.data.labels import text
from tagger.errors import TableError

_CHUNK = 1 << 20


def events(uri: str, encoding: str | None = None) -> Iterator[tuple[str, object]]:
    """Yield (key, element): elements of a top-level array under "", those of an object's arrays under their key.

    An object inside the top-level object comes as (key, (name, value)) pairs, anything else as (key, value). Raises
    TableError when the document is broken.
    """
    with text.open_text(uri, encoding) as file:
        reader = _Reader(file, uri)
        if reader.peek() == "[":
            yield from (("", reader.value()) for _ in reader.items("[]"))
            return
        for key in reader.names():
            if reader.peek() == "[":
                yield from ((key, reader.value()) for _ in reader.items("[]"))
            elif reader.peek() == "{":
                yield from ((key, (name, reader.value())) for name in reader.names())
            else:
                yield key, reader.value()


class _Reader:
    """A sliding window on the text that advances value by value."""

    def __init__(self, file: TextIO, uri: str) -> None:
        self.file, self.uri = file, uri
        self.text, self.at, self.ended = "", 0, False
        self.decode = json.JSONDecoder().raw_decode

    def more(self) -> None:
        """Read more text, at least doubling the unparsed part."""
        chunk = self.file.read(max(_CHUNK, len(self.text) - self.at))
        self.text, self.at, self.ended = self.text[self.at :] + chunk, 0, not chunk

    def peek(self) -> str:
        """Return the next non-blank character; "" at the end."""
        while True:
            while self.at < len(self.text) and self.text[self.at] in text.BLANK:
                self.at += 1
            if self.at < len(self.text) or self.ended:
                return self.text[self.at : self.at + 1]
            self.more()

    def value(self) -> object:
        """Return the next value."""
        self.peek()
        while True:
            try:
                value, end = self.decode(self.text, self.at)
                if end < len(self.text) or self.ended:  # a number at the end of the window may continue
                    self.at = end
                    return value
            except (ValueError, RecursionError) as error:
                if self.ended or isinstance(error, RecursionError):
                    raise self.broken(str(error)) from error
            self.more()

    def names(self) -> Iterator[str]:
        """Yield the keys of the next object; the caller must read each value."""
        for _ in self.items("{}"):
            key = self.value()
            self.take(":")
            yield str(key)

    def items(self, brackets: str) -> Iterator[None]:
        """Yield at every item of the next array or object; the caller must read the item."""
        self.take(brackets[0])
        if self.peek() == brackets[1]:
            self.take(brackets[1])
            return
        yield
        while self.take("," + brackets[1]) == ",":
            yield

    def take(self, expected: str) -> str:
        """Consume one of the expected characters and return it."""
        found = self.peek()
        if not found or found not in expected:
            raise self.broken(f"expected one of {expected} but found {found or 'the end'}")
        self.at += 1
        return found

    def broken(self, why: str) -> TableError:
        """Return an error with the position at which parsing failed."""
        near = self.text[max(0, self.at - 40) : self.at + 20]
        return TableError(f"{self.uri}: not valid JSON ({why}), near {near!r}")
