"""Run a flow from the shell: `python -m flows.<verb>`, with the options and exit codes of the tagger command."""

import sys
from typing import Any, NoReturn

import typer
from prefect import Flow
from prefect.client.schemas import State

from tagger.errors import TaggerError
from tagger.options import expand
from tagger.redaction import redact, visible


def main(flow: Flow[..., Any]) -> None:
    """Parse the command line, run the flow here and exit: 0 done, 1 an error, 3 too many failures, 130 interrupted."""
    app = typer.Typer(
        add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )  # fmt: skip
    command = expand(flow.fn, lambda **arguments: _run(flow, arguments))
    app.command(epilog=f"The same as `tagger {flow.name}`, as a Prefect flow run.")(command)
    try:
        app(prog_name=f"python -m flows.{flow.name}")
    except TaggerError as error:
        _fail(error)


def _run(flow: Flow[..., Any], arguments: dict[str, object]) -> None:
    try:
        state: State[object] = flow(**arguments, return_state=True)  # type: ignore[assignment]
    except KeyboardInterrupt:
        _fail("interrupted; what is written stays, run the command again to continue (train: with --resume)", 130)
    if not state.is_completed():
        _fail(state.result(raise_on_failure=False))
    print(visible(state.message or "done"))


def _fail(error: object, code: int = 1) -> NoReturn:
    print(f"tagger: {visible(redact(' '.join(str(error).split())))}", file=sys.stderr)
    sys.exit(error.exit_code if isinstance(error, TaggerError) else code)
