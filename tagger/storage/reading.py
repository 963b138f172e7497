"""Read a file, or a member of an archive."""

from __future__ import annotations

from tagger.storage import archives, files
from tagger.storage.files import READ_TIMEOUT


def read_bytes(uri: str, attempts: int = 3, timeout: float = READ_TIMEOUT) -> bytes:
    """Return the whole content of one file, or of a member of an archive; failed remote reads are retried.

    Raises SourceError; AccessDenied with `credentials` means that all other reads will fail too.
    """
    if inside := archives.split(uri):
        return archives.read(inside, timeout)
    return files.read_bytes(uri, attempts, timeout)
