"""Statistics of a checkpoint's training images for detecting images unlike them: features, and a distance cut."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from tagger.errors import ModelError, first_line

FILE = "unknown.safetensors"
MAX_BYTES = 256 << 20
"""Maximum size of a file that is read."""
AGAIN = "`tagger calibrate` recreates it"
_NAME = "examples"

Float32Array = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Statistics:
    """Features of training images, and the distance above which an image is unknown."""

    examples: Float32Array
    """(N, D) of unit length, in the precision of the file: float16"""
    neighbour: int
    """Rank of the example whose distance is used; 1: the nearest."""
    cut: float
    facts: Mapping[str, object] = field(default_factory=dict)
    """Split and number of the images that the cut was chosen on, and the share of unknown test images."""

    def entry(self) -> dict[str, object]:
        """Return the entry in tagger.json."""
        return {"cut": self.cut, "neighbour": self.neighbour, **self.facts}

    def distances(self, embeddings: Float32Array) -> Float32Array:
        """Return the cosine distance (N,) of embeddings (N, D); raises ModelError for embeddings of another length."""
        if embeddings.shape[1] != self.examples.shape[1]:
            raise ModelError(
                f"{FILE}: has features of length {self.examples.shape[1]}, the network's {embeddings.shape[1]}; "
                f"it belongs to another checkpoint; {AGAIN}"
            )
        similarities = unit(embeddings) @ self.examples.T
        nearest: Float32Array = np.partition(similarities, -self.neighbour, axis=1)[:, -self.neighbour]
        return 1 - nearest

    def fingerprint(self) -> str:
        """Return a hash of everything that decides which images are unknown."""
        digest = hashlib.sha256(self.examples.astype(np.float16).tobytes())
        digest.update(repr((self.examples.shape, self.neighbour, self.cut)).encode())
        return digest.hexdigest()

    def unknown(self, distances: Float32Array) -> npt.NDArray[np.bool_]:
        """Return which distances (N,) are over the cut; NaN counts as over."""
        return ~(distances <= self.cut)


def to_bytes(statistics: Statistics) -> bytes:
    """Return the examples as the bytes of a safetensors file, in half precision."""
    import safetensors.numpy

    content: bytes = safetensors.numpy.save({_NAME: statistics.examples.astype(np.float16)})
    return content


def from_bytes(content: bytes, neighbour: int, cut: float, name: str) -> Statistics:
    """Return statistics from the bytes of a file and its entries in tagger.json; raises ModelError for invalid ones."""
    import safetensors.numpy
    from safetensors import SafetensorError

    try:
        found = safetensors.numpy.load(content)
    except (SafetensorError, KeyError, ValueError) as error:  # types that numpy does not have
        raise ModelError(f"{name}: damaged ({first_line(error)}); {AGAIN}") from error
    examples = found.get(_NAME)
    if examples is None or len(found) != 1 or examples.ndim != 2 or examples.dtype != np.float16:
        shown = ", ".join(f"{key} {value.dtype} {value.shape}" for key, value in found.items()) or "nothing"
        raise ModelError(f"{name}: expected {_NAME} of float16 (N, D), got {shown}; {AGAIN}")
    if not 1 <= neighbour <= len(examples) or not np.isfinite(examples).all():
        raise ModelError(
            f"{name}: expected at least {neighbour} examples of finite numbers, got {len(examples)}; {AGAIN}"
        )
    return Statistics(examples.astype(np.float32), neighbour, cut)


def unit(vectors: Float32Array) -> Float32Array:
    """Return vectors (N, D) scaled to unit length; zeros stay zeros."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    scaled: Float32Array = vectors / np.maximum(lengths, np.float32(1e-12))
    return scaled
