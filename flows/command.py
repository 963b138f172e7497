"""Run a flow from the shell: `python -m flows.<verb>`, with the exit codes of the tagger command."""

import argparse
import sys
from collections.abc import Callable
from dataclasses import MISSING, fields
from typing import Any, NoReturn

from prefect import Flow
from prefect.client.schemas import State

from tagger.errors import TaggerError
from tagger.storage import redact


def parser(verb: str, description: str | None, same_as: str = "") -> argparse.ArgumentParser:
    """Return the parser of `python -m flows.<verb>`; `same_as` is the command, where that has another name."""
    return argparse.ArgumentParser(
        prog=f"python -m flows.{verb}",
        description=description,
        epilog=f"The options are those of the command: `tagger {same_as or verb} --help` explains them.",
    )


def run(flow: Flow[..., Any], arguments: dict[str, Any]) -> None:
    """Run a flow here and exit: 0 done, 1 an error, 3 too many failures, 130 interrupted."""
    try:
        state: State[Any] = flow(**arguments, return_state=True)  # type: ignore[assignment]
    except KeyboardInterrupt:
        print(
            "tagger: interrupted; what was committed stays, the same command goes on (train may ask for --resume)",
            file=sys.stderr,
        )
        sys.exit(130)
    if state.is_completed():
        print(state.message or "done")
        sys.exit(0)
    _fail(state.result(raise_on_failure=False))


def add_options(parser: argparse.ArgumentParser, config: type[Any]) -> Callable[[argparse.Namespace], Any]:
    """Add one option per field of a config dataclass; return what builds the dataclass from the parsed arguments."""
    for field in fields(config):
        option, default = f"--{field.name.replace('_', '-')}", None if field.default is MISSING else field.default
        if isinstance(default, bool):
            parser.add_argument(option, action=argparse.BooleanOptionalAction, default=default)
        elif isinstance(default, tuple):
            parser.add_argument(option, type=_words, default=default, help=f"default: {','.join(default)}")
        else:
            kind = next((kind for kind in (float, int) if kind.__name__ in str(field.type)), str)
            parser.add_argument(option, type=kind, default=default, help=f"default: {default}")

    def build(parsed: argparse.Namespace) -> Any:
        try:
            return config(**{field.name: getattr(parsed, field.name) for field in fields(config)})
        except TaggerError as error:
            _fail(error)

    return build


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


def _fail(error: Any) -> NoReturn:
    print(f"tagger: {redact(' '.join(str(error).split()))}", file=sys.stderr)
    sys.exit(error.exit_code if isinstance(error, TaggerError) else 1)
