"""Find label files: a named file, those in a named folder, or those in the root of a source."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate

from tagger import storage
from tagger.data.config import LabelOptions
from tagger.data.labels import azure, class_folders, head, sidecar_text, xmp
from tagger.data.labels.formats import FORMATS
from tagger.data.labels.record import NO_COLUMNS, Format, LabelFile, Notes, split_of
from tagger.errors import AccessDenied, SourceError, TableError, UsageError

KNOWN_NAMES = (
    "metadata.csv", "metadata.jsonl", "metadata.parquet", "labels.json", "labels.csv", "labels.parquet",
    "annotations.xml", "synsets.txt", "_classes.csv", "_annotations.coco.json", "image_class_labels.txt",
    "list_attr_celeba.txt",
)  # fmt: skip
"""Names of label files in the root of a source, and in its folders train, val, valid, validation or test."""

_SPLIT_FOLDERS = ("train", "val", "valid", "validation", "test")
_SUFFIXES = (".csv", ".tsv", ".json", ".jsonl", ".manifest", ".parquet", ".xml", ".txt")
_SHAPES = 310
"""Maximum number of characters for the descriptions of the nearest formats in an error."""
_TABLES = ("table", "parquet")
_HINTS = {
    "table": "Name its columns with --file-column and --label-column",
    "json": "Try --label-format with one of these, or a CSV with the columns file_name,label",
    "xml": "Export it as CVAT for images 1.1, or write a CSV with the columns file_name,label",
    "text": "Give it a header line file_name,label, or try --label-format with one of these",
}

Heads = Callable[[str], LabelFile]
"""Reads the head of a label file."""


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
        return storage.redact(head.sample(self.files[0]))


def find(options: LabelOptions, root: str | None, listing: Sequence[str], notes: Notes) -> LabelSource | str:
    """Return the label files named by the options, or those in the root of the source; without any, the reason.

    Raises UsageError for an unknown format or several formats, TableError if no format matches the content.
    """
    labels, label_format = options.labels, options.label_format
    if label_format not in ("auto", "none", *FORMATS):
        raise UsageError(f"--label-format {label_format}: expected auto, none or one of {', '.join(FORMATS)}")
    if label_format == "none":
        if labels:
            raise UsageError(f"--labels {labels} and --label-format none: use one of them")
        return "disabled by --label-format none"
    if labels in FORMATS and FORMATS[labels].beside and not storage.exists(storage.absolute(labels)):
        label_format, labels = str(labels), None
    chosen, place = FORMATS.get(label_format), labels or root
    if chosen and chosen.beside and listing:
        place = place or storage.parent(listing[0])
    if place is None:
        if chosen:
            raise UsageError(f"--label-format {label_format}: add --labels FILE, since the source is not a folder")
        return "the source is not a folder; add --labels FILE"
    heads = partial(head.read_head, options=options, notes=notes)
    if chosen and chosen.beside and not labels:
        found: LabelSource | str = LabelSource(chosen, (LabelFile(place, "folder", listing=listing),))
    elif labels or chosen:
        found = _named_source(place, chosen, listing, notes, heads)
    else:
        found = _root_source(place, listing, notes, heads)
    columns = options.file_column or options.label_column or options.split_column
    if columns and (isinstance(found, str) or found.format.kind not in _TABLES):
        shown = found if isinstance(found, str) else f"{found.name} was read as {found.format.name}"
        raise UsageError(f"--file-column, --label-column and --split-column need a table: {shown}")
    return found


def _named_source(
    labels: str, chosen: Format | None, listing: Sequence[str], notes: Notes, heads: Heads
) -> LabelSource:
    """Return the label files at a path named by the user: a file, or a folder with files of one format."""
    uri = storage.absolute(labels)
    names = _names(uri)
    if names is None:
        file = heads(uri)
        return LabelSource(chosen or _format_of(file), (file,))
    folder = LabelFile(uri, "folder", listing=[file for file in listing if file.startswith(uri.rstrip("/") + "/")])
    if chosen and chosen.kind == "folder":
        return LabelSource(chosen, (folder,))
    known, others = _known_files(uri, names), [name for name in names if name.lower().endswith(_SUFFIXES)]
    if not (known or chosen) and all(name.endswith(".txt") for name in others) and sidecar_text.matches(folder):
        return LabelSource(sidecar_text.FORMAT, (folder,))
    if found := known or [storage.join(uri, name) for name in others]:
        return _one_format(map(heads, found), chosen, "name one with --labels FILE")
    if isinstance(source := _folder_source(folder, notes), LabelSource):
        return source
    raise TableError(
        f"{uri}: no label file in this folder, and no class folders for {source}; "
        "--label-format class-folders reads them anyway"
    )


def _root_source(root: str, listing: Sequence[str], notes: Notes, heads: Heads) -> LabelSource | str:
    """Return the label files in the root of a source, else class folders or sidecars; without any, the reason."""
    files = []
    for uri in _known_files(root, _root_names(root)):
        try:
            file = heads(uri)
            if _format_of(file).corrects:  # it has some images only, and must not hide the labels of the others
                notes.add("labels of `tagger review` in the source, not read; use --labels", uri)
            else:
                files.append(file)
        except TableError as error:
            notes.add("files named like label files that are not", str(error))
    if files:
        return _one_format(files, None, "name one with --labels FILE, or use --label-format none")
    found = _folder_source(LabelFile(root, "folder", listing=listing), notes)
    return f"no label file in the source, and no class folders: {found}" if isinstance(found, str) else found


def _folder_source(folder: LabelFile, notes: Notes) -> LabelSource | str:
    """Return the class folders of a listing, else its XMP sidecars; without either, the reason."""
    found = _class_folders(folder)
    if not xmp.matches(folder):
        return found
    if isinstance(found, str):
        return LabelSource(xmp.FORMAT, (folder,))
    notes.add("XMP sidecars next to images in class folders, not read; --labels xmp reads them", folder.uri)
    return found


def _class_folders(folder: LabelFile) -> LabelSource | str:
    """Return the class folders of a listing, or the reason why there are none."""
    if why_not := class_folders.why_not(folder):
        return why_not
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
        return None  # a file; opening it raises the precise error


def _root_names(root: str) -> Sequence[str]:
    """Return the names in the root of a source that may be label files, or folders with label files."""
    if root.startswith(("http://", "https://")):
        return ()
    if storage.is_remote(root):  # listing a bucket again may cost more than checking a few names
        return (*(name for name in KNOWN_NAMES if storage.exists(storage.join(root, name))), *_SPLIT_FOLDERS)
    return storage.names_in(root) or ()


def _known_files(folder: str, names: Sequence[str]) -> list[str]:
    """Return the label files with well-known names in a folder, else those of Roboflow's layout, one per split."""
    found = [name for name in KNOWN_NAMES if name in names] or [name for name in names if name.endswith(".coco.json")]
    if found:
        return [storage.join(folder, name) for name in found]
    splits = [storage.join(folder, name) for name in _SPLIT_FOLDERS if name in names]
    files = [storage.join(split, name) for split in splits for name in KNOWN_NAMES]
    return [file for file in files if storage.exists(file)]


def _one_format(files: Iterable[LabelFile], chosen: Format | None, choice: str) -> LabelSource:
    """Return label files as one source; of thousands of JSON files, only the head of the first stays in memory."""
    found: dict[Format, LabelFile] = {}
    taken, tags = list[LabelFile](), list[LabelFile]()
    for file in files:
        if azure.tag_list(file.elements):
            tags.append(file)
        else:
            found.setdefault(chosen or _format_of(file), file)
            taken.append(replace(file, events=()) if taken else file)
    if not taken:
        return LabelSource(chosen or _format_of(tags[0]), tuple(tags))
    if len(found) > 1:
        shown = ", ".join(f"{format.name} ({file.uri})" for format, file in found.items())
        raise UsageError(f"label files of several formats: {shown}; {choice}")
    return LabelSource(next(iter(found)), tuple(taken))


def _format_of(file: LabelFile) -> Format:
    """Return the first format that matches a file; raises TableError with the nearest formats and a hint."""
    kinds = _TABLES if file.named != NO_COLUMNS else ("json",) if file.kind == "json" else ()
    possible = [format for format in FORMATS.values() if not kinds or format.kind in kinds]
    if found := next((format for format in possible if format.matches(file)), None):
        return found
    kind = file.kind if file.kind in ("json", "xml") else "table" if len(file.columns) > 1 else "text"
    near = _nearest([format for format in FORMATS.values() if format.kind == kind])
    shown = head.first_words(file)
    raise TableError(f"{file.uri}: no label format matches, with {shown}. Nearest: {near}. {_HINTS[kind]}")


def _nearest(formats: list[Format]) -> str:
    """Return formats with their descriptions up to a readable length, then only names."""
    shown = [f"{format.name} ({format.shape})" for format in formats]
    fits = sum(total <= _SHAPES for total in accumulate(map(len, shown)))
    rest = [format.name for format in formats[fits:]]
    return "; ".join(shown[:fits]) + (f"; also {', '.join(rest)}" if rest else "")


def split_of_folder(file: LabelFile, root: str | None) -> str | None:
    """Return the split that the folder of a label file is named after; the name of the root is ignored."""
    if file.kind == "folder" or root is None or not file.folder.startswith(root.rstrip("/") + "/"):
        return None
    return split_of(file.folder.rpartition("/")[2])
