"""VGG Image Annotator: file attributes in a project of version 2 or 3, or in exports of version 2 as JSON and CSV."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping

from tagger.data.labels import json_stream, tables
from tagger.data.labels.cells import labels_in, united
from tagger.data.labels.record import Fields, Format, LabelFile, Notes, Options, Record
from tagger.errors import TableError

_IMAGES, _ATTRIBUTES = "_via_img_metadata", "_via_attributes"
_KEYS = ("filename", "file_attributes")
_VERSION_3 = ("attribute", "file", "metadata", "view")
_OWN = {"caption", "public_domain", "image_url", "width", "height"}
"""VIA's default attributes, and sizes, which are not labels unless --label-field names them."""


def matches(file: LabelFile) -> bool:
    """Return whether there are files with attributes, from a project or an export."""
    if file.kind == "text":
        return set(_KEYS) <= set(_columns(file))
    values = [element[1] for key, element in file.events if key == _IMAGES and isinstance(element, tuple)]
    if set(_VERSION_3) <= {key for key, _ in file.events}:
        return True
    names = {element[0] for _, element in file.events if isinstance(element, tuple)}
    return any(isinstance(value, dict) and set(_KEYS) <= value.keys() for value in values) or set(_KEYS) <= names


def read(file: LabelFile, options: Options, notes: Notes) -> Iterator[Record]:
    """Yield a record per image; raises UsageError if several attributes have values and --label-field is not given."""
    fields = Fields(file.uri, options.fields, notes)
    is_version_3 = set(_VERSION_3) <= {key for key, _ in file.events}
    read_images = _csv_images if file.kind == "text" else _version_3_images if is_version_3 else _json_images
    for name, attributes in read_images(file, notes):
        own = _OWN - {*options.fields}
        filled = {key: value for key, value in attributes.items() if value not in ("", None, {}) and key not in own}
        found = [labels_in(_chosen(filled[key]), options.delimiter, notes) for key in filled if fields.take(key)]
        yield Record(name, united(found))


def _chosen(value: object) -> object:
    """Return the set options of a checkbox; the value of any other attribute."""
    return [option for option, is_set in value.items() if is_set] if isinstance(value, dict) else value


def _json_images(file: LabelFile, notes: Notes) -> Iterator[tuple[str, Mapping[str, object]]]:
    """Yield (file name, attributes) of a project, or of an export, in which each image has its own key."""
    image: dict[str, object] = {}
    for key, element in json_stream.events(file.uri, file.encoding):
        if not isinstance(element, tuple):
            continue
        name, value = element
        if key == _IMAGES:
            yield from _image(value)
        elif key == _ATTRIBUTES:
            _note_classes(name, value, notes)
        elif name in _KEYS:
            image[name] = value
            if len(image) == len(_KEYS):
                yield from _image(image)
                image = {}


def _version_3_images(file: LabelFile, notes: Notes) -> Iterator[tuple[str, Mapping[str, object]]]:
    """Yield (file name, attributes) of a version 3 project, without annotations of regions and times."""
    parts: dict[str, dict[str, dict[str, object]]] = {key: {} for key in _VERSION_3}
    for key, element in json_stream.events(file.uri, file.encoding):
        if key in parts and isinstance(element, tuple) and isinstance(element[1], dict):
            parts[key][element[0]] = element[1]
    answers: dict[str, dict[str, object]] = defaultdict(dict)
    for entry in parts["metadata"].values():
        given = entry.get("av")
        if entry.get("xy") or entry.get("z"):
            notes.add("answers about a region or a time, ignored", str(given))
        elif isinstance(given, dict):
            found = ((parts["attribute"].get(key, {}), value) for key, value in given.items())
            answers[str(entry.get("vid"))].update({str(kind.get("aname")): _named(kind, str(v)) for kind, v in found})
    for kind in parts["attribute"].values():
        options = kind.get("options")
        notes.add_classes(map(str, options.values()) if isinstance(options, dict) else ())
    for view_id, view in parts["view"].items():
        files = view.get("fid_list")
        for file_id in files if isinstance(files, list) else ():
            yield str(parts["file"].get(str(file_id), {}).get("fname")), answers[view_id]


def _named(kind: Mapping[str, object], value: str) -> object:
    """Return the names of the chosen options, given as comma-separated ids; text is unchanged."""
    options = kind.get("options")
    if not isinstance(options, dict) or not options:
        return value
    return {str(options.get(key, key)): True for key in value.split(",") if key}


def _image(value: object) -> Iterator[tuple[str, Mapping[str, object]]]:
    attributes = value.get("file_attributes") if isinstance(value, dict) else None
    if isinstance(value, dict) and isinstance(attributes, dict):
        yield str(value.get("filename")), attributes


def _note_classes(kind: object, attributes: object, notes: Notes) -> None:
    """Note the options of file attributes as classes."""
    if kind == "file" and isinstance(attributes, dict):
        for attribute in attributes.values():
            options = attribute.get("options") if isinstance(attribute, dict) else None
            notes.add_classes(options if isinstance(options, dict) else ())


def _csv_images(file: LabelFile, notes: Notes) -> Iterator[tuple[str, Mapping[str, object]]]:
    if not matches(file):
        raise TableError(f"{file.uri}: no columns filename and file_attributes; have {', '.join(file.columns)}")
    chosen = [_columns(file).index(name) for name in _KEYS]
    for name, cell in tables.rows(file, chosen, notes):
        try:
            attributes = json.loads(str(cell or "{}"))
        except (ValueError, RecursionError) as error:
            raise TableError(f"{file.uri}: file_attributes of {name} are not JSON ({error})") from error
        yield str(name), attributes if isinstance(attributes, dict) else {}


def _columns(file: LabelFile) -> list[str]:
    """Return the columns, without the `#` that version 1 writes before the first."""
    return [name.removeprefix("#").strip() for name in file.columns]


FORMAT = Format(
    "via", "VGG Image Annotator's project, JSON or CSV with file attributes", matches, read, "json", has_fields=True
)
