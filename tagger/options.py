"""The command line that does the same again, for cards and reports."""

from __future__ import annotations

import shlex
from dataclasses import fields
from typing import Any

from tagger import storage


def command(verb: str, subject: str, config: Any, **given: str | None) -> str:
    """Return `tagger VERB SUBJECT` with the options that were given and those of `config` that are not its defaults.

    `config` is a dataclass whose fields are named as the options are. Passwords and queries of URLs are left out.
    """
    changed = {field.name: getattr(config, field.name) for field in fields(config)}
    defaults = {field.name: field.default for field in fields(config)}
    options = {**given, **{name: value for name, value in changed.items() if value != defaults[name]}}
    words = [word for name, value in options.items() if value is not None for word in _option(name, value)]
    return shlex.join(["tagger", verb, *map(storage.redact, (subject, *words))])


def _option(name: str, value: Any) -> list[str]:
    option = f"--{name.replace('_', '-')}"
    if isinstance(value, bool):
        return [option if value else f"--no-{option[2:]}"]
    return [option, ",".join(value) if isinstance(value, tuple) else str(value)]
