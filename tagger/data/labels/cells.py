"""The labels in one cell of a table: text, a number, a list, or the text of a list."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

from tagger.data.labels.record import Notes

_CHOICES = ("choices", "taxonomy", "label", "labels")
_QUOTED = re.compile(r"""[uU]?(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")""", re.DOTALL)
_TOKEN = re.compile(rf"""\s*({_QUOTED.pattern}|[\[\](){{}}:,]|[^\s\[\](){{}}:,'"]+)""", re.DOTALL)
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?")
_NOTHING = ("None", "nan", "NaN", "null", "<NA>")


def plain_text(value: Any) -> str:
    """Return a cell as text without spaces around it; whole floats lose their `.0`, missing values are empty."""
    if isinstance(value, str):
        return value.strip()
    if value is None or value != value:  # NaN
        return ""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def is_list_text(cell: str) -> bool:
    """Tell the text of a list, tuple, set or JSON object from a label, by its brackets."""
    ends = cell[:1] + cell[-1:]
    return ends in ("[]", "{}") or (ends == "()" and bool(_QUOTED.search(cell)))


def labels_in(value: Any, separator: str | None, notes: Notes) -> tuple[str, ...] | None:
    """Return the labels of one cell: text, a number, a list, the text of a list, or Label Studio's choices.

    An empty cell is None, an empty list (). Paths of a taxonomy are joined with `/`. The text of a list is read as
    JSON, Python, numpy (`['a' 'b']`) or DuckDB (`[a, b]`) print it; any other text in brackets is None, and a note.
    """
    if isinstance(value, dict):
        value = next((value[key] for key in _CHOICES if key in value), None)
    if isinstance(value, list | tuple | set):
        return tuple(dict.fromkeys(label for item in value if (label := _item(item))))
    if not (cell := plain_text(value)):
        return None
    if is_list_text(cell):
        try:
            return labels_in(_parsed(cell), None, notes)
        except (ValueError, SyntaxError, RecursionError, MemoryError, StopIteration):
            notes.add("cells in brackets that are no whole list, left unlabelled", cell)
            return None
    if separator:
        return tuple(dict.fromkeys(part.strip() for part in cell.split(separator) if part.strip()))
    return (cell,)


def united(found: Iterable[tuple[str, ...] | None]) -> tuple[str, ...] | None:
    """Return the labels of several cells together; None when all are empty."""
    given = [labels for labels in found if labels is not None]
    return tuple(dict.fromkeys(label for labels in given for label in labels)) if given else None


def _item(item: Any) -> str:
    if isinstance(item, list | tuple):
        return "/".join(str(part) for part in item)
    return item if isinstance(item, str) else plain_text(item)


def _parsed(cell: str) -> Any:
    """Return the list or object that a cell prints; raises ValueError or SyntaxError when it is none, or cut short."""
    try:
        parsed = json.loads(cell)
    except ValueError:
        parsed = _printed(cell)
    if isinstance(parsed, dict) and not any(key in parsed for key in _CHOICES):
        raise ValueError("an object without choices or labels")
    return parsed


def _printed(cell: str) -> Any:
    """Return what Python, numpy or DuckDB print; items stand between commas or spaces, never both."""
    tokens = _tokens(cell)
    inner = tokens[1:-1]
    if tokens[0] == "[" and not set(inner) & set("[](){}:"):
        if not any(map(_is_value, inner)):
            inner = [part for item in cell[1:-1].split(",") for part in (item.strip(), ",")][:-1]
        elif not all(_is_value(item) or item == "," for item in inner):
            raise ValueError("words beside quoted items")
        items = inner[::2] if "," in inner else inner
        if "..." in items or "," in items or ("," in inner and set(inner[1::2]) != {","}):
            raise ValueError("cut short, or not one separator throughout")
        return [_scalar(item) for item in items if item not in _NOTHING]
    if any(_is_item(one) and _is_item(other) for one, other in pairwise(tokens)):
        raise ValueError("two items without a comma")  # which Python would glue together
    return ast.literal_eval(cell)


def _tokens(cell: str) -> list[str]:
    found, at = [], 0
    while at < len(cell):
        if not (match := _TOKEN.match(cell, at)):
            raise ValueError(f"unreadable from {cell[at : at + 20]!r}")
        found.append(match[1])
        at = match.end()
    return found


def _is_item(token: str) -> bool:
    return token not in tuple("[](){}:,")


def _is_value(token: str) -> bool:
    return bool(_QUOTED.fullmatch(token) or _NUMBER.fullmatch(token)) or token in _NOTHING


def _scalar(token: str) -> Any:
    if _QUOTED.fullmatch(token):
        return ast.literal_eval(token)
    return float(token) if _NUMBER.fullmatch(token) and "." in token else token
