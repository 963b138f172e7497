"""CUB and NABirds: `images.txt`, `image_class_labels.txt`, `classes.txt` and `train_test_split.txt`, joined by id."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from tagger import storage
from tagger.data.labels import text
from tagger.data.labels.record import Format, LabelFile, Notes, Options, Record, names_of
from tagger.errors import TableError

IMAGES, LABELS, CLASSES, SPLITS = "images.txt", "image_class_labels.txt", "classes.txt", "train_test_split.txt"


def matches(file: LabelFile) -> bool:
    """Return whether this is the list of images or of labels, and the other is in the same folder."""
    name = file.uri.rpartition("/")[2]
    pairs = file.kind == "text" and all(len(line.split()) > 1 for line in file.lines)
    others = {IMAGES: LABELS, LABELS: IMAGES}
    return name in others and pairs and storage.exists(storage.join(file.folder, others[name]))


def read(file: LabelFile, options: Options, notes: Notes) -> Iterator[Record]:
    """Yield a record per image; the images are in the folder `images` next to the lists."""
    names = options.names or _pairs(file.folder, CLASSES)
    notes.add_classes(names.values())
    class_of, is_training = _pairs(file.folder, LABELS), _pairs(file.folder, SPLITS)
    splits = {"1": "train", "0": "test"}
    for image_id, path in _pairs(file.folder, IMAGES).items():
        ids = [class_of[image_id]] if image_id in class_of else []
        labels = names_of(ids, names, notes) if names else tuple(ids)
        yield Record(f"images/{path}", labels or None, splits.get(is_training.get(image_id, "")))


def _pairs(folder: str, name: str) -> Mapping[str, str]:
    """Return id -> rest of the line; empty if the list does not exist. Raises TableError for an id with two values."""
    uri = storage.join(folder, name)
    if not storage.exists(uri):
        return {}
    pairs: dict[str, str] = {}
    for line in text.lines(uri):
        row = line.split(maxsplit=1)
        if len(row) > 1 and pairs.setdefault(row[0], row[1]) != row[1]:
            raise TableError(f"{uri}: id {row[0]} has two values, {pairs[row[0]]} and {row[1]}; remove one")
    return pairs


FORMAT = Format("cub", "images.txt and image_class_labels.txt, joined by id", matches, read, "text")
