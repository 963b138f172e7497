"""Pixels of a dataset's images, by row: from files, or from arrays in memory."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from tagger import images, storage
from tagger.data.cache import ImageCache
from tagger.data.scan import IN_MEMORY, THUMBNAIL, fit_all, fitted_arrays, for_training
from tagger.images import Preprocessing, UInt8Array

Rows = npt.NDArray[np.int64]


@dataclass
class FilePixels:
    """Images in files; decoded images are cached if they fit into `limit` bytes."""

    uris: Sequence[str]
    preprocessing: Preprocessing
    training: dict[int, UInt8Array] = field(default_factory=dict)
    evaluation: dict[int, UInt8Array] = field(default_factory=dict)
    limit: int = IN_MEMORY
    image_ids: Sequence[str] = ()
    """SHA-256 of the files, if known, to look up cached thumbnails."""

    def training_image(self, row: int) -> UInt8Array:
        """Return an image, reduced to the size that random crops need; raises SourceError or ImageError."""
        if (known := self.training.get(row)) is not None:
            return known
        decoded: list[Image.Image] = []  # at the scale of the network's input, as in a scan
        images.prepare(storage.read_bytes(self.uris[row]), [self.preprocessing], inspect=decoded.append)
        array = for_training(decoded[0], self.preprocessing)
        if len(self.uris) * array.nbytes < self.limit:
            self.training[row] = array
        return array

    def fitted(self, rows: Rows) -> UInt8Array:
        """Return images as preprocessed by the tagging pipeline."""
        return fit_all(self._fitted, rows.tolist(), self.preprocessing)

    def thumbnail(self, row: int) -> UInt8Array:
        """Return the whole image, at most 160 pixels long."""
        with contextlib.closing(ImageCache()) as cache:
            known = cache.thumbnail(self.image_ids[row]) if self.image_ids else None
        if known:
            return np.asarray(Image.open(io.BytesIO(known)))
        image, _ = images.decode(storage.read_bytes(self.uris[row]))
        image.thumbnail((THUMBNAIL, THUMBNAIL))
        return np.asarray(image)

    def _fitted(self, row: int) -> UInt8Array:
        if (known := self.evaluation.get(row)) is not None:
            return known
        return images.prepare_for(storage.read_bytes(self.uris[row]), self.preprocessing)


@dataclass
class ArrayPixels:
    """Images (N, H, W, 3) in memory."""

    arrays: UInt8Array
    preprocessing: Preprocessing

    def training_image(self, row: int) -> UInt8Array:
        """Return an image, unchanged."""
        image: UInt8Array = self.arrays[row]
        return image

    def thumbnail(self, row: int) -> UInt8Array:
        """Return the image."""
        return self.training_image(row)

    def fitted(self, rows: Rows) -> UInt8Array:
        """Return images resized and cropped to the network's input."""
        return fitted_arrays(self.arrays[rows], self.preprocessing)


Pixels: TypeAlias = FilePixels | ArrayPixels
"""Images by row: for augmentation, preprocessed as in the tagging pipeline, or as thumbnails."""
