"""Exception hierarchy.

TaggerError
├── UsageError (ValueError)            an invalid argument
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
└── ImageError (ValueError)            an image that cannot be decoded; it becomes a row, not an exit code

Every message says what happened, to which file, and what to do about it.
"""

from __future__ import annotations

from tagger.redaction import redact


class TaggerError(Exception):
    """Base class of every error that the user can solve; the CLI prints it on one line and exits with `exit_code`.

    Credentials and signatures are removed from URLs in the message.
    """

    exit_code = 1

    def __init__(self, message: str) -> None:
        super().__init__(redact(message))


class UsageError(TaggerError, ValueError):
    """An invalid argument."""


class SourceError(TaggerError, OSError):
    """A source that cannot be listed or read."""


class SourceNotFound(SourceError, FileNotFoundError):
    """A source that does not exist."""


class AccessDenied(SourceError, PermissionError):
    """The store denied access; `credentials`: it rejected the credentials, so every other request would fail too."""

    def __init__(self, message: str, credentials: bool = False) -> None:
        super().__init__(message)
        self.credentials = credentials


class SourceTooLarge(SourceError):
    """A server sent more than the limit."""


class MissingExtra(TaggerError, ImportError):
    """A package is not installed; `extra` is the extra of tagger that includes it, if any."""

    def __init__(self, what: str, package: str, extra: str | None = None) -> None:
        requirement = f"'tagger[{extra}]'" if extra else package
        super().__init__(f"{what} needs the package {package}: pip install {requirement}")


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
    """An image that cannot be decoded.

    `status` is its status in the results table: corrupt, unsupported, unreadable, too_large or failed.
    """

    def __init__(self, status: str, message: str) -> None:
        super().__init__(message)
        self.status = status


def first_line(error: BaseException) -> str:
    """Return the first line of an exception's text, cut to 200 characters; its class name if it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
