"""Folders, buckets and single files: list, read, write atomically. The only room that touches fsspec."""

from tagger.storage.files import (
    cache_folder,
    exists,
    names_in,
    open_input,
    read_bytes,
    read_tail,
    remove,
    remove_folder,
    rename,
    write_atomic,
)
from tagger.storage.listing import FoundFile, describe, find_images, is_image_name
from tagger.storage.stores import is_credential_error
from tagger.storage.uris import (
    StrPath,
    absolute,
    absolute_file,
    is_remote,
    join,
    local_path,
    local_uri,
    public_uri,
    redact,
    resolve,
)

__all__ = [
    "FoundFile",
    "StrPath",
    "absolute",
    "absolute_file",
    "cache_folder",
    "describe",
    "exists",
    "find_images",
    "is_credential_error",
    "is_image_name",
    "is_remote",
    "join",
    "local_path",
    "local_uri",
    "names_in",
    "open_input",
    "public_uri",
    "read_bytes",
    "read_tail",
    "redact",
    "remove",
    "remove_folder",
    "rename",
    "resolve",
    "write_atomic",
]
