"""Source -> manifest: one row per discovered file."""

from __future__ import annotations

import io
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tagger import schema, storage
from tagger.data.labels import text
from tagger.errors import SourceError, TableError

URL_COLUMNS = ("uri", "url", "image_url", "path", "filepath", "file_path", "file", "file_name", "filename", "image")
"""Possible names of the file column of a list; the first that exists is used."""

_LIST_SUFFIXES = (".txt", ".csv", ".tsv", ".parquet")
_CHUNK = 10_000
_DESCRIBERS = 64
"""Files described concurrently, so that unresponsive servers delay a list of hundreds by less than a minute."""
_FIRST_LINES = 100


@dataclass(frozen=True)
class Manifest:
    """The files of a source, and the number of entries that were skipped."""

    table: pa.Table
    skipped: Counter[str] = field(default_factory=Counter)
    """Reason -> count: not an image, hidden, listed twice, ..."""

    def __len__(self) -> int:
        return len(self.table)

    def text(self) -> str:
        """Return the number of files found and skipped, on one line."""
        return found_text(len(self.table), self.skipped)


def found_text(found: int, skipped: Mapping[str, int]) -> str:
    """Return the number of files found, and of those skipped by reason."""
    rest = f"; skipped {counts_text(skipped)}" if skipped else ""
    return f"{found:,} image file{'s' * (found != 1)} found{rest}"


def counts_text(counts: Mapping[str, int]) -> str:
    """Return `1,200 new, 3 changed file`."""
    return ", ".join(f"{count:,} {name}" for name, count in counts.items())


def read_source(source: str, on_found: Callable[[int], None] = lambda found: None) -> Manifest:
    """List a source: a folder, a file, a glob, an fsspec URL, a .txt/.csv/.parquet list of URLs, or a manifest.

    `on_found` is called with the number of files so far. Raises SourceError, TableError or UsageError.
    """
    suffix = list_suffix(source)
    if suffix == ".parquet":
        return _read_parquet(source, on_found)
    skipped: Counter[str] = Counter()
    listed = suffix and _describe_all(_listed(source, suffix, skipped))
    found = listed or storage.find_images(source, skipped)
    return Manifest(_collect(found, on_found), skipped)


def locations(table: pa.Table) -> list[str]:
    """Return the path or URL to read each file of a manifest or plan from: its `location`, else its `uri`."""
    places: list[str] = pc.coalesce(table["location"], table["uri"]).to_pylist()
    return places


def is_glob(source: str) -> bool:
    """Return whether a source is a glob; an existing local file is not, and a URL's query is ignored."""
    if source.startswith(("http://", "https://")):
        source = source.partition("?")[0]
    elif not storage.is_remote(source) and os.path.exists(os.path.expanduser(source.removeprefix("file://"))):
        return False
    return any(sign in source for sign in "*?[")


def list_suffix(source: str) -> str:
    """Return the suffix of a source that is a list or a table of files; empty for folders, files and globs."""
    if is_glob(source):
        return ""
    name = source.partition("?")[0].lower() if storage.is_remote(source) else source.lower()
    return next((suffix for suffix in _LIST_SUFFIXES if name.endswith(suffix)), "")


def _collect(found: Iterable[storage.FoundFile], on_found: Callable[[int], None]) -> pa.Table:
    """Collect files into Arrow in chunks, since Python objects for a million files would take a gigabyte."""
    batches, total, stream = [], 0, iter(found)
    while chunk := list(islice(stream, _CHUNK)):
        total += len(chunk)
        columns = [
            pa.array(values, field.type) for values, field in zip(zip(*chunk, strict=True), schema.FOUND, strict=True)
        ]
        batches.append(pa.record_batch(columns, schema=schema.FOUND))
        on_found(total)
    return schema.conform(pa.Table.from_batches(batches, schema.FOUND), "manifest")


def _describe_all(urls: Iterable[str]) -> Iterator[storage.FoundFile]:
    """Describe listed files concurrently; one request after another would take hours."""
    stream = iter(urls)
    with ThreadPoolExecutor(_DESCRIBERS) as pool:
        while chunk := list(islice(stream, _CHUNK)):
            yield from pool.map(storage.describe, chunk)


def _listed(source: str, suffix: str, skipped: Counter[str]) -> Iterator[str]:
    content = _decode_text(storage.read_bytes(storage.absolute(source)), source)
    if suffix == ".txt":
        lines = (line.strip() for line in content.splitlines())
        values: Iterable[str] = (line for line in lines if line and not line.startswith("#"))
    else:
        values = _csv_column(content, suffix, source)
    return _resolved(values, source, skipped)


def _decode_text(content: bytes, source: str) -> str:
    encoding = "utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        # surrogateescape preserves names that are not UTF-8, like the file system does
        return content.decode(encoding, errors="surrogateescape")
    except UnicodeError as error:
        raise SourceError(f"{source}: cannot read the list as text ({error}); save it as UTF-8") from error


def _csv_column(content: str, suffix: str, source: str) -> Iterator[str]:
    """Yield the file column of a CSV with any separator, with or without a header."""
    first, delimiter = _first_row(content, suffix, source)
    named = _named_column(first)
    files = [at for at, cell in enumerate(first) if storage.is_image_name(cell)]
    bare = named is None and (bool(files) or len(first) == 1)
    at = files[0] if bare and files else 0 if bare else _column_of_files(first, source) if first else 0
    rows = text.csv_rows(io.StringIO(content, newline=""), delimiter, source)
    yield from (row[at].strip() for row in islice(rows, 1 - bare, None) if len(row) > at and row[at].strip())


def _first_row(content: str, suffix: str, source: str) -> tuple[list[str], str]:
    """Return the first row and the separator: that of Excel's `sep=`, the usual one, or one that fits the row."""
    lines = [line for line in islice(io.StringIO(content), _FIRST_LINES) if line.strip()]
    if not lines:
        return [], ","
    usual = "\t" if suffix == ".tsv" else ","
    named = text.named_delimiter(lines[0])
    line = lines[1] if named and len(lines) > 1 else lines[0]
    for delimiter in (named or usual, text.delimiter_of(line), usual):
        row = [cell.strip() for cell in next(text.csv_rows([line], delimiter, source, whole=False), [])]
        if _named_column(row) is not None or any(map(storage.is_image_name, row)):
            break
    return row, delimiter


def _named_column(names: Sequence[str]) -> int | None:
    lower = [name.strip().lower() for name in names]
    return next((lower.index(name) for name in URL_COLUMNS if name in lower), None)


def _column_of_files(names: Sequence[str], source: str) -> int:
    if (found := _named_column(names)) is not None:
        return found
    shown, expected = ", ".join(names), ", ".join(URL_COLUMNS)
    raise TableError(
        f"{source}: neither a manifest nor a list of files: it has the columns {shown}; expected one of {expected}"
    )


def _resolved(values: Iterable[str], source: str, skipped: Counter[str]) -> Iterator[str]:
    """Make listed paths absolute (relative to the folder of the list) and drop duplicates."""
    folder = storage.parent(storage.absolute(source))
    seen: set[str] = set()
    for value in values:
        if storage.is_remote(value):
            url = value
        elif storage.is_remote(folder):
            url = storage.join(folder, value)
        else:
            path = storage.resolve(value, storage.local_path(folder))
            # tagger's own tables have names as uris: a%20b.jpg is a%2520b.jpg there
            is_uri = "%" in path and not os.path.lexists(path) and os.path.lexists(storage.local_path(path))
            url = path if is_uri else storage.local_uri(path)
        key = storage.public_uri(url) if storage.is_remote(url) else url
        if key in seen:
            skipped["listed twice"] += 1
        else:
            seen.add(key)
            yield url


def _read_parquet(source: str, on_found: Callable[[int], None]) -> Manifest:
    """Read a manifest, detected by its footer, or a list of URLs, detected by its columns."""
    uri = storage.absolute(source)
    with storage.open_input(uri) as file:
        try:
            parquet = schema.open_parquet(file)
        except pa.ArrowInvalid as error:
            raise TableError(f"{source}: not a readable Parquet file ({error})") from error
        arrow = parquet.schema_arrow
        if schema.footer_of(arrow):
            schema.check_footer(arrow, "manifest", source)
            with schema.named_damage(source):
                batches = parquet.iter_batches()  # reading the whole table at once would take twice its size
                table = schema.conform(pa.Table.from_batches(batches, arrow), "manifest")
            on_found(len(table))
            return Manifest(table)
        if storage.has_images(arrow):
            found: Counter[str] = Counter()
            return Manifest(_collect(storage.find_images(source, found), on_found), found)
        column = arrow.field(_column_of_files(arrow.names, source))
        kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type  # pandas' categories
        if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
            raise TableError(f"{source}: column {column.name} has {column.type}, expected text: paths or URLs of files")
        skipped: Counter[str] = Counter()
        values = (value for value in parquet.read([column.name])[column.name].to_pylist() if value)
        return Manifest(_collect(_describe_all(_resolved(values, source, skipped)), on_found), skipped)


def table_in(uri: str) -> str | None:
    """Return the kind of table in a file written by tagger; None for any other file."""
    try:
        with storage.open_input(uri) as file:
            return schema.footer_of(pq.read_schema(file)).get("table")
    except (pa.ArrowInvalid, SourceError):
        return None
