"""The labels in one cell of a table: text, a number, a list, or the text of a list."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterable
from typing import Any


def plain_text(value: Any) -> str:
    """Return a cell as text without spaces around it; whole floats lose their `.0`, missing values are empty."""
    if isinstance(value, str):
        return value.strip()
    if value is None or value != value:  # NaN
        return ""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def labels_in(value: Any, separator: str | None = None) -> tuple[str, ...] | None:
    """Return the labels of one cell: text, a number, a list, JSON or Python text of a list, or Label Studio's choices.

    An empty cell is None, an empty list (). Paths of a taxonomy are joined with `/`.
    """
    if isinstance(value, dict):
        value = next((value[key] for key in ("choices", "taxonomy", "label", "labels") if key in value), None)
    if isinstance(value, list | tuple):
        return tuple(dict.fromkeys(label for item in value if (label := _item(item))))
    if not (cell := plain_text(value)):
        return None
    if cell[0] in "[{" and (parsed := _parsed(cell)) is not None:
        return labels_in(parsed)
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
    """Return the list in a cell that looks like one; None when it only looks like one."""
    for parse in (json.loads, ast.literal_eval):
        try:
            parsed = parse(cell)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        if isinstance(parsed, list | tuple | dict):
            return parsed
    return None
