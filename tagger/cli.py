"""The command line: one command per verb; parse, call, print."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer
import typer.core

from tagger.errors import TaggerError, TooManyFailed, UsageError

if TYPE_CHECKING:
    import pyarrow as pa

    from tagger.tagging.plan import Plan

EXIT_INTERRUPTED = 130


class _Commands(typer.core.TyperGroup):
    """Turn our errors into one line and an exit code, whichever command raised them."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except TaggerError as error:
            typer.echo(f"tagger: {' '.join(str(error).split())}", err=True)
            raise typer.Exit(error.exit_code) from error
        except KeyboardInterrupt as error:
            typer.echo("tagger: interrupted; what was committed stays, the same command does the rest", err=True)
            raise typer.Exit(EXIT_INTERRUPTED) from error


_STYLE: dict[str, Any] = {
    "add_completion": False,
    "pretty_exceptions_enable": False,
    "rich_markup_mode": None,
    "context_settings": {"help_option_names": ["-h", "--help"]},
}
app = typer.Typer(cls=_Commands, no_args_is_help=True, **_STYLE)

Source = Annotated[str, typer.Argument(help="Folder, file, glob, URL, .txt/.csv/.parquet list of URLs, or a manifest.")]
Results = Annotated[str, typer.Argument(help="Results folder or URL, as written by `tagger tag --out`.")]
Model = Annotated[str, typer.Option(help="Checkpoint folder or URL, timm/NAME, or local-dir:FOLDER.")]
Models = Annotated[
    list[str],
    typer.Option(
        help="Checkpoint folder or URL, timm/NAME, or local-dir:FOLDER; repeat it to tag with several at once."
    ),
]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Engine = Annotated[
    str, typer.Option(help="auto, openvino, torch (compiled) or eager; auto takes the fastest that agrees with eager.")
]
Precision = Annotated[
    str,
    typer.Option(
        help="auto, fp32, bf16, int8, bf16-checked or int8-checked (doubtful images again in fp32); auto takes a less "
        "exact one only where `tagger benchmark agreement` has proven it."
    ),
]
BatchSize = Annotated[int | None, typer.Option(help="Images per model call; by default what suits the engine.")]
MaxPixels = Annotated[int, typer.Option(help="Larger images get a too_large row.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")]


def _print_version(asked: bool) -> None:
    if asked:
        from importlib import metadata

        typer.echo(f"tagger {metadata.version('tagger')}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Put tags on a mountain of images: folder or bucket in, Parquet out, every night."""


@app.command(epilog="Example: tagger ingest ~/photos --out manifest.parquet")
def ingest(
    source: Source,
    out: Annotated[str, typer.Option(help="Manifest to write; its name ends in .parquet.")],
    labels: Annotated[
        str | None, typer.Option(help="Label file or folder of them; else looked for in SOURCE, see docs/labels.md.")
    ] = None,
    label_format: Annotated[str, typer.Option(help="auto, none, or a name in docs/labels.md.")] = "auto",
    label_delimiter: Annotated[
        str | None, typer.Option(help="Between the labels of one cell; '' when a cell is one label.")
    ] = None,
    label_names: Annotated[
        str | None, typer.Option(help="File of class names for files that hold ids: one a line, the first is 0.")
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """List a source into a manifest: one row per image file, with its labels where there are any."""
    from tagger import ingesting

    with _found_progress(quiet or as_json) as on_found:
        found = ingesting.ingest(source, out, labels, label_format, label_delimiter, label_names, on_found)
    if as_json:
        _print_json({"out": out, **found.counts()})
    elif not quiet:
        typer.echo(f"{found.text()}\nmanifest: {out}")


@app.command(epilog="Example: tagger tag ~/photos --model checkpoints/cifar10-speedrun --out results")
def tag(
    source: Source,
    model: Models,
    out: Annotated[str, typer.Option(help="Results folder or URL; one Parquet row per file lands here.")],
    top_k: Annotated[int, typer.Option(help="Candidates kept per image, whatever the threshold.")] = 5,
    threshold: Annotated[float | None, typer.Option(help="One threshold instead of the model's own, 0 to 1.")] = None,
    batch_size: BatchSize = None,
    device: Device = "auto",
    engine: Engine = "auto",
    precision: Precision = "auto",
    shard_size: Annotated[
        int, typer.Option(help="Images per part file; a kill loses at most the shard at work.")
    ] = 5000,
    embeddings: Annotated[bool, typer.Option("--embeddings", help="Store each image's feature vector.")] = False,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Also try again files that failed.")] = False,
    redo: Annotated[bool, typer.Option("--redo", help="Tag everything again.")] = False,
    max_failed: Annotated[
        str | None, typer.Option(help="Share (1%) or count of failed files allowed; beyond it exit 3.")
    ] = None,
    max_pixels: MaxPixels = 100_000_000,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Tag every image of a source that has no right row yet: one Parquet row per file."""
    from tagger.tagging import TagConfig, job

    config = TagConfig(
        top_k=top_k, threshold=threshold, batch_size=batch_size, device=device, engine=engine,
        precision=precision, shard_size=shard_size, embeddings=embeddings, retry_failed=retry_failed, redo=redo,
        max_failed=max_failed, max_pixels=max_pixels,
    )  # fmt: skip
    silent = quiet or as_json
    with contextlib.ExitStack() as stack:
        on_found = stack.enter_context(_found_progress(silent))

        def on_plan(plan: Plan) -> None:
            stack.close()
            if not silent:
                typer.echo(plan.text())

        with _tag_progress(silent) as on_progress:
            summary = job.tag(source, model, out, config, on_plan, on_progress, on_found)
    if as_json:
        _print_json(summary.to_dict())
    elif not quiet:
        typer.echo(summary.text())
    summary.check_failures()


@app.command(epilog="Example: tagger predict cat.jpg --model checkpoints/cifar10-speedrun")
def predict(
    images: Annotated[list[str], typer.Argument(help="Image files or URLs.")],
    model: Model,
    top_k: Annotated[int, typer.Option(help="Tags shown per image.")] = 3,
    device: Device = "auto",
    engine: Engine = "auto",
    precision: Precision = "auto",
    max_pixels: MaxPixels = 100_000_000,
    as_json: Json = False,
) -> None:
    """Show the best tags of single pictures; nothing is written."""
    from tagger.tagging import TagConfig, job

    config = TagConfig(top_k=top_k, device=device, engine=engine, precision=precision, max_pixels=max_pixels)
    rows = job.predict(images, model, config)
    if as_json:
        _print_json(
            {"images": [{key: row.get(key) for key in ("uri", "status", "error", "candidates")} for row in rows]}
        )
    else:
        for row in rows:
            _print_prediction(row)
    if all(row["status"] != "ok" for row in rows):
        raise TooManyFailed(f"no tags for any of {len(rows)} images")


@app.command(epilog='Example: tagger query results "SELECT uri, tag FROM tags" --format csv')
def query(
    results: Results,
    sql: Annotated[str | None, typer.Argument(help="DuckDB SQL over the views images, tags and history.")] = None,
    format: Annotated[str, typer.Option(help="table, csv, json or parquet (parquet needs --out).")] = "table",
    out: Annotated[str | None, typer.Option(help="File to write instead of printing.")] = None,
) -> None:
    """Ask the results with SQL; without SQL: tag counts and files by status.

    Views: images (latest row per uri and model), tags (one row per image and tag), history (all rows).
    """
    from tagger import results as table

    if format not in ("table", "csv", "json", "parquet"):
        raise UsageError(f"--format {format}: expected table, csv, json or parquet")
    if format == "parquet" and not out:
        raise UsageError("--format parquet needs --out FILE")
    if sql is None:
        answers = {title: table.query(results, statement) for title, statement in table.OVERVIEW.items()}
        for title, answer in answers.items():
            if format == "table" and not out:
                typer.echo(title)
            _emit(answer, format, out and _titled(out, title))
    else:
        _emit(table.query(results, sql), format, out)


@app.command(epilog="Example: tagger export manifest.parquet --format huggingface --out photos/metadata.csv")
def export(
    table: Annotated[str, typer.Argument(help="Manifest (.parquet), or results folder or URL.")],
    out: Annotated[str, typer.Option(help="File to write.")],
    format: Annotated[str, typer.Option(help="csv, parquet, huggingface or label-studio.")],
    model: Annotated[str | None, typer.Option(help="Name of the model, when results hold several.")] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write a manifest's labels, or the latest tags of results, for other tools; `ingest --labels` reads them back."""
    from tagger import exporting

    written = exporting.export(table, out, format, model)
    if as_json:
        _print_json(asdict(written))
    elif not quiet:
        typer.echo(written.text())


@app.command(epilog="Example: tagger models checkpoints")
def models(
    folder: Annotated[str, typer.Argument(help="Folder of checkpoints.")] = "checkpoints", as_json: Json = False
) -> None:
    """List the checkpoints of a folder with their numbers."""
    from tagger import checkpoint

    found = checkpoint.list_checkpoints(folder)
    if as_json:
        keys = ("name", "model_id", "architecture", "task", "label_names", "metrics", "agreement")
        _print_json({"models": [{key: getattr(info, key) for key in keys} for info in found]})
        return
    rows = [
        {
            "name": info.name,
            "task": info.task,
            "labels": len(info.label_names),
            **_accuracy(info.metrics),
            **_agreement_here(info),
            "model_id": info.model_id,
        }
        for info in found
    ]
    if rows:
        _print_table(list(rows[0]), [list(row.values()) for row in rows])
    else:
        typer.echo(f"no checkpoints in {folder}")


@app.command(epilog="Example: tagger train cifar10 --out checkpoints/cifar10-speedrun --epochs 10")
def train(
    data: Annotated[str, typer.Argument(help="Folder with train/<class>/ and test/<class>/.")],
    out: Annotated[str, typer.Option(help="Checkpoint folder to write.")],
    image_size: Annotated[int, typer.Option(help="Side in pixels to which images are resized.")] = 32,
    epochs: Annotated[int, typer.Option(help="Passes over the training images.")] = 10,
    batch_size: Annotated[int, typer.Option(help="Images per step.")] = 512,
    seed: Annotated[int, typer.Option(help="Same seed, same CPU: the same net.")] = 0,
    device: Device = "auto",
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train a small convolutional net from scratch on class folders and save it as a checkpoint."""
    from tagger import training

    config = training.ScratchConfig(epochs=epochs, batch_size=batch_size, image_size=image_size, seed=seed)

    def on_epoch(report: training.EpochReport) -> None:
        if not (quiet or as_json):
            shown = f"loss {report.loss:.3f}  training accuracy {report.accuracy:.1%}  {report.seconds:.0f} s"
            typer.echo(f"epoch {report.epoch}/{epochs}  {shown}", err=True)

    info = training.train_folder(data, out, config, device, on_epoch)
    if as_json:
        _print_json({"out": out, "model_id": info.model_id, "metrics": info.metrics})
    elif not quiet:
        typer.echo(f"test accuracy {_accuracy(info.metrics)['accuracy']}\ncheckpoint: {out}")


benchmark = typer.Typer(no_args_is_help=True, help="Measure this machine: how fast, and how exactly.", **_STYLE)
app.add_typer(benchmark, name="benchmark")


@benchmark.command(epilog="Example: tagger benchmark throughput --model timm/resnet50.a1_in1k --source ~/photos")
def throughput(
    model: Model = "checkpoints/cifar10-speedrun",
    source: Annotated[
        str | None, typer.Option(help="Images to measure with; by default photo-sized pictures made on the spot.")
    ] = None,
    limit: Annotated[int, typer.Option(help="Images used, at most.")] = 1000,
    device: Device = "auto",
    engine: Engine = "auto",
    precision: Precision = "auto",
    batch_size: BatchSize = None,
    as_json: Json = False,
) -> None:
    """Measure what each stage of tagging could do alone, what a run achieves, and which stage binds."""
    from tagger.tagging import TagConfig
    from tagger.tagging.throughput import measure

    config = TagConfig(device=device, engine=engine, precision=precision, batch_size=batch_size)
    found = measure(model, source, config, limit)
    if as_json:
        _print_json(found.to_dict())
    else:
        _print_table(["stage", "images/s", ""], found.rows())
        typer.echo(found.text())


@benchmark.command(epilog="Example: tagger benchmark agreement --model timm/resnet50.a1_in1k --source ~/photos")
def agreement(
    model: Model,
    source: Annotated[str, typer.Option(help="Photographs like those to be tagged; 500 or more prove most.")],
    limit: Annotated[int, typer.Option(help="Photographs used, at most.")] = 1000,
    device: Device = "auto",
    engine: Engine = "auto",
    precision: Precision = "auto",
    as_json: Json = False,
) -> None:
    """Measure how far every engine and precision agrees with eager fp32 and timm's transform, and how fast it is.

    What is found is kept with the checkpoint; `auto` then takes the fastest setting that agrees on 99.5%.
    """
    from tagger.engines import Choice
    from tagger.tagging.agreement import measure

    found = measure(model, source, Choice(device, engine, precision), limit, None if as_json else _say)
    if as_json:
        _print_json(found.to_dict())
    else:
        _print_table(found.columns, found.rows())
        typer.echo(found.text())


def main() -> None:
    """Run the command line."""
    app(prog_name="tagger")


# --- what is printed --------------------------------------------------------------------------------------------------


def _agreement_here(info: Any) -> dict[str, str]:
    """Return what `auto` runs on this processor, and how far the settings measured here agree."""
    from tagger import machine

    records = info.agreement.get(machine.processor(), {})
    shown = [f"{key}: {record['top1']:.2%}" for key, record in records.items()]
    return {"agreement here": "\n".join(shown) or "not measured"}


def _accuracy(metrics: dict[str, Any]) -> dict[str, str]:
    test = metrics.get("test", {})
    if "accuracy" not in test:
        return {"accuracy": "unknown", "tested on": ""}
    low, high = test["interval"]
    return {"accuracy": f"{test['accuracy']:.2%} ({low:.1%} to {high:.1%})", "tested on": f"{test['images']:,} images"}


def _say(line: str) -> None:
    typer.echo(line, err=True)


def _print_json(value: dict[str, Any]) -> None:
    typer.echo(json.dumps(value, default=str, ensure_ascii=False))


def _print_prediction(row: dict[str, Any]) -> None:
    typer.echo(row["uri"])
    if row["status"] != "ok":
        typer.echo(f"  {row['status']}: {row['error']}")
    for pair in row.get("candidates") or []:
        typer.echo(f"  {pair['score']:6.1%}  {'█' * round(20 * pair['score']):<20}  {pair['tag']}")


def _titled(out: str, title: str) -> str:
    stem, dot, suffix = out.rpartition(".")
    return f"{stem}-{title}.{suffix}" if dot else f"{out}-{title}"


def _emit(result: pa.Table, format: str, out: str | None) -> None:
    if format == "table" and not out:
        shown = result.slice(0, 50)
        _print_table(result.column_names, [list(row.values()) for row in shown.to_pylist()])
        if len(result) > 50:
            typer.echo(f"… {len(result) - 50:,} more rows; --format csv prints them all")
        return
    from tagger import results, storage

    content = results.export(result, "csv" if format == "table" else format)
    if out:
        storage.write_atomic(storage.absolute(out), content)
    else:
        sys.stdout.buffer.write(content)
        sys.stdout.flush()


def _print_table(names: list[str], rows: list[list[Any]]) -> None:
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
def _found_progress(silent: bool) -> Iterator[Callable[[int], None]]:
    """Show the number of files found so far, on a terminal only."""
    if silent or not sys.stderr.isatty():
        yield lambda found: None
        return
    from rich.console import Console

    with Console(stderr=True).status("listing") as status:
        yield lambda found: status.update(f"listing: {found:,} files")


@contextlib.contextmanager
def _tag_progress(silent: bool) -> Iterator[Callable[[Any], None]]:
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


if __name__ == "__main__":
    main()
