"""The images of a ladder, in memory: CIFAR-10, or a user's own."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from tagger import hardware, images, storage
from tagger.checkpoint.info import fingerprint
from tagger.data import cifar10, ingest, scan
from tagger.data.arrays import LabelledImages
from tagger.data.dataset import Examples, read_examples
from tagger.errors import SourceError, UsageError, WriteError
from tagger.images.transforms import Preprocessing

CIFAR10 = "cifar10"
HELD_OUT = 10
"""One in so many training images of CIFAR-10 is held out where something is to be chosen."""
ALL = {"training": 50_000, "test": 10_000}
"""Images of CIFAR-10."""
LOSSY = "the images are a JPEG copy: strong nets are a few points below published numbers, which are of the original"

Say = Callable[[str], None]


@dataclass(frozen=True)
class Files:
    """The same images as files."""

    table: pa.Table
    """A manifest with labels, and the splits that every model and seed learns and is judged by."""
    test: list[str]
    """Where the test images are, in their order."""


@dataclass(frozen=True)
class LadderData:
    """Training and test images; some of the training images are validation where something is to be chosen."""

    name: str
    note: str
    """What must stand beside every number."""
    train: LabelledImages
    held_out: npt.NDArray[np.bool_]
    """(N,) which of the training images."""
    test: LabelledImages
    files: Callable[[], Files]
    """Return the same images as files, for the rungs that learn from those."""
    side: int | None = None
    """Pixels on each side of those files; None: photographs of any size."""
    left_out: tuple[str, ...] = ()
    """What is not among them, and why."""

    @cached_property
    def learning(self) -> LabelledImages:
        """Return the training images without those held out."""
        return _rows(self.train, ~self.held_out)

    @cached_property
    def validation(self) -> LabelledImages:
        """Return the training images that are held out."""
        return _rows(self.train, self.held_out)

    @cached_property
    def data_id(self) -> str:
        """Return a hash of all pixels, labels and names."""
        return fingerprint([self.train.fingerprint(), self.test.fingerprint(), self.held_out.tolist()])

    def describe(self) -> str:
        """Return in words what there is."""
        counts = f"{len(self.train.labels):,} training images ({int(self.held_out.sum()):,} of them held out where "
        found = f"{self.name}: {counts}something is chosen), {len(self.test.labels):,} test images"
        return "; ".join((found, *self.left_out))


def read(dataset: str, data: str | None, image_size: int, say: Say) -> LadderData:
    """Read CIFAR-10 (`data` says where it is) or a manifest or folder of labelled images.

    Raises SourceError when a class is missing in a split.
    """
    found = _cifar10(data, say) if dataset == CIFAR10 else _own(dataset, image_size, say)
    names = found.train.label_names
    for split, part in (("training", found.learning), ("test", found.test)):
        if missing := sorted(set(range(len(names))) - set(part.labels.tolist())):
            shown = ", ".join(names[index] for index in missing[:5])
            raise SourceError(f"{dataset}: no {split} image of {shown}; add some, or leave the label out")
    return found


def _rows(data: LabelledImages, rows: npt.NDArray[np.bool_]) -> LabelledImages:
    return replace(data, images=data.images[rows], labels=data.labels[rows])


def _cifar10(data: str | None, say: Say) -> LadderData:
    train, test = cifar10.read(data, say)
    place = np.zeros(len(train.labels), dtype=int)  # of an image among those of its class
    for label in range(len(train.label_names)):
        rows = train.labels == label
        place[rows] = np.arange(rows.sum())
    held_out = place % HELD_OUT == HELD_OUT - 1
    return LadderData(
        name="CIFAR-10",
        note="; ".join(filter(None, (_part(train, test), LOSSY if train.lossy or test.lossy else ""))),
        train=train,
        held_out=held_out,
        test=test,
        files=lambda: _files(train, test, data, held_out),
        side=train.images.shape[1],
    )


def _part(train: LabelledImages, test: LabelledImages) -> str:
    """Say when there is not all of CIFAR-10."""
    counts = [(len(part.labels), ALL[split], split) for split, part in (("training", train), ("test", test))]
    lacking = [f"{count:,} of {all_images:,} {split}" for count, all_images, split in counts if count != all_images]
    return f"only {' and '.join(lacking)} images, which nothing published is of" if lacking else ""


def _files(train: LabelledImages, test: LabelledImages, data: str | None, held_out: npt.NDArray[np.bool_]) -> Files:
    """Return the same images as files, those held out that nets from scratch do not learn from where they choose.

    Raises SourceError when the files are no longer those that were read, WriteError without room for a copy.
    """
    ours = not (data and cifar10.has_class_folders(data))
    table = ingest.read_labelled(_written(train, test) if ours or data is None else data).table
    named = {tuple(uri.rsplit("/", 3)[1:]): uri for uri in table["uri"].to_pylist()}  # (split, label, name)
    order = sorted(named, key=lambda key: key[2:] if ours else key[1:])  # ours are numbered, whatever their label
    train_uris, test_uris = ([named[key] for key in order if key[0] == split] for split in ("train", "test"))
    if (len(train_uris), len(test_uris)) != (len(train.labels), len(test.labels)):
        raise SourceError(f"{data or CIFAR10}: its images have changed since they were read; start again")
    split = dict.fromkeys(test_uris, "test") | {
        uri: "val" if held else "train" for uri, held in zip(train_uris, held_out.tolist(), strict=True)
    }
    table = table.filter(pc.is_in(table["uri"], pa.array(split)))
    column = pa.array([split[uri] for uri in table["uri"].to_pylist()], pa.string())
    return Files(table.set_column(table.column_names.index("split"), "split", column), test_uris)


def _written(train: LabelledImages, test: LabelledImages) -> str:
    """Return a folder in the cache with CIFAR-10 as PNG files in class folders, written once."""
    folder = storage.cache_folder() / "cifar10" / fingerprint([train.fingerprint(), test.fingerprint()])
    if not (folder / "_done").exists():
        try:
            for split, part in (("train", train), ("test", test)):
                _write_pictures(_paths(folder / split, part), part)
            (folder / "_done").touch()
        except OSError as error:
            raise WriteError(
                f"{folder}: the images could not be written ({error.strerror or error}); make room there, or set "
                "TAGGER_CACHE to another folder"
            ) from error
    return str(folder)


def _paths(folder: Path, part: LabelledImages) -> list[Path]:
    return [folder / part.label_names[label] / f"{index:05d}.png" for index, label in enumerate(part.labels.tolist())]


def _write_pictures(paths: list[Path], part: LabelledImages) -> None:
    for parent in {path.parent for path in paths}:
        parent.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(hardware.cores()) as pool:
        list(pool.map(lambda path, pixels: Image.fromarray(pixels).save(path, compress_level=1), paths, part.images))


def _own(dataset: str, side: int, say: Say) -> LadderData:
    try:
        found = read_examples(dataset, multilabel=False)
    except UsageError as error:
        told, _, advice = str(error).rpartition("; ")
        if advice != "add --multilabel":  # which is for `tagger train`
            raise
        raise UsageError(f"{told}; the models that are compared give an image one label") from error
    examples, report = scan.split(found, seed=0)
    for line in (*examples.notes, *report):
        say(f"note: {line}")
    examples = examples.keep(np.asarray(examples.truth.any(axis=1)), "they have none of the labels")
    parts = {name: examples.split(name) for name in ("train", "val", "test")}
    if not parts["test"].any():
        raise SourceError(f"{dataset}: no image is in the test split; label some more")
    everything = _decoded(examples, side)
    learning = parts["train"] | parts["val"]
    return LadderData(
        name=dataset.rstrip("/").rpartition("/")[2],
        note="",
        train=_rows(everything, learning),
        held_out=parts["val"][learning],
        test=_rows(everything, parts["test"]),
        files=lambda: Files(examples.table, list(np.array(examples.locations, dtype=object)[parts["test"]])),
        left_out=examples.notes,
    )


def _decoded(examples: Examples, side: int) -> LabelledImages:
    whole = Preprocessing(size=(side, side), crop_pct=1.0)
    with ThreadPoolExecutor(hardware.cores()) as pool:
        pixels = list(pool.map(lambda uri: images.prepare_for(storage.read_bytes(uri), whole), examples.locations))
    labels = examples.truth.argmax(axis=1).astype(np.int64)
    return LabelledImages(np.stack(pixels), labels, examples.label_names)
