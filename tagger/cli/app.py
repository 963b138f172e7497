"""The application that the modules of this package add their commands to; errors become one line and an exit code."""

from __future__ import annotations

import warnings
from typing import Annotated, Any

import pyarrow as pa
import typer
import typer.core

from tagger.cli.printing import say
from tagger.errors import TaggerError
from tagger.redaction import redact

EXIT_INTERRUPTED = 130

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")]
"""Options that commands share, beside those in tagger/options.py."""


class Commands(typer.core.TyperGroup):
    """Turn our errors into one line and an exit code, whichever command raised them."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was named."""
        try:
            return super().invoke(ctx)
        except TaggerError as error:
            say(f"tagger: {redact(' '.join(str(error).split()))}")
            raise typer.Exit(error.exit_code) from error
        except KeyboardInterrupt as error:
            say("tagger: interrupted; what is written stays, run the command again to continue (train: with --resume)")
            raise typer.Exit(EXIT_INTERRUPTED) from error


STYLE: dict[str, Any] = {
    "add_completion": False,
    "pretty_exceptions_enable": False,
    "rich_markup_mode": None,
    "context_settings": {"help_option_names": ["-h", "--help"]},
}
app = typer.Typer(cls=Commands, no_args_is_help=True, **STYLE)


def _print_version(given: bool) -> None:
    if given:
        from importlib import metadata

        typer.echo(f"tagger {metadata.version('tagger')}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Batch image tagging: a folder or bucket in, a Parquet table out, every night."""


def main() -> None:
    """Run the command line."""
    warnings.filterwarnings("ignore", message=".*failed to converge.*")  # a probe of any strength is chosen by its loss
    warnings.filterwarnings("ignore", module=r"PIL\.")  # about odd metadata, a line for each of a million images
    pa.set_memory_pool(pa.system_memory_pool())  # Arrow's own takes a third more for the list of a large source
    app(prog_name="tagger")
