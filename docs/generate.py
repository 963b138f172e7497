"""Write docs/commands.md from the commands' own --help: `make docs`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tagger.cli import app

HEAD = """# Commands

Written by `make docs` from `tagger COMMAND --help`. Exit codes are in [exit-codes.md](exit-codes.md).
"""


def reference() -> str:
    """Return the reference of all commands as Markdown."""
    sections = (f"\n## tagger {name}\n\n```\n{_help(name)}\n```\n" for name in command_names())
    return HEAD + "".join(sections)


def command_names() -> list[str]:
    """Return every command as it is typed, those of groups after the others."""
    names = [command.callback.__name__ for command in app.registered_commands if command.callback]
    for group in app.registered_groups:
        commands = group.typer_instance.registered_commands if group.typer_instance else []
        names += [f"{group.name} {command.callback.__name__}" for command in commands if command.callback]
    return names


def _help(command: str) -> str:
    ran = subprocess.run(
        [sys.executable, "-m", "tagger.cli", *command.split(), "--help"],
        capture_output=True, text=True, check=True, env=os.environ | {"COLUMNS": "100", "TERMINAL_WIDTH": "100"},
    )  # fmt: skip
    return ran.stdout.rstrip()


if __name__ == "__main__":
    Path(__file__).with_name("commands.md").write_text(reference())
