"""Images of one size with one label each, in memory."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from tagger import images

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

    def counts(self) -> dict[str, int]:
        """Return label -> images."""
        found = np.bincount(self.labels, minlength=len(self.label_names))
        return dict(zip(self.label_names, found.tolist(), strict=True))

    def fingerprint(self) -> str:
        """Return a hash of pixels, labels and names."""
        digest = hashlib.sha256(self.images.tobytes())
        digest.update(self.labels.tobytes())
        digest.update("\0".join(self.label_names).encode())
        return digest.hexdigest()[:16]
