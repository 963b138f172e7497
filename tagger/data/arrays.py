"""Images of one size with one label each, and the class folders they come from."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

import numpy as np
import numpy.typing as npt

from tagger import images, storage
from tagger.errors import ImageError, SourceError
from tagger.images.transforms import Preprocessing

Int64Array = npt.NDArray[np.int64]


@dataclass(frozen=True)
class LabelledImages:
    """Images of one size with one label each."""

    images: images.UInt8Array
    """(N, H, W, 3)"""
    labels: Int64Array
    """(N,) indices into label_names"""
    label_names: tuple[str, ...]
    lossy: bool = False
    """Pixels went through JPEG, so that strong nets see less than the original had."""

    def some(self, count: int, seed: int) -> LabelledImages:
        """Return so many of them, drawn by seed, in their order; all of them when there are no more."""
        if count >= len(self.labels):
            return self
        rows = np.sort(np.random.default_rng(seed).permutation(len(self.labels))[:count])
        return replace(self, images=self.images[rows], labels=self.labels[rows])

    def fingerprint(self) -> str:
        """Return a hash of pixels, labels and names."""
        digest = hashlib.sha256(self.images.tobytes())
        digest.update(self.labels.tobytes())
        digest.update("\0".join(self.label_names).encode())
        return digest.hexdigest()[:16]


def read_class_folders(folder: str, size: tuple[int, int], label_names: tuple[str, ...] = ()) -> LabelledImages:
    """Read `folder/<class>/image` files, resized to (height, width).

    Classes are the folder names in lexical order, or `label_names` when given (a test split must know no others).
    Raises SourceError when a class is unknown, nothing is found, or a file does not decode.
    """
    files = [(PurePosixPath(entry.uri).parent.name, entry.uri) for entry in storage.find_images(folder)]
    if not files:
        raise SourceError(f"{folder}: no images in class folders; expected {folder}/<class>/<image>")
    found = tuple(sorted({name for name, _ in files}))
    names = label_names or found
    if unknown := sorted(set(found) - set(names)):
        raise SourceError(f"{folder}: classes {unknown} are not among the training classes {list(names)}")
    fit_all = Preprocessing(size=size, crop_pct=1.0)
    with ThreadPoolExecutor() as pool:
        arrays = list(pool.map(lambda item: _read(item[1], fit_all), files))
    index = {name: i for i, name in enumerate(names)}
    labels = np.array([index[name] for name, _ in files], dtype=np.int64)
    return LabelledImages(np.stack(arrays), labels, names)


def _read(uri: str, preprocessing: Preprocessing) -> images.UInt8Array:
    try:
        picture, _ = images.decode(storage.read_bytes(uri))
    except ImageError as error:
        raise SourceError(f"{uri}: {error}; remove it from the training set") from error
    return images.fit(picture, preprocessing)
