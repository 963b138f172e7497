"""`suggest`: which images to label next, and which labels to check."""

from __future__ import annotations

from tagger.cli.app import Json, Quiet, app
from tagger.cli.printing import print_json, progress, show
from tagger.options import Suggestable, SuggestionsOut, expand
from tagger.tagging.suggest.config import SuggestConfig


@app.command(epilog="Example: tagger suggest results --labels labels.parquet --count 50")
@expand
def suggest(
    source: Suggestable,
    config: SuggestConfig,
    out: SuggestionsOut = "suggested.parquet",
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Choose images to label next, or labels that look wrong.

    From a results table: uncertain images that are unlike each other. From a dataset: near-duplicates with different
    labels, labels that a model trained on the other images contradicts, dark and blurred images. Show them with
    `tagger review RESULTS --queue FILE`, or in Label Studio.
    """
    from tagger.tagging.suggest.run import suggest

    with progress(quiet or as_json) as show_step:
        show_step(f"reading {source}", 0)
        found = suggest(source, out, config, lambda done, total: show_step("images", done, total))
    if as_json:
        print_json({"out": out, **found.counts()})
    elif not quiet:
        show(f"{found.text()}\nsuggestions: {out}")
