"""`ingest`, `query`, `status`, `compact`, `export`: tables in and out."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from tagger import options
from tagger.cli.app import Json, Quiet, app
from tagger.cli.printing import emit, print_json, progress, show, titled
from tagger.data.config import LabelOptions
from tagger.errors import TableError, UsageError
from tagger.options import Grace, ManifestOut, Results, Source, expand
from tagger.tagging.config import SidecarConfig

if TYPE_CHECKING:
    from tagger.evaluation.onnx import ExportedModel
    from tagger.tagging.export import Exported
    from tagger.tagging.export_xmp import Sidecar


@app.command(epilog="Example: tagger ingest ~/photos --out manifest.parquet")
@expand
def ingest(
    source: Source,
    out: ManifestOut,
    options: LabelOptions,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """List image files and their labels in a manifest, one row per file."""
    from tagger.data import ingest

    with progress(quiet or as_json) as show_step:
        found = ingest.write_manifest(source, out, options, lambda found: show_step("listing", found))
    if as_json:
        print_json({"out": out, **found.counts()})
    elif not quiet:
        show(f"{found.text()}\nmanifest: {out}")


@app.command(epilog='Example: tagger query results "SELECT uri, tag FROM tags" --format csv')
@expand
def query(
    results: Results,
    sql: Annotated[str | None, typer.Argument(help="DuckDB SQL over the views images, tags and history.")] = None,
    format: Annotated[
        str, typer.Option(help="table, csv, json or parquet [default with --out: its suffix].")
    ] = "table",
    out: Annotated[str | None, typer.Option(help="File to write instead of printing.")] = None,
    present: Annotated[
        bool, typer.Option("--present", help="Only files that still exist, according to the last listing of a source.")
    ] = False,
) -> None:
    """Query a results table with SQL.

    Without a query, it prints counts of tags, and of files by status.
    Views: images (latest row per uri and model), tags (one row per image and tag), history (all rows). SQL can read and
    write any file that you can.
    """
    from tagger.tagging import query as table

    if format not in ("table", "csv", "json", "parquet"):
        raise UsageError(f"--format {format}: expected table, csv, json or parquet")
    suffix = (out or "").rpartition(".")[2].lower()
    if format == "table" and out:
        format = suffix if suffix in ("json", "parquet") else "csv"
    if format == "parquet" and not out:
        raise UsageError("--format parquet needs --out FILE")
    if sql is None:
        answers = {title: table.query(results, statement, present) for title, statement in table.OVERVIEW.items()}
        for title, answer in answers.items():
            if format == "table" and not out:
                show(title)
            emit(answer, format, out and titled(out, title))
    else:
        emit(table.query(results, sql, present), format, out)


@app.command(epilog="Example: tagger status results --verify")
@expand
def status(
    results: Results,
    verify: Annotated[bool, typer.Option("--verify", help="Read every byte of every part file.")] = False,
    as_json: Json = False,
) -> None:
    """Show the state of a results table.

    It prints files done, missing, failed and vanished, the last runs, and damaged parts. It exits with 1 if a part is
    damaged.
    """
    from tagger.tagging.status import status

    found = status(results, verify)
    if as_json:
        print_json(asdict(found))
    else:
        show(found.text())
    if found.damaged:
        raise TableError(
            f"{results}: {len(found.damaged)} damaged part files; the next `tagger tag` sets them aside and tags their "
            "files again"
        )


@app.command(epilog="Example: tagger compact results")
@expand
def compact(results: Results, grace: Grace = 60.0, as_json: Json = False, quiet: Quiet = False) -> None:
    """Merge small part files into large ones.

    Rows do not change, and queries and runs can continue. Merged parts are deleted after --grace seconds.
    """
    from tagger.tagging.compact import compact

    with progress(quiet or as_json) as show_step:
        done = compact(results, grace, show_step)
    if as_json:
        print_json(asdict(done))
    elif not quiet:
        show(done.text())


@app.command(epilog="Example: tagger export manifest.parquet --format huggingface --out photos/metadata.csv")
@expand
def export(
    table: Annotated[str, typer.Argument(help="Manifest (.parquet), results folder or URL; a checkpoint for onnx.")],
    format: Annotated[str, typer.Option(help="csv, parquet, huggingface, label-studio, xmp, onnx or customvision.")],
    sidecars: SidecarConfig,
    out: Annotated[str | None, typer.Option(help="File to write; none for xmp.")] = None,
    model: Annotated[str | None, typer.Option(help="Name of the model, if the results have several.")] = None,
    check: Annotated[
        str | None, typer.Option(help="onnx: photographs to compare on [default: generated images].")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="onnx: write the file even below 99.5% agreement.")] = False,
    precision: Annotated[
        Literal["fp32", "int8"],
        typer.Option(help="onnx: int8 is calibrated on some of the photographs of --check."),
    ] = "fp32",
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write labels or tags for other tools, or a model as ONNX.

    TABLE is a manifest (its labels are written), a results folder (its latest tags are written) or a checkpoint.
    `ingest --labels` reads labels and tags back; `tag`, `predict` and `serve` run the .onnx file. customvision: a zip
    with an ONNX file, as exported by Azure Custom Vision; --check and --force as for onnx. xmp: tags are added to the
    keywords in the sidecar of each image; existing content is not changed.
    """
    written: Exported | ExportedModel
    if format == "xmp":
        if out is not None or check is not None or force:
            raise UsageError("--out, --check and --force have no effect with --format xmp: omit them")
        _export_xmp(table, sidecars, model, as_json, quiet)
        return
    if unused := options.given(sidecars):
        shown = ", ".join(f"--{options.flag(name)}" for name in sorted(unused))
        raise UsageError(f"{shown}: no effect with --format {format}; omit it, or use xmp")
    if out is None:
        raise UsageError(f"--format {format} needs --out FILE")
    if format in ("onnx", "customvision"):
        from tagger.evaluation.customvision import export_customvision
        from tagger.evaluation.onnx import export_onnx

        if model is not None:
            raise UsageError(f"--model {model}: has no effect with --format {format}; the checkpoint is the argument")
        if format == "onnx":
            written = export_onnx(table, out, check, force, precision)
        elif precision != "fp32":
            raise UsageError(f"--precision {precision}: has no effect with --format {format}; use --format onnx")
        else:
            written = export_customvision(table, out, check, force)
    else:
        from tagger.tagging import export

        if check is not None or force or precision != "fp32":
            raise UsageError(
                f"--check, --force and --precision have no effect with --format {format}: omit them, or use onnx"
            )
        written = export.export(table, out, format, model)
    if as_json:
        print_json(asdict(written))
    elif not quiet:
        show(written.text())


def _export_xmp(results: str, sidecars: SidecarConfig, model: str | None, as_json: bool, quiet: bool) -> None:
    from tagger.tagging.export_xmp import export_xmp

    def show_sidecar(sidecar: Sidecar) -> None:
        if sidecars.dry_run and not as_json:
            show(f"{sidecar.uri}: {', '.join(sidecar.keywords)}")

    with progress(quiet or as_json or sidecars.dry_run) as show_step:
        found = export_xmp(
            results, sidecars, model, show_sidecar, lambda done, total: show_step("writing sidecars", done, total)
        )
    if as_json:
        print_json(asdict(found))
    elif not quiet:
        show(found.text())
    found.check()
