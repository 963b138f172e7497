"""List, read and atomically write files in folders, buckets and behind URLs; the only package that uses fsspec."""

from tagger.redaction import public_uri, redact
from tagger.storage.archives import has_images
from tagger.storage.files import (
    LOCK,
    READ_TIMEOUT,
    cache_folder,
    claimed,
    exists,
    names_in,
    open_input,
    read_range,
    read_tail,
    remove,
    remove_folder,
    rename,
    sizes_in,
    sync_folder,
    write_atomic,
    write_new,
)
from tagger.storage.listing import describe, find_images
from tagger.storage.names import FoundFile, is_image_name
from tagger.storage.reading import read_bytes
from tagger.storage.stores import is_credential_error
from tagger.storage.uris import (
    StrPath,
    absolute,
    absolute_file,
    is_remote,
    join,
    local_path,
    local_uri,
    parent,
    resolve,
)

__all__ = [
    "LOCK", "READ_TIMEOUT", "FoundFile", "StrPath", "absolute", "absolute_file", "cache_folder", "claimed",
    "describe", "exists", "find_images", "has_images", "is_credential_error", "is_image_name", "is_remote", "join",
    "local_path", "local_uri", "names_in", "open_input", "parent", "public_uri", "read_bytes", "read_range",
    "read_tail", "redact", "remove", "remove_folder", "rename", "resolve", "sizes_in", "sync_folder",
    "write_atomic", "write_new",
]  # fmt: skip
