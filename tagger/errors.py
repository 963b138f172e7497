"""All errors, as one tree.

TaggerError
├── UsageError (ValueError)            an argument that cannot be right
├── SourceError (OSError)              a source that cannot be listed or read
│   ├── SourceNotFound (FileNotFoundError)
│   ├── AccessDenied (PermissionError)     credentials refused: one error, not a million rows
│   └── SourceTooLarge                     a body over the limit
├── MissingExtra (ImportError)         an optional package is not installed
├── ModelError (ValueError)            a model that cannot be loaded, or does not fit its labels
├── TableError (ValueError)            a Parquet file that is foreign, newer or damaged
├── QueryError (ValueError)            SQL that DuckDB refuses
├── WriteError (OSError)               a result that could not be written
├── TooManyFailed                      a finished run in which more files failed than allowed; exit code 3
├── DriftFound                         two periods that differ by more than allowed; exit code 4
└── ImageError (ValueError)            one image that cannot become pixels; ends as a row, not as an exit

Every message says what happened, to which file, and what to do about it.
"""

from __future__ import annotations

from tagger.redaction import redact


class TaggerError(Exception):
    """Base of every error that is the user's to solve; the CLI prints it on one line and exits with `exit_code`.

    URLs in the message lose their credentials and signatures.
    """

    exit_code = 1

    def __init__(self, message: str) -> None:
        super().__init__(redact(message))


class UsageError(TaggerError, ValueError):
    """An argument that cannot be right."""


class SourceError(TaggerError, OSError):
    """A source that cannot be listed or read."""


class SourceNotFound(SourceError, FileNotFoundError):
    """Nothing is at the place that was named."""


class AccessDenied(SourceError, PermissionError):
    """The store refused to show something; `credentials`: it refused who we are, so all else will be refused too."""

    def __init__(self, message: str, credentials: bool = False) -> None:
        super().__init__(message)
        self.credentials = credentials


class SourceTooLarge(SourceError):
    """A server sent more than the limit."""


class MissingExtra(TaggerError, ImportError):
    """A package is not installed: one of an extra of ours, or another."""

    def __init__(self, what: str, package: str, extra: str | None = None) -> None:
        wanted = f"'tagger[{extra}]'" if extra else package
        super().__init__(f"{what} needs the package {package}: pip install {wanted}")


class ModelError(TaggerError, ValueError):
    """A model that cannot be loaded, or does not fit its labels."""


class TableError(TaggerError, ValueError):
    """A Parquet file that is foreign, newer or damaged."""


class QueryError(TaggerError, ValueError):
    """SQL that DuckDB refuses."""


class WriteError(TaggerError, OSError):
    """A result that could not be written."""


class TooManyFailed(TaggerError):
    """A finished run in which more files failed than allowed."""

    exit_code = 3


class DriftFound(TaggerError):
    """Two periods of a results table differ by more than allowed."""

    exit_code = 4


class ImageError(TaggerError, ValueError):
    """One image that cannot become pixels.

    `status` is the word that goes into the results table: corrupt, unsupported, unreadable, too_large or failed.
    """

    def __init__(self, status: str, message: str) -> None:
        super().__init__(message)
        self.status = status


def first_line(error: BaseException) -> str:
    """Return the beginning of what a library had to say, short enough for a message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
