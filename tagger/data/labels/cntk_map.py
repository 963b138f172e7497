r"""CNTK map file: `path<tab>id` or `sequence<tab>path<tab>id`; a path may be a member of a zip, `x.zip@/inner/a.jpg`.

A leading `...` is the map file's own folder. CNTK splits `x.zip@\inner\a.jpg` at the first `@`, skips one character and
turns `\` into `/`; so does this reader. Class names come from a file with one name per line.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator

from tagger import storage
from tagger.data.labels import text
from tagger.data.labels.record import Format, LabelFile, Notes, Options, Record, names_of
from tagger.errors import UsageError


def matches(file: LabelFile) -> bool:
    """Return whether all lines have two or three tab-separated fields, the last a number."""
    return bool(file.lines) and all(map(_fields, file.lines))


def read(file: LabelFile, options: Options, notes: Notes) -> Iterator[Record]:
    """Yield a record per line; raises UsageError without the names of the classes."""
    if not options.names:
        raise UsageError(
            f"{file.uri}: a CNTK map file has class ids only; add --label-names FILE with one name per line"
        )
    with text.open_text(file.uri, file.encoding) as lines:
        for line in filter(str.strip, lines):
            if not (fields := _fields(line)):
                notes.add("lines that are not path, tab, class id", line.strip()[:80])
                continue
            labels = names_of(fields[-1:], options.names, notes)
            if (path := _path(fields[-2], file.folder, notes)) is not None:
                yield Record(path, labels or None)


def _fields(line: str) -> list[str]:
    fields = [field.strip() for field in line.strip("\r\n").split("\t")]
    is_map = len(fields) in (2, 3) and fields[-1].isdecimal() and not fields[-2].isdecimal()
    return fields if is_map else []


def _path(written: str, folder: str, notes: Notes) -> str | None:
    """Return a file, or a zip member as `zip://inner::/abs/x.zip`; None if the member is outside its archive."""
    if written.startswith("..."):
        written = folder + "/" + written[3:].replace("\\", "/").lstrip("/")
    container, at, member = written.partition("@")
    if not (at and container.lower().endswith(".zip")):
        return written
    inner = posixpath.normpath(member[1:].replace("\\", "/"))
    if inner.startswith(("/", "..")) or inner == ".":
        notes.add("zip members outside their archive", written)
        return None
    archive = container.replace("\\", "/")
    return f"zip://{inner}::{archive if storage.is_remote(archive) else storage.absolute(archive)}"


FORMAT = Format("cntk-map", "path, tab, class id (with --label-names)", matches, read, "text")
