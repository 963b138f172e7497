"""What commands print: tables, JSON, progress."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    import pyarrow as pa


def say(line: str) -> None:
    """Print a line on stderr."""
    typer.echo(line, err=True)


def print_json(value: dict[str, Any]) -> None:
    """Print one JSON object on stdout."""
    typer.echo(json.dumps(value, default=str, ensure_ascii=False))


def print_prediction(row: dict[str, Any]) -> None:
    """Print a picture's best tags with bars."""
    typer.echo(row["uri"])
    if row["error"]:
        typer.echo(f"  {row['status']}: {row['error']}")
    for pair in row.get("candidates") or []:
        typer.echo(f"  {pair['score']:6.1%}  {'█' * round(20 * pair['score']):<20}  {pair['tag']}")


def titled(out: str, title: str) -> str:
    """Return a file name with a title before its suffix."""
    stem, dot, suffix = out.rpartition(".")
    return f"{stem}-{title}.{suffix}" if dot else f"{out}-{title}"


def emit(result: pa.Table, format: str, out: str | None) -> None:
    """Print a query's result, or write it to a file, which is no `table`."""
    if format == "table":
        shown = result.slice(0, 50)
        print_table(result.column_names, [list(row.values()) for row in shown.to_pylist()])
        if len(result) > 50:
            typer.echo(f"… {len(result) - 50:,} more rows; --format csv prints them all")
        return
    from tagger import storage
    from tagger.tagging import results

    content = results.export(result, format)
    if out:
        storage.write_atomic(storage.absolute(out), content)
    else:
        sys.stdout.buffer.write(content)
        sys.stdout.flush()


def headline(metrics: dict[str, Any]) -> str:
    """Return a checkpoint's number with its interval, of the test images where it has some."""
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


def print_table(names: list[str], rows: list[list[Any]]) -> None:
    """Draw a table on stdout."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    drawn = Table(*names, header_style="bold")
    for row in rows:
        drawn.add_row(*(escape(_cell(value)) for value in row))
    console = Console() if sys.stdout.isatty() else Console(width=160)
    console.print(drawn)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return ", ".join(f"{pair.get('tag')} {pair.get('score', 0):.2f}" for pair in value)
    if isinstance(value, list) and len(value) > 8:
        return f"[{len(value)} values]"
    return str(value)


@contextlib.contextmanager
def found_progress(silent: bool) -> Iterator[Callable[[int], None]]:
    """Show the number of files found so far, on a terminal only."""
    if silent or not sys.stderr.isatty():
        yield lambda found: None
        return
    from rich.console import Console

    with Console(stderr=True).status("listing") as status:
        yield lambda found: status.update(f"listing: {found:,} files")


@contextlib.contextmanager
def tag_progress(silent: bool) -> Iterator[Callable[[Any], None]]:
    """Show rate, time left and failures, on a terminal only."""
    if silent or not sys.stderr.isatty():
        yield lambda progress: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("tagging"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"),
        TextColumn("left"), TimeRemainingColumn(), TextColumn("{task.fields[failed]} failed"),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("tagging", total=None, failed=0, rate="", visible=False)

        def update(progress: Any) -> None:
            speed = bar.tasks[0].speed
            rate = f"{speed:,.0f} images/s" if speed else ""
            bar.update(
                task, total=progress.total, completed=progress.done, failed=progress.failed, rate=rate, visible=True
            )

        yield update


@contextlib.contextmanager
def step_progress() -> Iterator[Callable[[str, int, int], None]]:
    """Show how far each step of a training is, on a terminal only."""
    if not sys.stderr.isatty():
        yield lambda what, done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        tasks: dict[str, Any] = {}

        def update(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=total)
            bar.update(tasks[what], completed=done, visible=done < total)

        yield update
