"""Run a flow from the shell: `python -m flows.<verb>`, with the options and exit codes of the tagger command."""

import sys
import time
from collections.abc import Callable
from typing import Any, NoReturn

import typer
from prefect import Flow
from prefect.client.orchestration import get_client
from prefect.client.schemas import State
from prefect.settings import PREFECT_API_URL

from tagger.errors import TaggerError, UsageError, first_line
from tagger.options import expand
from tagger.redaction import redact, visible


def main(flow: Flow[..., Any]) -> None:
    """Parse the command line, run the flow in this process and exit with the codes of the tagger command."""
    command = expand(flow.fn, lambda **arguments: _run(flow, arguments))
    run(command, flow.name, f"`tagger {flow.name}` as a Prefect flow run." if flow.name != "nightly" else None)


def run(command: Callable[..., object], name: str, epilog: str | None = None) -> None:
    """Parse the command line and call a command; print an error as one line."""
    app = typer.Typer(
        add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )  # fmt: skip
    app.command(epilog=epilog)(command)
    try:
        app(prog_name=f"python -m flows.{name}")
    except TaggerError as error:
        _fail(error)


WAIT = 60
"""Seconds to wait for a server that is starting."""


def need_server(seconds: float = WAIT) -> None:
    """Wait for a Prefect server; raises UsageError without one: a temporary one would end with this process."""
    url, deadline = PREFECT_API_URL.value(), time.monotonic() + seconds
    if not url:
        raise UsageError(
            "PREFECT_API_URL is not set; run `prefect server start` and set it to the URL of the server's API, such as "
            "http://127.0.0.1:4200/api"
        )
    with get_client(sync_client=True) as client:
        while error := client.api_healthcheck():
            if time.monotonic() > deadline:
                raise UsageError(f"PREFECT_API_URL {url}: no Prefect server responds ({first_line(error)})")
            time.sleep(1)


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
