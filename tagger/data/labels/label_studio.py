"""Label Studio: JSON tasks with `data` and `annotations`, and JSON_MIN or CSV with a row per annotation."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from tagger.data.labels import json_stream, tables
from tagger.data.labels.cells import labels_in, plain_text, united
from tagger.data.labels.columns import file_column, flag, label_columns
from tagger.data.labels.record import Fields, Format, LabelFile, Notes, Options, Record, dicts
from tagger.errors import TableError, UsageError

_ANSWERS = ("annotations", "completions")
"""Keys of a task's annotations; old versions export `completions`."""
_KINDS = ("choices", "taxonomy")
_CANCELLED = ("was_cancelled", "skipped", "cancelled")
_SIGNS = {"annotation_id", "annotator", "lead_time"}
_KNOWN = {*_SIGNS, *_CANCELLED, "id", "created_at", "updated_at", "agreement", "unique_id"}


def _are_tasks(file: LabelFile) -> bool:
    """Return whether a JSON list has objects with `data` and annotations, completions or predictions."""
    first = next(iter(file.elements), None)
    return (
        isinstance(first, dict)
        and isinstance(first.get("data"), dict)
        and any(isinstance(first.get(key), list) for key in (*_ANSWERS, "predictions"))
    )


def _read_tasks(file: LabelFile, options: Options, notes: Notes) -> Iterator[Record]:
    """Yield a record per annotation that was not cancelled; a task without one is unlabelled.

    Predictions are not labels; they are only counted. Raises UsageError for annotations of several controls without
    --label-field.
    """
    fields = Fields(file.uri, options.fields, notes)
    for _, task in json_stream.events(file.uri, file.encoding):
        data = task.get("data") if isinstance(task, dict) else None
        if not (isinstance(task, dict) and isinstance(data, dict) and (name := _file(data))):
            notes.add("tasks without an image", str(task)[:80])
            continue
        given = [answer for key in _ANSWERS for answer in dicts(task.get(key))]
        answers = [answer for answer in given if not (answer.get("was_cancelled") or answer.get("skipped"))]
        if len(answers) < len(given):
            notes.add("cancelled annotations, skipped", name, len(given) - len(answers))
        if not answers and task.get("predictions"):
            notes.add("tasks with predictions but no annotation (predictions are not labels)", name)
        yield from (Record(name, _labels(answer, fields, notes)) for answer in answers)
        if not answers:
            yield Record(name, None)


def _file(data: dict[str, object]) -> str:
    """Return the image of a task: the value of a well-known key, else the first text that looks like a path or URL."""
    at = file_column(tuple(data))
    values = [value if isinstance(value, str) else "" for value in data.values()]
    return (values[at] if at is not None else "") or next((value for value in values if "/" in value), "")


def _labels(answer: dict[str, object], fields: Fields, notes: Notes) -> tuple[str, ...] | None:
    """Return the choices; () if there are none, None if the annotation has only regions or other controls."""
    results = dicts(answer.get("result"))
    regions = {result.get("id") for result in results if result.get("type") not in _KINDS} - {None}
    chosen = list[dict[str, object]]()
    for result in results:
        if result.get("type") not in _KINDS:
            notes.add("results that are neither choices nor taxonomy, ignored", str(result.get("type")))
        elif result.get("id") in regions or _is_of_region(result.get("value")):
            notes.add("answers about a region, ignored", str(result.get("from_name")))
        elif fields.take(str(result.get("from_name"))):
            chosen.append(result)
    if results and not chosen:
        return None
    return united(labels_in(result.get("value") or {}, None, notes) for result in chosen) or ()


def _is_of_region(value: object) -> bool:
    """Return whether a value has coordinates in addition to its choices."""
    return isinstance(value, dict) and bool(value.keys() - {*_KINDS})


def _are_rows(file: LabelFile) -> bool:
    """Return whether a table has the columns that Label Studio adds: annotation_id, annotator, lead_time."""
    return len(_SIGNS & {*file.columns}) >= 2 or {"id", "annotation_id"} <= {*file.columns}


def _read_rows(file: LabelFile, options: Options, notes: Notes) -> Iterator[Record]:
    """Yield a record per row; raises UsageError if it is ambiguous which columns have the choices."""
    names = [name for name in file.columns if name not in _KNOWN]
    at = file_column(names)
    if at is None:
        raise TableError(f"{file.uri}: no column of images; have {', '.join(file.columns)}")
    image = names.pop(at)
    skips = [name for name in _CANCELLED if name in file.columns]
    chosen = [file.columns.index(name) for name in (image, *skips, *_controls(file, names, options))]
    for cell, *cells in tables.rows(file, chosen, notes):
        if not (name := plain_text(cell)):
            notes.add("tasks without an image", ", ".join(map(str, cells))[:80])
        elif any(flag(skip) in ("true", "1") for skip in cells[: len(skips)]):
            notes.add("cancelled annotations, skipped", name)
        else:
            yield Record(name, united(labels_in(value, options.delimiter, notes) for value in cells[len(skips) :]))


def _controls(file: LabelFile, names: list[str], options: Options) -> list[str]:
    """Return the columns of --label-field, else the only one with choices, with a typical name, or at all."""
    if options.fields:
        if missing := next((name for name in options.fields if name not in names), None):
            raise UsageError(f"--label-field {missing}: {file.uri} has the columns {', '.join(names)}")
        return [*options.fields]
    chosen = [name for name in names if any(_holds_choices(row[file.columns.index(name)]) for row in file.rows)]
    named = [name for name in names if name.lower() in ("choice", "choices", "taxonomy")]
    named += [names[at] for plural in (False, True) for at in label_columns(names, plural)]
    found = sorted(set(chosen or named or names))
    if len(found) > 1:
        raise UsageError(f"{file.uri}: several columns may hold labels, {', '.join(found)}; choose with --label-field")
    return found


def _holds_choices(value: object) -> bool:
    return isinstance(value, dict | list) or (isinstance(value, str) and value.lstrip().startswith(("[", '{"choices"')))


_format = partial(Format, kind="json", merges=True, has_fields=True)
FORMATS = (
    _format("label-studio", "a JSON list of tasks with data and annotations", _are_tasks, _read_tasks),
    _format("label-studio-rows", "Label Studio's JSON_MIN or CSV", _are_rows, _read_rows),
)
