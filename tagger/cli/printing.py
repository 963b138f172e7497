"""Output of the commands: tables, JSON, progress. Text is printed only here, with its control characters escaped."""

from __future__ import annotations

import contextlib
import json
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import typer

from tagger.redaction import visible

if TYPE_CHECKING:
    import pyarrow as pa

    from tagger.checkpoint.info import Json


def show(text: str) -> None:
    """Print text on stdout."""
    typer.echo(visible(text))


def say(text: str) -> None:
    """Print text on stderr."""
    typer.echo(visible(text), err=True)


def print_json(value: Mapping[str, object]) -> None:
    """Print one JSON object on stdout."""
    typer.echo(json.dumps(value, default=str, ensure_ascii=False))


def print_prediction(row: Json) -> None:
    """Print an image's best tags with bars."""
    show(row["uri"])
    if row["unknown"]:
        show("  no tag, unknown: unlike the images that the model was trained on")
    elif row["tags"] == []:
        show("  no tag: no score is over its threshold")
    if row["error"]:
        show(f"  {row['status']}: {row['error']}")
    for pair in row.get("candidates") or []:
        show(f"  {pair['score']:6.1%}  {'█' * round(20 * pair['score']):<20}  {pair['tag']}")


def titled(out: str, title: str) -> str:
    """Return a file name with a title before its suffix."""
    stem, dot, suffix = out.rpartition(".")
    return f"{stem}-{title}.{suffix}" if dot else f"{out}-{title}"


def emit(result: pa.Table, format: str, out: str | None) -> None:
    """Print a query's result, or write it to the file `out` in any format but `table`."""
    if format == "table":
        print_table(result.column_names, [list(row.values()) for row in result.slice(0, 50).to_pylist()])
        if len(result) > 50:
            show(f"… {len(result) - 50:,} more rows; --format csv prints them all")
        return
    from tagger import storage
    from tagger.tagging.query import export

    content = export(result, format)
    if out:
        storage.write_atomic(storage.absolute(out), content)
    else:
        sys.stdout.buffer.write(content)
        sys.stdout.flush()


def headline(metrics: Json) -> str:
    """Return a checkpoint's main metric with its interval, on the test images if it has any."""
    split = next((name for name in ("test", "val", "") if name in metrics), None)
    if split is None:
        return "unknown"
    found = metrics[split]
    if found.get("accuracy"):
        name, value, interval = "accuracy", found["accuracy"]["accuracy"], found["accuracy"]["interval"]
    else:
        name, value = "mean average precision", found["mean_average_precision"]
        interval = found.get("mean_average_precision_interval")
    between = f"{interval[0]:.1%} to {interval[1]:.1%}, " if interval else ""
    return f"{split} {name} {value or 0:.2%} ({between}{found['images']:,} images)".strip()


def print_table(names: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Draw a table on stdout."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table(*names, header_style="bold")
    for row in rows:
        drawn.add_row(*(Text(visible(_cell(value))) for value in row))
    console = Console() if sys.stdout.isatty() else Console(width=160)
    console.print(drawn)


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return ", ".join(f"{pair.get('tag')} {pair.get('score', 0):.2f}" for pair in value)
    if isinstance(value, list) and len(value) > 8:
        return f"[{len(value)} values]"
    return str(value)


FIRST_LINE, NEXT_LINE = 1.0, 30.0
"""Seconds until a step is first printed, and between repetitions, where stderr is not a terminal."""


class Show(Protocol):
    """A function that shows the progress of a step."""

    def __call__(self, step: str, done: int, total: int | None = None, remark: str = "") -> None:
        """Show a step until `done` is `total`; None where the total is unknown."""


@contextlib.contextmanager
def progress(silent: bool) -> Iterator[Show]:
    """Yield a function that shows progress on stderr: a bar per step on a terminal, elsewhere a line now and then."""
    if silent:
        yield lambda step, done, total=None, remark="": None
    else:
        with _bars() if sys.stderr.isatty() else _lines() as show_step:
            yield show_step


@contextlib.contextmanager
def _lines() -> Iterator[Show]:
    """Yield a function whose steps are printed once they take longer than FIRST_LINE, then every NEXT_LINE seconds."""
    text, due, step_now, ended = "", float("inf"), "", threading.Event()

    def show_step(step: str, done: int, total: int | None = None, remark: str = "") -> None:
        nonlocal text, due, step_now
        of_total = f" of {total:,}" if total else ""
        text = step + (f": {done:,}{of_total}" if done else "") + (f", {remark}" if remark and done else "")
        if step != step_now:
            step_now, due = step, time.monotonic() + FIRST_LINE
        if total and done >= total:
            due = float("inf")

    def watch() -> None:
        nonlocal due
        while not ended.wait(0.2):
            if time.monotonic() >= due:
                due = time.monotonic() + NEXT_LINE
                say(text)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield show_step
    finally:
        ended.set()
        watcher.join(1)


@contextlib.contextmanager
def _bars() -> Iterator[Show]:
    """Yield a function that shows a bar for the current step."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

    text = [TextColumn(f"{{task.{name}}}", markup=False) for name in ("description", "fields[rate]", "fields[remark]")]
    columns = (text[0], BarColumn(), MofNCompleteColumn(), text[1], TimeRemainingColumn(), text[2])
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        tasks: dict[str, TaskID] = {}

        def show_step(step: str, done: int, total: int | None = None, remark: str = "") -> None:
            if step not in tasks:
                for earlier in tasks.values():
                    bars.update(earlier, visible=False)
                tasks[step] = bars.add_task(step, total=total, rate="", remark="")
            speed = bars.tasks[tasks[step]].speed
            rate = f"{speed:,.0f}/s" if speed else ""
            bars.update(tasks[step], completed=done, total=total, rate=rate, remark=remark)

        yield show_step
