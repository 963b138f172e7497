"""Label Studio JSON: a list of tasks with `data` and `annotations` (once called `completions`)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tagger.data.labels import json_stream, text
from tagger.data.labels.cells import labels_in, united
from tagger.data.labels.columns import file_column
from tagger.data.labels.record import Format, LabelFile, Notes, Options, Record, listed

_ANSWERS = ("annotations", "completions")
_KINDS = ("choices", "taxonomy")


def matches(file: LabelFile) -> bool:
    """Tell by tasks: objects with `data` and annotations, completions or predictions."""
    first = next((element for key, element in file.events if not key), None)
    return (
        isinstance(first, dict)
        and isinstance(first.get("data"), dict)
        and any(isinstance(first.get(key), list) for key in (*_ANSWERS, "predictions"))
    )


def read(file: LabelFile, options: Options, notes: Notes) -> Iterator[Record]:
    """Yield a record per answer that was not cancelled; a task without one is unlabelled.

    Predictions are tags, not labels: they are counted and left alone.
    """
    with text.open_text(file.uri, file.encoding) as opened:
        for _, task in json_stream.events(opened, file.uri):
            data = task.get("data") if isinstance(task, dict) else None
            name = _file(data) if isinstance(data, dict) else ""
            if not name:
                notes.add("tasks without an image", str(task)[:80])
                continue
            given = [answer for key in _ANSWERS for answer in listed(task.get(key)) if isinstance(answer, dict)]
            answers = [answer for answer in given if not (answer.get("was_cancelled") or answer.get("skipped"))]
            if len(answers) < len(given):
                notes.add("cancelled annotations, skipped", name, len(given) - len(answers))
            if not answers and task.get("predictions"):
                notes.add("tasks with predictions but no annotation (predictions are not labels)", name)
            yield from (Record(name, _labels(answer, notes)) for answer in answers)
            if not answers:
                yield Record(name, None)


def _file(data: dict[str, Any]) -> str:
    """Return the image of a task: a usual name, else the only text that looks like a file or URL."""
    at = file_column(tuple(data))
    if at is not None and isinstance(value := list(data.values())[at], str):
        return value
    return next((value for value in data.values() if isinstance(value, str) and "/" in value), "")


def _labels(answer: dict[str, Any], notes: Notes) -> tuple[str, ...] | None:
    """Return what was chosen; () when nothing was, None when the answer holds only regions."""
    results = [result for result in listed(answer.get("result")) if isinstance(result, dict)]
    chosen = [result for result in results if result.get("type") in _KINDS]
    for result in results:
        if result.get("type") not in _KINDS:
            notes.add("results that are neither choices nor taxonomy, ignored", str(result.get("type")))
    if results and not chosen:
        return None
    return united(labels_in(result.get("value") or {}, None, notes) for result in chosen) or ()


FORMAT = Format(
    "label-studio", "a JSON list of tasks with data and annotations", matches, read, kind="json", merges=True
)
