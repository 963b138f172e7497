"""`review`: a local web page to confirm and correct tags."""

from __future__ import annotations

import contextlib

from tagger import options
from tagger.cli.app import Quiet, app
from tagger.cli.printing import progress, show
from tagger.errors import MissingExtra
from tagger.options import expand
from tagger.reviewing.config import ReviewConfig


@app.command(epilog="Example: tagger review results --labels labels.parquet --by ada")
@expand
def review(results: options.Results, config: ReviewConfig, quiet: Quiet = False) -> None:
    """Confirm and correct tags on a web page.

    Every decision is a label. To train on them: `tagger train FOLDER --labels labels.parquet`, where FOLDER has the
    images. The page can be opened only on this machine, with the token in its URL.
    """
    try:
        from tagger.reviewing import server
    except ModuleNotFoundError as error:
        raise MissingExtra("tagger review", str(error.name), "serve") from error

    waiting = contextlib.ExitStack()

    def announce(url: str) -> None:
        waiting.close()
        port = int(url.partition("127.0.0.1:")[2].partition("/")[0])
        moved = f"port {config.port} is in use; using {port}\n" if config.port not in (0, port) else ""
        show(url if quiet else f"{moved}review: {url}\nlabels: {config.labels}\nstop: Ctrl-C")

    with waiting:
        waiting.enter_context(progress(quiet))("reading the results table", 0)
        server.review(results, config, announce)
