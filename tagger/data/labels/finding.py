"""Find label files: the one that was named, those of a folder, or those that lie in the root of a source."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tagger import storage
from tagger.data.labels import azure, class_folders
from tagger.data.labels.looking import first_words, look, sample
from tagger.data.labels.record import Format, LabelFile, Notes, split_of
from tagger.errors import AccessDenied, SourceError, TableError, UsageError

KNOWN_NAMES = (
    "metadata.csv", "metadata.jsonl", "metadata.parquet", "labels.json", "labels.csv", "labels.parquet",
    "annotations.xml", "synsets.txt", "_classes.csv", "_annotations.coco.json",
)  # fmt: skip
"""Looked for in the root of a source, and in its folders called train, val, valid, validation or test."""

_SPLIT_FOLDERS = ("train", "val", "valid", "validation", "test")
_SUFFIXES = (".csv", ".tsv", ".json", ".jsonl", ".parquet", ".xml", ".txt")
_HINTS = {
    "table": "Name the column of files file_name and that of labels label, or try --label-format delimited",
    "json": "Try --label-format with one of these, or a CSV with the columns file_name,label",
    "xml": "Export it as CVAT for images 1.1, or write a CSV with the columns file_name,label",
    "text": "Give it a header line file_name,label, or try --label-format with one of these",
}


@dataclass(frozen=True)
class LabelSource:
    """Label files of one format."""

    format: Format
    files: tuple[LabelFile, ...]

    @property
    def name(self) -> str:
        """Return the file, or the folder and the number of files in it."""
        shown = storage.redact(self.files[0].uri)
        return shown if len(self.files) == 1 else f"{shown} and {len(self.files) - 1:,} more"

    @property
    def sample(self) -> str:
        """Return the first row, line or element."""
        return storage.redact(sample(self.files[0]))


def named_source(
    labels: str, wanted: Format | None, formats: Sequence[Format], listing: Sequence[str], notes: Notes
) -> LabelSource:
    """Return the label files at a place the user named: a file, or a folder with files of one format.

    Raises TableError when no format takes them, UsageError when several do.
    """
    uri = storage.absolute(labels)
    names = _names(uri)
    if names is None:
        file = look(uri, notes)
        return LabelSource(wanted or _format_of(file, formats), (file,))
    if wanted is not class_folders.FORMAT:
        found = _in_folder(uri, [name for name in KNOWN_NAMES if name in names] or _coco_names(names))
        found = found or _in_split_folders(uri, names)
        found = found or [storage.join(uri, name) for name in names if name.lower().endswith(_SUFFIXES)]
        if found:
            return _one_format([look(file, notes) for file in found], wanted, formats, strict=True)
    inside = [file for file in listing if file.startswith(uri.rstrip("/") + "/")]
    folder = LabelFile(uri, "folder", listing=inside)
    if wanted is class_folders.FORMAT:
        return LabelSource(wanted, (folder,))
    if class_folders.matches(folder):
        class_folders.refuse_twins(folder)
        return LabelSource(class_folders.FORMAT, (folder,))
    why_not = class_folders.why_not(folder)
    raise TableError(
        f"{uri}: no label file in this folder, and no class folders for {why_not}; "
        "--label-format class-folders takes them all the same"
    )


def root_source(root: str, formats: Sequence[Format], listing: Sequence[str], notes: Notes) -> LabelSource | str:
    """Return the label files in the root of a source, else its class folders; without either say why."""
    files = []
    for uri in _in_root(root):
        try:
            files.append(look(uri, notes))
            _format_of(files[-1], formats)
        except TableError as error:
            notes.add("files that are called like label files and are not", str(error))
            files = [file for file in files if file.uri != uri]
    if files:
        return _one_format(files, None, formats, strict=False)
    folder = LabelFile(root, "folder", listing=listing)
    why_not = class_folders.why_not(folder)
    if why_not:
        return f"no label file in the source, and no class folders: {why_not}"
    class_folders.refuse_twins(folder)
    return LabelSource(class_folders.FORMAT, (folder,))


def _names(uri: str) -> list[str] | None:
    """Return the names in a folder; None for a file."""
    if uri.startswith(("http://", "https://")):
        return None
    try:
        return storage.names_in(uri)
    except AccessDenied:
        raise
    except SourceError:
        return None  # a file; opening it says what else is wrong


def _in_root(root: str) -> list[str]:
    if root.startswith(("http://", "https://")):
        return []
    if storage.is_remote(root):  # listing a bucket a second time could cost more than asking for a few names
        names = [name for name in KNOWN_NAMES if storage.exists(storage.join(root, name))]
        return _in_folder(root, names) or _in_split_folders(root, _SPLIT_FOLDERS)
    names = storage.names_in(root) or []
    return _in_folder(root, [name for name in KNOWN_NAMES if name in names] or _coco_names(names)) or _in_split_folders(
        root, names
    )


def _in_folder(folder: str, names: Sequence[str]) -> list[str]:
    return [storage.join(folder, name) for name in names]


def _coco_names(names: Sequence[str]) -> list[str]:
    return [name for name in names if name.endswith(".coco.json")]


def _in_split_folders(root: str, names: Sequence[str]) -> list[str]:
    """Return label files of Roboflow's layout: one beside the images of each split."""
    folders = [storage.join(root, name) for name in _SPLIT_FOLDERS if name in names]
    files = (storage.join(folder, name) for folder in folders for name in KNOWN_NAMES)
    return [file for file in files if storage.exists(file)]


def _one_format(files: list[LabelFile], wanted: Format | None, formats: Sequence[Format], strict: bool) -> LabelSource:
    files = [file for file in files if not azure.tag_list(element for key, element in file.events if not key)] or files
    if wanted:
        return LabelSource(wanted, tuple(files))
    found: dict[str, list[LabelFile]] = {}
    by_name = {format.name: format for format in formats}
    for file in files:
        found.setdefault(_format_of(file, formats).name, []).append(file)
    if len(found) > 1:
        shown = ", ".join(f"{name} ({same[0].uri})" for name, same in found.items())
        choice = "name one with --labels FILE" + ("" if strict else ", or use --label-format none")
        raise UsageError(f"label files of several formats: {shown}; {choice}")
    (name, same), *_ = found.items()
    return LabelSource(by_name[name], tuple(same))


def _format_of(file: LabelFile, formats: Sequence[Format]) -> Format:
    """Return the first format that takes a file; raises TableError with the nearest formats and a way out."""
    if found := next((format for format in formats if format.matches(file)), None):
        return found
    kind = file.kind if file.kind in ("json", "xml") else "table" if len(file.columns) > 1 else "text"
    near = "; ".join(f"{format.name} ({format.shape})" for format in formats if format.kind == kind)
    raise TableError(f"{file.uri}: no label format takes it, with {first_words(file)}. Nearest: {near}. {_HINTS[kind]}")


def split_of_folder(file: LabelFile, root: str | None) -> str | None:
    """Return the split that a folder with a label file is called after; the root's own name says nothing."""
    if file.kind == "folder" or root is None or not file.folder.startswith(root.rstrip("/") + "/"):
        return None
    return split_of(file.folder.rpartition("/")[2])
