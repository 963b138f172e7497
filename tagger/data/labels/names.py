"""Class names by id, from a text list, CSV, JSON or YAML: the file of `--label-names`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence

from tagger import storage
from tagger.data.labels import text
from tagger.data.labels.columns import FILE_COLUMNS
from tagger.errors import TableError, UsageError

_KEYS = ("names", "classes", "id2label", "label2id", "label_names", "class_names", "categories", "labels")
"""Keys of class names in a JSON or YAML document."""
_NAME_HEADERS = (
    "name", "class_name", "classname", "label_name", "labelname", "display_name", "displayname", "class", "label",
    "category", "tag", "names", "classes", "labels",
)  # fmt: skip
_ID_HEADERS = (
    "id", "class_id", "label_id", "category_id", "index", "idx", "code", "mid", "labelname", "label", "class",
)  # fmt: skip
_ID = re.compile(r"\d{1,9}|n\d{8}|/[mgt]/\w+")
"""A number, a WordNet id, or a Freebase id as in Open Images."""
_ID_FIRST = re.compile(rf"({_ID.pattern})(?:\s*[:=,;]\s*|\s+)(\S.*)")
_ID_LAST = re.compile(r"(\S.*?)(?:\s*[:=,;]\s*|\s+)(\d{1,9})")
_YAML = re.compile(rf"^({'|'.join(_KEYS)})\s*:", re.MULTILINE)
_LONGEST = 300
"""Maximum number of characters of a name."""

Pairs = Sequence[tuple[str, str]]
"""(id, name)"""


def by_position(names: Iterable[str]) -> Mapping[str, str]:
    """Return names by their position, from 0."""
    return {str(at): name for at, name in enumerate(names)}


def read_names(shown: str) -> Mapping[str, str]:
    """Return id -> name; names without ids are numbered from 0.

    Raises UsageError if the file has none of the known structures, TableError if an id has two names.
    """
    uri = storage.absolute(shown)
    with text.open_text(uri) as file:
        content = file.read().strip(text.BLANK)
    if not content:
        raise _unknown(shown, "it is empty")
    if content.startswith(("<", "PAR1")) or any(ord(sign) < 32 and sign not in "\t\r\n\f" for sign in content):
        raise _unknown(shown, f"it starts with {content[:20]!r}")
    if content[0] in "[{" or uri.lower().endswith((".yaml", ".yml")) or _YAML.search(content):
        pairs = _pairs(_document(content, shown))
    else:
        lines = [line.strip() for line in content.splitlines()]
        pairs = _table(lines, shown) or _lines(lines)
    odd = next((name for _, name in pairs if len(name) > _LONGEST or storage.is_image_name(name)), None)
    if not pairs or odd:
        raise _unknown(shown, f"it contains {(odd or content)[:60]!r}")
    names: dict[str, str] = {}
    for label_id, name in pairs:
        if names.setdefault(label_id, name) != name:
            raise TableError(f"{shown}: id {label_id} has two names, {names[label_id]!r} and {name!r}; keep one")
    return names


def _unknown(shown: str, found: str) -> UsageError:
    return UsageError(
        f"--label-names {shown}: no class names in it ({found}); expected one name per line, `id name` lines, a CSV "
        "with columns id and name, JSON, or YAML with `names:`"
    )


def _document(content: str, shown: str) -> object:
    import yaml

    try:
        return json.loads(content) if content[0] in "[{" else yaml.safe_load(content)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise TableError(f"{shown}: neither valid JSON nor YAML ({error})") from error


def _pairs(value: object) -> Pairs:
    """Return the pairs of a JSON or YAML value; none for another structure."""
    if isinstance(value, list):
        if all(isinstance(item, str | int) for item in value):
            return [*by_position(map(str, value)).items()]
        if all(isinstance(item, dict) and {"id", "name"} <= item.keys() for item in value):
            return [(str(item["id"]), str(item["name"])) for item in value]
    if not isinstance(value, dict):
        return []
    if key := next((key for key in _KEYS if isinstance(value.get(key), list | dict)), None):
        return _pairs(value[key])
    if all(_ID.fullmatch(str(key)) for key in value):
        # ImageNet's class index: {"0": ["n01440764", "tench"]}
        last = {str(key): item[-1] if isinstance(item, list) and item else item for key, item in value.items()}
        return [*last.items()] if all(isinstance(name, str) for name in last.values()) else []
    numbers = [item for item in value.values() if isinstance(item, int)]
    inverted = len(numbers) == len(value) and _is_count(numbers)
    return [(str(item), str(key)) for key, item in value.items()] if inverted else []


def _is_count(numbers: Iterable[int]) -> bool:
    """Return whether numbers are 0 to n-1, or 1 to n, in any order."""
    found = sorted(numbers)
    return found in (list(range(len(found))), list(range(1, len(found) + 1)))


def _table(lines: list[str], shown: str) -> Pairs:
    """Return the pairs of a CSV with a header or a column of ids; none for other text."""
    delimiter = text.delimiter_of(lines[0])
    rows = [[cell.strip() for cell in row] for row in text.csv_rows(lines, delimiter, shown)]
    first, body = [cell.lower() for cell in rows[0]], rows[1:]
    ids = _ids(body, len(first))
    has_header = any(name in first for name in _NAME_HEADERS) or (ids and not _ids(rows, len(first)))
    if not (has_header and body) or set(first) & (set(FILE_COLUMNS) - {"id", "name"}):
        return []
    if any(len(row) < len(first) for row in body):
        return []
    others = [at for at in range(len(first)) if at not in ids] or range(len(first))
    name_at = _first_named(_NAME_HEADERS, first, others)
    id_at = _first_named(_ID_HEADERS, first, [at for at in ids if at != name_at])
    return [(str(at) if id_at is None else row[id_at], row[name_at or 0]) for at, row in enumerate(body)]


def _ids(rows: list[list[str]], width: int) -> list[int]:
    """Return the columns with an id in every row."""
    return [at for at in range(width) if rows and all(len(row) > at and _ID.fullmatch(row[at]) for row in rows)]


def _first_named(headers: Sequence[str], columns: list[str], among: Sequence[int]) -> int | None:
    named = [at for header in headers for at in among if columns[at] == header]
    return next(iter([*named, *among]), None)


def _lines(lines: list[str]) -> Pairs:
    """Return the pairs of `0 cat` or `cat 0` lines, or of one name per line, with its position as id."""
    filled = [line for line in lines if line]
    first = [match.groups() for line in filled if (match := _ID_FIRST.fullmatch(line))]
    if len(first) == len(filled) and len({name for _, name in first}) > len(first) / 2:
        pairs = [(label_id, name.strip("'\"")) for label_id, name in first]
        has_numbers = any(label_id.isdecimal() for label_id, _ in pairs)
        return pairs if has_numbers else [*by_position(name for _, name in pairs).items(), *pairs]
    last = [match.groups() for line in filled if (match := _ID_LAST.fullmatch(line))]
    counted = len(last) == len(filled) and _is_count(int(label_id) for _, label_id in last)
    if counted and len({name for name, _ in last}) == len(filled):
        return [(label_id, name) for name, label_id in last]
    return [*by_position(lines).items()]
