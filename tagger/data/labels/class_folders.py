"""Class folders: `root/<class>/a.jpg`, or `root/<split>/<class>/a.jpg` with train, val, valid, validation or test."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import groupby

from tagger import storage
from tagger.data.labels.record import Format, LabelFile, Notes, Options, Record, split_of
from tagger.errors import TableError, UsageError

_NO_CLASSES = {
    "images", "imgs", "jpegimages", "masks", "annotations", "labels", "segmentationclass", "segmentationobject",
    "groundtruth", "gtfine", "leftimg8bit", "thumbnails", "thumbs", "traina", "trainb", "vala", "valb", "testa",
    "testb",
}  # fmt: skip
"""Folders of known layouts that are not classes (Pascal VOC, Cityscapes, YOLO, CycleGAN, ...)."""
_VIEWS = 4
"""With more folders than this, they are classes; the names of their files are not compared."""


def matches(file: LabelFile) -> bool:
    """Return whether every image is in a class folder, and there are at least two classes."""
    return file.kind == "folder" and not why_not(file)


def why_not(file: LabelFile) -> str:
    """Return the reason why a listing does not have class folders; empty if it has."""
    if not file.listing:
        return "no images"
    one_of_each = {uri.rpartition("/")[0]: uri for uri in file.listing}
    folders = [(uri, _folders(uri, file.uri)) for uri in one_of_each.values()]
    depth = len(folders[0][1])
    if odd := next((uri for uri, path in folders if len(path) != depth), None):
        return f"images are at different depths, such as {folders[0][0]} and {odd}"
    if depth not in (1, 2):
        return f"images are {'directly in the source' if depth == 0 else 'too deep'}, such as {folders[0][0]}"
    splits = [split_of(path[0]) is not None for _, path in folders]
    if depth == 2 and not all(splits):  # a/x and b/x may be two classes or one: a guess
        return f"{'/'.join(folders[splits.index(False)][1])} is not inside a folder named after a split"
    if depth == 1 and any(splits):
        return f"{folders[splits.index(True)][1][0]} is the name of a split, not of a class"
    if known := next((path[-1] for _, path in folders if re.sub("[-_ ]", "", path[-1]).lower() in _NO_CLASSES), None):
        return f"{known} is part of a known layout, not a class"
    if len({path[-1] for _, path in folders}) < 2:
        return "there is only one class folder"
    return ""


def refuse_twins(file: LabelFile) -> None:
    """Raise UsageError if folders look like versions of the same images, such as `photos` and `previews`.

    That is: up to four folders, and half of the images have the same name as one in another folder. Consecutive numbers
    from 0 or 1 do not count as names, unless the folders also differ in their suffix, as photos and masks do.
    """
    folders: dict[str, list[str]] = defaultdict(list)
    for folder, uris in groupby(file.listing, lambda uri: uri.rpartition("/")[0]):
        folders[_folders(f"{folder}/", file.uri)[-1]] += uris
    if len(folders) > _VIEWS:
        return
    names = {folder: {uri.rpartition("/")[2].rpartition(".")[0] for uri in uris} for folder, uris in folders.items()}
    uses = Counter(name for found in names.values() for name in found)
    shared = [name for name, count in uses.items() if count > 1]
    few = 2 * sum(uses[name] for name in shared) < len(file.listing)
    if few or (_counted(shared) and not _one_suffix_each(folders)):
        return
    one, other = [folder for folder, found in names.items() if shared[0] in found][:2]
    raise UsageError(
        f"{file.uri}: {one} and {other} have images with the same names, such as {shared[0]}, so they may be versions "
        "of the same images, not classes. If they are classes, confirm with tagger ingest --label-format "
        "class-folders; else use --label-format none"
    )


def _counted(names: list[str]) -> bool:
    """Return whether names are consecutive numbers from 0 or 1, with a few missing."""
    return all(name.isdecimal() for name in names) and max(map(int, names)) <= 2 * len(names) + 1


def _one_suffix_each(folders: dict[str, list[str]]) -> bool:
    suffixes = [{uri.rpartition(".")[2].lower() for uri in uris} for uris in folders.values()]
    return all(len(found) == 1 for found in suffixes) and len(set(map(frozenset, suffixes))) > 1


def read(file: LabelFile, options: Options, notes: Notes) -> Iterator[Record]:
    """Yield a record per image; a folder inside a folder that is not named after a split is the class `a/x`.

    Raises TableError if the label file is not a folder.
    """
    if file.kind != "folder":
        raise TableError(f"{file.uri}: class-folders needs a folder, not a file")
    for uri in file.listing:
        path = _folders(uri, file.uri)
        split = split_of(path[0]) if len(path) > 1 else None
        labels = "/".join(path[1:] if split else path)
        yield Record(uri, (labels,) if labels else None, split)


def _folders(uri: str, root: str) -> list[str]:
    """Return the names of the folders between the root and a file, as on disk.

    A name whose bytes are not UTF-8 stays escaped, which keeps it apart from others.
    """
    names = [name for name in uri.removeprefix(root.rstrip("/") + "/").split("/")[:-1] if name]
    if storage.is_remote(uri):
        return names
    return [local if (local := storage.local_path(name)).isprintable() else name for name in names]


FORMAT = Format("class-folders", "ROOT/CLASS/IMAGE or ROOT/SPLIT/CLASS/IMAGE", matches, read, "folder")
