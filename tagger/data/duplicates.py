"""Copies of images: exact, near (resized, recompressed, brighter, slightly cropped) or mirrored.

An image becomes a thumbnail of 16x16 RGB; all else is computed from it. The signs of the 64 lowest frequencies of its
grey DCT are a hash (Zauner 2010, "Implementation and benchmarking of perceptual image hash functions", but with signs
instead of a median); mirroring flips those of odd horizontal frequencies, so the hash of the mirrored image is free.
Close hashes are found by multi-index hashing (Norouzi, Punjani, Fleet 2012) and confirmed on the colour thumbnails.
100,000 thumbnails are 77 MB. Time grows with the pairs that look alike: thousands of frames of one still scene, or
nearly blank pages, cost more than as many photographs. The figures: python -m benchmarks.duplicates.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from tagger import images

SIDE = 16
MAX_BITS = 12
"""Maximum number of different bits, of 64, between the hashes of a pair; unrelated photographs differ in about 32."""
SIMILARITY = 0.9
"""Minimum correlation of a pair's thumbnails; benchmarks/duplicates.py compares this value with others."""

_BAND = 16  # bits; a pair of up to 7 different bits has one of four bands with at most one of them
_FLAT = 4.0  # grey levels: less contrast than this is noise,
_SAME = 2.0  # levels of root mean square: two blank images are copies only when their thumbnails are equal
_CHUNK = 1 << 14  # pairs compared at a time

Int64Array = npt.NDArray[np.int64]
UInt64Array = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class Fingerprint:
    """The id and the thumbnail used to find copies of an image."""

    image_id: str
    """SHA-256 of the file, hex"""
    thumbnail: images.UInt8Array
    """(16, 16, 3)"""


def thumbnail(image: Image.Image) -> images.UInt8Array:
    """Return the (16, 16, 3) thumbnail of an RGB image, for finding copies."""
    return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BOX, reducing_gap=4.0))


def near_duplicates(fingerprints: Sequence[Fingerprint], similarity: float = SIMILARITY) -> Int64Array:
    """Return the group (N,) of each image, identified by its lowest row; images in a group are copies of each other.

    All pairs of up to 7 different bits are compared, and most of those up to 12. If A is a copy of B and B of C, all
    three form one group, even where A and C are not alike: a split through the chain would leak. Where images are taken
    alike (documents, X-rays), look at the largest groups and raise `similarity` when they are not copies.
    """
    rows = np.arange(len(fingerprints))
    groups = rows.copy()
    thumbnails = np.array([entry.thumbnail for entry in fingerprints], np.uint8).reshape(-1, SIDE, SIDE, 3)
    same_thumbnail = _first_equal(entry.thumbnail.tobytes() for entry in fingerprints)
    _join(groups, _first_equal(entry.image_id for entry in fingerprints), rows)
    _join(groups, same_thumbnail, rows)
    distinct = np.flatnonzero(same_thumbnail == rows)
    straight, mirrored = _hashes(thumbnails[distinct])
    for queries, step in ((straight, 1), (mirrored, -1)):
        for first, second in _candidates(queries, straight):
            a, b = distinct[first], distinct[second]
            apart = groups[a] != groups[b]
            a, b = a[apart], b[apart]
            agree = _alike(thumbnails[a][:, :, ::step], thumbnails[b], similarity)
            _join(groups, a[agree], b[agree])
    return groups


def _first_equal(keys: Iterable[Hashable]) -> Int64Array:
    """Return for every row the first row with the same key."""
    seen: dict[Hashable, int] = {}
    return np.array([seen.setdefault(key, row) for row, key in enumerate(keys)], np.int64)


def _join(groups: Int64Array, first: Int64Array, second: Int64Array) -> None:
    """Unite the groups of each pair of rows."""
    for a, b in zip(first.tolist(), second.tolist(), strict=True):
        low, high = sorted((_root(groups, a), _root(groups, b)))
        groups[high] = low
    while len(first) and not np.array_equal(flat := groups[groups], groups):
        groups[:] = flat


def _root(groups: Int64Array, row: int) -> int:
    while groups[row] != row:
        groups[row] = groups[groups[row]]
        row = int(groups[row])
    return row


# --- hashes -----------------------------------------------------------------------------------------------------------

_FREQUENCIES = sorted(
    ((y, x) for y in range(11) for x in range(11) if x or y), key=lambda f: (f[0] ** 2 + f[1] ** 2, f)
)
_Y, _X = np.array(_FREQUENCIES[:64]).T
_DCT = np.cos(np.pi / SIDE * np.outer(np.arange(11), np.arange(SIDE) + 0.5))
_GREY = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601


def _hashes(thumbnails: images.UInt8Array) -> tuple[UInt64Array, UInt64Array]:
    """Return the 64-bit hashes of thumbnails (N, 16, 16, 3) and those of their mirror images."""
    parts = [_spectrum(chunk) for chunk in np.array_split(thumbnails, len(thumbnails) // 10_000 + 1)]
    spectrum = np.concatenate(parts)
    turned = np.where(_X % 2, -spectrum, spectrum)
    straight, mirrored = (np.packbits(bits, axis=1).view(np.uint64)[:, 0] for bits in (spectrum > 0, turned > 0))
    return straight, mirrored


def _spectrum(thumbnails: images.UInt8Array) -> npt.NDArray[np.int16]:
    """Return 64 DCT coefficients (N, 64), rounded to integers, so that numerical noise has no sign."""
    values = _DCT @ (thumbnails @ _GREY) @ _DCT.T / SIDE
    return np.ascontiguousarray(np.rint(values[:, _Y, _X]).astype(np.int16))


def _candidates(queries: UInt64Array, hashes: UInt64Array) -> Iterator[tuple[Int64Array, Int64Array]]:
    """Yield rows (a, b), a < b, whose query and hash differ in at most MAX_BITS; pairs may be repeated."""
    for shift in range(0, 64, _BAND):
        searched, keys = ((bits >> np.uint64(shift) & np.uint64(0xFFFF)).astype(np.int64) for bits in (queries, hashes))
        order = np.argsort(keys, kind="stable")
        sizes = np.bincount(keys, minlength=1 << _BAND)
        starts = np.cumsum(sizes) - sizes
        for flip in (0, *(1 << bit for bit in range(_BAND))):
            for a, place in _expand(sizes[searched ^ flip]):
                b = order[starts[searched[a] ^ flip] + place]
                near = (a < b) & (np.bitwise_count(queries[a] ^ hashes[b]) <= MAX_BITS)
                yield a[near], b[near]


def _expand(sizes: Int64Array) -> Iterator[tuple[Int64Array, Int64Array]]:
    """Yield (row, 0), (row, 1), ... up to each row's size, about _CHUNK of them at a time."""
    ends = np.cumsum(sizes)
    total = int(ends[-1]) if len(ends) else 0
    for rows in np.split(np.arange(len(sizes)), np.searchsorted(ends, np.arange(_CHUNK, total, _CHUNK))):
        starts = np.cumsum(sizes[rows]) - sizes[rows]
        row = np.repeat(rows, sizes[rows])
        yield row, np.arange(len(row)) - np.repeat(starts, sizes[rows])


# --- thumbnails -------------------------------------------------------------------------------------------------------


def _alike(left: images.UInt8Array, right: images.UInt8Array, similarity: float) -> npt.NDArray[np.bool_]:
    """Return which pairs of thumbnails (N, 16, 16, 3) correlate, whatever their brightness, or are equal."""
    a, b = (side.reshape(-1, SIDE * SIDE, 3).astype(np.float32) for side in (left, right))
    equal = _product(a - b, a - b) <= _SAME**2
    mean = np.full((1, SIDE * SIDE), 1 / SIDE**2, np.float32)
    a, b = a - mean @ a, b - mean @ b  # per channel, so that two blue skies are not similar only because they are blue
    contrasts = [np.maximum(np.sqrt(_product(side, side)), _FLAT) for side in (a, b)]
    alike: npt.NDArray[np.bool_] = equal | (_product(a, b) >= similarity * contrasts[0] * contrasts[1])
    return alike


def _product(a: npt.NDArray[np.float32], b: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return the mean product of each row's values (N, pixels, 3)."""
    product: npt.NDArray[np.float32] = np.einsum("npc,npc->n", a, b) / np.float32(3 * SIDE**2)
    return product
