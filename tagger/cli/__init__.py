"""The command line: one command per verb; parse, call, print. Each module that has commands is imported here."""

from tagger.cli import tag, tables, report, suggest, review, train, models, serve, migrate, benchmark  # noqa: F401, I001  in the order of the help
from tagger.cli.app import app, main

__all__ = ["app", "main"]
