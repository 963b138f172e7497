"""JSON documents piece by piece: a COCO file of a gigabyte never stands in memory whole."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, TextIO

from tagger.errors import TableError

_CHUNK = 1 << 20


def events(file: TextIO, uri: str) -> Iterator[tuple[str, Any]]:
    """Yield (key, element): elements of a top-level array under "", those of an object's arrays under their key.

    An object inside the top-level object comes as (key, (name, value)) pairs, anything else as (key, value). Raises
    TableError when the document is broken.
    """
    reader = _Reader(file, uri)
    if reader.peek() == "[":
        yield from (("", element) for element in reader.elements())
        return
    for key in reader.names():
        if reader.peek() == "[":
            yield from ((key, element) for element in reader.elements())
        elif reader.peek() == "{":
            yield from ((key, (name, reader.value())) for name in reader.names())
        else:
            yield key, reader.value()


class _Reader:
    """A window on the text that moves on value by value."""

    def __init__(self, file: TextIO, uri: str) -> None:
        self.file, self.uri = file, uri
        self.text, self.at, self.ended = "", 0, False
        self.decode = json.JSONDecoder().raw_decode

    def more(self) -> None:
        """Read on, at least doubling what is not yet used up."""
        chunk = self.file.read(max(_CHUNK, len(self.text) - self.at))
        self.text, self.at, self.ended = self.text[self.at :] + chunk, 0, not chunk

    def peek(self) -> str:
        """Return the next character that is not space, "" at the end."""
        while True:
            while self.at < len(self.text) and self.text[self.at] in " \t\r\n\ufeff":
                self.at += 1
            if self.at < len(self.text) or self.ended:
                return self.text[self.at : self.at + 1]
            self.more()

    def value(self) -> Any:
        """Return the next value."""
        self.peek()
        while True:
            try:
                value, end = self.decode(self.text, self.at)
                if end < len(self.text) or self.ended:  # a number at the edge may go on
                    self.at = end
                    return value
            except (ValueError, RecursionError) as error:
                if self.ended or isinstance(error, RecursionError):
                    raise self.broken(str(error)) from error
            self.more()

    def elements(self) -> Iterator[Any]:
        """Yield the elements of the array that comes next."""
        for _ in self._items("[", "]"):
            yield self.value()

    def names(self) -> Iterator[str]:
        """Yield the keys of the object that comes next; the caller takes each value."""
        for _ in self._items("{", "}"):
            key = self.value()
            self.take(":")
            yield str(key)

    def _items(self, opening: str, closing: str) -> Iterator[None]:
        self.take(opening)
        if self.peek() == closing:
            self.take(closing)
            return
        while True:
            yield
            if self.take("," + closing) == closing:
                return

    def take(self, expected: str) -> str:
        """Pass over one of the expected characters and return it."""
        found = self.peek()
        if not found or found not in expected:
            raise self.broken(f"expected one of {expected} but found {found or 'the end'}")
        self.at += 1
        return found

    def broken(self, why: str) -> TableError:
        """Return the error that says where the document breaks off."""
        near = self.text[max(0, self.at - 40) : self.at + 20]
        return TableError(f"{self.uri}: not valid JSON ({why}), near {near!r}")
