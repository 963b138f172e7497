"""Find labelled images by their content, so that labels follow a file that was moved or renamed."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

from tagger import storage
from tagger.data.labels.record import Notes, Record
from tagger.errors import SourceError

_READERS = 8
_CHUNK = 256
_RENAMED = 10_000
"""Maximum number of files that are read to find an image that was renamed within its folder."""
LOST = "reviewed images that are not in the source"
CHANGED = "reviewed images whose file has changed, left unlabelled"

Pairs = Iterable[tuple[str, Record]]


def follow(pairs: Pairs, list_files: Callable[[], Mapping[str, str]], notes: Notes) -> Iterator[tuple[str, Record]]:
    """Yield (folder, record); a record with an image_id is yielded for every current uri of its image.

    `list_files` returns uri -> location, and is called only if needed. An image that is no longer at its uri is
    searched for among files with the same name, then in the same folder.
    """
    reviewed: dict[str, list[tuple[str, Record]]] = defaultdict(list)
    for folder, record in pairs:
        if record.image_id is None:
            yield folder, record
        else:
            reviewed[record.image_id].append((folder, record))
    if not reviewed:
        return
    locations = list_files()
    named = {record.file for group in reviewed.values() for _, record in group if record.file in locations}
    places = _places(sorted(named), locations, reviewed.keys())
    lost = {image_id: group for image_id, group in reviewed.items() if image_id not in places}
    places.update(_search(lost, locations, named))
    for image_id, group in reviewed.items():
        folder, record = group[-1]
        for uri in places.get(image_id, ()):
            yield folder, record._replace(file=uri)
        if image_id not in places:
            notes.add(CHANGED if record.file in locations else LOST, record.file)


def _search(
    lost: Mapping[str, Sequence[tuple[str, Record]]], locations: Mapping[str, str], known: set[str]
) -> dict[str, list[str]]:
    """Return the current uris of images that were moved or renamed."""
    files = [record.file for group in lost.values() for _, record in group]
    names, folders = {_name(file) for file in files}, {storage.parent(file) for file in files}
    moved = [uri for uri in locations if uri not in known and _name(uri) in names] if files else []
    found = _places(moved, locations, lost.keys())
    if len(found) == len(lost):
        return found
    beside = (
        uri for uri in locations if storage.parent(uri) in folders and uri not in known and _name(uri) not in names
    )
    rest = iter(list(islice(beside, _RENAMED)))
    while len(found) < len(lost) and (chunk := list(islice(rest, _CHUNK))):
        found.update(_places(chunk, locations, lost.keys()))
    return found


def _name(uri: str) -> str:
    return uri.rpartition("/")[2]


def _places(uris: Sequence[str], locations: Mapping[str, str], sought: Iterable[str]) -> dict[str, list[str]]:
    """Hash files; return image_id -> uris of those that are sought."""
    places: dict[str, list[str]] = defaultdict(list)
    ids = set(sought)
    with ThreadPoolExecutor(_READERS) as pool:
        for uri, image_id in zip(uris, pool.map(_image_id, [locations[uri] for uri in uris]), strict=True):
            if image_id in ids:
                places[image_id].append(uri)
    return dict(places)


def _image_id(location: str) -> str:
    """Return the SHA-256 of a file; empty if it cannot be read."""
    try:
        return hashlib.sha256(storage.read_bytes(location)).hexdigest()
    except SourceError:
        return ""
