"""The labels in one cell of a table: text, a number, a list, or the text of a list."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterable

from tagger.data.labels.record import Notes, unique

_CHOICES = ("choices", "taxonomy", "label", "labels")
_NOTHING = ("None", "nan", "NaN", "null", "<NA>")
_QUOTED = r"""[uU]?(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")"""
_VALUE = rf"(?:{_QUOTED}|[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:e[+-]?\d+)?|{'|'.join(_NOTHING)})"
_VALUES = re.compile(rf"\[\s*{_VALUE}(?:(?:\s+{_VALUE})*|(?:\s*,\s*{_VALUE})*)\s*\]", re.DOTALL)
"""A flat list as numpy and Python print it; its items are separated by spaces or commas, not both."""
_WORDS = re.compile(r"""\[[^\[\](){}:'"]*\]""")
"""A flat list as DuckDB prints it, without quotes."""
_CALL = re.compile(r"""(?:\w+\.)*\w+\((?:[\[{('"].*)?\)""", re.DOTALL)
"""A list, or none, in the form `array(['a'])`, `set()`."""
_EMPTY = ("()", "set()")
_GLUED = re.compile(r"[\w\0]\s*\0|\.\.\.")
"""A word next to a quoted item (\0) without a comma, which Python would join; or a truncated list."""


def plain_text(value: object) -> str:
    """Return a cell as stripped text; whole floats lose their `.0`, missing values are empty."""
    if isinstance(value, str):
        return value.strip()
    if value is None or value != value:  # NaN
        return ""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def is_list_text(cell: str) -> bool:
    """Return whether a cell is the text of a list, tuple, set, array or JSON object, by its brackets."""
    ends = cell[:1] + cell[-1:]
    is_tuple = ends == "()" and bool(re.search(_QUOTED, cell, re.DOTALL))
    return ends in ("[]", "{}") or is_tuple or cell in _EMPTY or bool(_CALL.fullmatch(cell))


def labels_in(value: object, separator: str | None, notes: Notes) -> tuple[str, ...] | None:
    """Return the labels of one cell: text, a number, a list, the text of a list, or Label Studio's choices.

    An empty cell is None, an empty list (). Paths of a taxonomy are joined with `/`. The text of a list is read as
    JSON, Python, numpy (`['a' 'b']`) or DuckDB (`[a, b]`) print it; any other text in brackets is None, and a note.
    """
    if isinstance(value, dict):
        value = next((value[key] for key in _CHOICES if key in value), None)
    if isinstance(value, list | tuple | set):
        if any(isinstance(item, dict) for item in value):
            notes.add("lists of objects, left unlabelled", str(value))
            return None
        return unique(map(_item, value))
    if not (cell := plain_text(value)):
        return None
    if is_list_text(cell):
        try:
            return labels_in(_parsed(cell), None, notes)
        except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
            notes.add("cells in brackets that are not a valid list, left unlabelled", cell)
            return None
    return unique(map(str.strip, cell.split(separator))) if separator else (cell,)


def united(found: Iterable[tuple[str, ...] | None]) -> tuple[str, ...] | None:
    """Return the union of the labels of several cells; None if all are empty."""
    given = [labels for labels in found if labels is not None]
    return unique(label for labels in given for label in labels) if given else None


def _item(item: object) -> str:
    if isinstance(item, list | tuple):
        return "/".join(str(part) for part in item)
    return item if isinstance(item, str) else plain_text(item)


def _parsed(cell: str) -> object:
    """Parse the text of a list or object; raises ValueError or SyntaxError if it is invalid or truncated."""
    if cell in _EMPTY:
        return ()
    try:
        parsed = json.loads(cell)
    except ValueError:
        parsed = _printed(cell)
    if isinstance(parsed, dict) and not any(key in parsed for key in _CHOICES):
        raise ValueError("an object without choices or labels")
    return parsed


def _printed(cell: str) -> object:
    """Parse a list as Python, numpy or DuckDB prints it."""
    if _VALUES.fullmatch(cell):
        return [_scalar(item) for item in re.findall(_VALUE, cell, re.DOTALL) if item not in _NOTHING]
    if _WORDS.fullmatch(cell):
        items = [item.strip() for item in cell[1:-1].split(",")]
        if "..." in items or any(re.fullmatch(_VALUE, word) for word in re.split(r"[\s,]+", cell[1:-1])):
            raise ValueError("truncated, or values mixed with words")
        return items
    if _GLUED.search(re.sub(_QUOTED, "\0", cell, flags=re.DOTALL)):
        raise ValueError("two items without a comma, or truncated")
    return ast.literal_eval(cell)


def _scalar(token: str) -> object:
    if token[-1] in "'\"":
        return ast.literal_eval(token)
    return float(token) if "." in token else token
