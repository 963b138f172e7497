"""Run a flow from the shell: `python -m flows.<verb>`, with the options and exit codes of the tagger command."""

import sys
from typing import Any, NoReturn

import typer
from prefect import Flow
from prefect.client.schemas import State

from tagger.errors import TaggerError
from tagger.options import expand
from tagger.storage import redact


def main(flow: Flow[..., Any]) -> None:
    """Parse the command line and run the flow."""
    app = typer.Typer(
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.command(epilog=f"The same as `tagger {flow.name}`, as a Prefect flow run.")(
        expand(flow.fn, lambda **arguments: run(flow, arguments))
    )
    try:
        app(prog_name=f"python -m flows.{flow.name}")
    except TaggerError as error:
        _fail(error)


def run(flow: Flow[..., Any], arguments: dict[str, Any]) -> None:
    """Run a flow here and exit: 0 done, 1 an error, 3 too many failures, 130 interrupted."""
    try:
        state: State[Any] = flow(**arguments, return_state=True)  # type: ignore[assignment]
    except KeyboardInterrupt:
        print(
            "tagger: interrupted; what was committed stays, run the same command to continue (train may need --resume)",
            file=sys.stderr,
        )
        sys.exit(130)
    if state.is_completed():
        print(state.message or "done")
        sys.exit(0)
    _fail(state.result(raise_on_failure=False))


def _fail(error: Any) -> NoReturn:
    print(f"tagger: {redact(' '.join(str(error).split()))}", file=sys.stderr)
    sys.exit(error.exit_code if isinstance(error, TaggerError) else 1)
