"""Text files in UTF-8 (with or without byte-order mark), UTF-16, or else Latin-1."""

from __future__ import annotations

import codecs
import contextlib
import csv
import io
import re
from collections.abc import Iterable, Iterator
from typing import TextIO

from tagger import storage
from tagger.errors import TableError

BLANK = "\ufeff \t\r\n"
"""Insignificant characters around the content of a file."""
_CHUNK = 1 << 20
_SEP = re.compile(r'\ufeff?"?sep=([,;|\t])"?[\r\n]*', re.IGNORECASE)


def encoding_of(uri: str) -> str:
    """Return the encoding that decodes the whole file, which is read once in chunks."""
    with storage.open_input(uri) as file:
        head = file.read(2)
        if head in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
            return "utf-16"
        if b"\0" in head:  # UTF-16 without its mark: every other byte of plain letters is zero
            return "utf-16-be" if head[:1] == b"\0" else "utf-16-le"
        file.seek(0)
        try:
            for _ in codecs.iterdecode(iter(lambda: file.read(_CHUNK), b""), "utf-8-sig"):
                pass
        except UnicodeDecodeError:
            return "latin-1"
    return "utf-8-sig"


@contextlib.contextmanager
def open_text(uri: str, encoding: str | None = None) -> Iterator[TextIO]:
    """Open a text for streaming, preserving line ends; without `encoding`, it is detected."""
    with storage.open_input(uri) as file:
        # a UTF-16 file may be cut in the middle of a character
        yield io.TextIOWrapper(file, encoding=encoding or encoding_of(uri), errors="replace", newline="")


def lines(uri: str, encoding: str | None = None) -> Iterator[str]:
    """Yield the non-blank lines of a text, stripped."""
    with open_text(uri, encoding) as file:
        yield from filter(None, (line.strip(BLANK) for line in file))


def csv_rows(lines: Iterable[str], delimiter: str, uri: str, whole: bool = True) -> Iterator[list[str]]:
    """Yield the non-empty rows of a CSV; raises TableError with the line number if the quoting is broken.

    Without `whole`, the lines are the start of a file, which may end inside a quote.
    """
    quotes = 0

    def counted() -> Iterator[str]:
        nonlocal quotes
        for number, line in enumerate(lines):
            shown = "\n" if number == 0 and named_delimiter(line) else line
            quotes += shown.count('"')
            yield shown

    reader = csv.reader(counted(), delimiter=delimiter, skipinitialspace=True)
    while True:
        before, quotes = reader.line_num, 0
        try:
            row = next(reader, None)
        except csv.Error as error:
            raise TableError(f"{uri}: line {reader.line_num} is not CSV ({error})") from error
        if row is None:
            return
        if whole and reader.line_num - before > 1 and quotes % 2:  # the quoted cell contains the following rows
            raise TableError(f"{uri}: line {before + 1} opens a quote that is not closed")
        if any(cell.strip() for cell in row):
            yield row


def named_delimiter(line: str) -> str:
    """Return the separator that the first line of a CSV for Excel names, as in `sep=;`; empty for any other line."""
    match = _SEP.fullmatch(line)
    return match[1] if match else ""


def delimiter_of(line: str) -> str:
    """Return the separator of the columns of a header line: comma, tab, semicolon or bar."""
    bare = "".join(line.split('"')[::2])
    return max(",\t;|", key=bare.count)
