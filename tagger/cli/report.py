"""`report` and `drift`: pages about a results table."""

from __future__ import annotations

from tagger import options
from tagger.cli.app import Json, Quiet, app
from tagger.cli.printing import print_json, show
from tagger.options import expand


@app.command(epilog="Example: tagger report results --out report.html")
@expand
def report(
    results: options.Results,
    out: options.ReportPage = "report.html",
    model: options.OneModel = None,
    checkpoints: options.Checkpoints = "checkpoints",
    thumbnails: options.Thumbnails = 200,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write a page about a results table.

    It shows tags with scores and images, failures, duplicates, and changes in the last run.
    """
    from tagger.reporting import results_report

    found = results_report.write(results, out, model, checkpoints, thumbnails)
    if as_json:
        print_json({"out": out, "model": found.model, **found.totals})
    elif not quiet:
        show(f"{results_report.summary(found)}\nreport: {out}")


@app.command(epilog="Example: tagger drift results --reference 2026-10 --current 2026-11 --fail-over 0.1")
@expand
def drift(
    results: options.Results,
    reference: options.Reference = None,
    current: options.Current = None,
    out: options.DriftPage = "drift.html",
    model: options.OneModel = None,
    fail_over: options.FailOver = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Compare two periods of a results table.

    It compares scores, tags, failures, formats, sizes and embeddings.
    """
    from tagger.reporting import drift_report
    from tagger.tagging.drift import LIMIT

    found = drift_report.write(results, out, reference, current, model, LIMIT if fail_over is None else fail_over)
    if as_json:
        print_json({"out": out, **found.to_dict()})
    elif not quiet:
        show(f"{drift_report.summary(found)}\npage and figures: {out}, {out.removesuffix('.html')}.parquet")
    if fail_over is not None:
        found.check()
