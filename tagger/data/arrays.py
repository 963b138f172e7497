"""Labelled images of one size, in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from tagger import images

Int64Array = npt.NDArray[np.int64]


@dataclass(frozen=True)
class LabelledImages:
    """Labelled images of one size, in memory."""

    images: images.UInt8Array
    """(N, H, W, 3)"""
    truth: npt.NDArray[np.float32]
    """(N, K): 1 where the image has the label."""
    lossy: bool = False
    """True if the pixels were JPEG-compressed, which lowers the accuracy of strong networks."""

    def __len__(self) -> int:
        return len(self.images)

    @cached_property
    def labels(self) -> Int64Array:
        """Return the label index (N,) of each image; each must have exactly one label."""
        labels: Int64Array = self.truth.argmax(axis=1)
        return labels

    def some(self, count: int, seed: int) -> LabelledImages:
        """Return a random sample of `count` images in their order, or all images if there are not more."""
        if count >= len(self):
            return self
        rows = np.sort(np.random.default_rng(seed).permutation(len(self))[:count])
        return replace(self, images=self.images[rows], truth=self.truth[rows])

    def counts(self, label_names: Sequence[str]) -> dict[str, int]:
        """Return label -> images."""
        return dict(zip(label_names, self.truth.sum(axis=0, dtype=np.int64).tolist(), strict=True))

    def fingerprint(self, label_names: Sequence[str]) -> str:
        """Return a hash of pixels, labels and names."""
        digest = hashlib.sha256(self.images.tobytes())
        digest.update(self.labels.tobytes())
        digest.update("\0".join(label_names).encode())
        return digest.hexdigest()[:16]
