"""Labelled images -> splits that no near-duplicate crosses."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np

from tagger import hardware, images, storage
from tagger.data import cache, duplicates, splits
from tagger.data.dataset import Examples
from tagger.data.duplicates import Fingerprint
from tagger.errors import AccessDenied, ImageError, SourceError

THUMBNAILS = "thumbnails"


def split(
    examples: Examples, seed: int, on_progress: Callable[[int, int], None] = lambda done, total: None
) -> tuple[Examples, list[str]]:
    """Return the images that decode, each in a split, and what there is to say about it.

    Splits that were given are kept; the rest is decided by content and seed, near-duplicates together.
    """
    known = cache.read(THUMBNAILS)
    with ThreadPoolExecutor(2 * hardware.cores()) as pool:
        found = list(
            _counted(pool.map(lambda uri: _fingerprint(uri, known), examples.locations), len(examples), on_progress)
        )
    fresh = {each.image_id: each.thumbnail.tobytes() for each in found if each and each.image_id not in known}
    cache.write(THUMBNAILS, fresh)
    have = np.array([each is not None for each in found], dtype=bool)
    examples = examples.keep(have, "they cannot be read or do not decode")
    prints = [each for each in found if each is not None]
    examples = replace(examples, image_ids=tuple(each.image_id for each in prints))
    copies = duplicates.near_duplicates(prints)
    assigned = splits.assign(
        examples.image_ids, examples.labels, copies.groups, examples.table["split"].to_pylist(), seed=seed
    )
    return examples.with_splits(list(assigned.split)), assigned.text(examples.uris).splitlines()


def _fingerprint(uri: str, known: dict[str, bytes]) -> Fingerprint | None:
    """Return an image's fingerprint, decoding it only when it is new; None when it cannot be read or decoded."""
    try:
        content = storage.read_bytes(uri)
        image_id = hashlib.sha256(content).hexdigest()
        if image_id in known:
            side = duplicates.SIDE
            return Fingerprint(image_id, np.frombuffer(known[image_id], dtype=np.uint8).reshape(side, side, 3))
        return duplicates.fingerprint(images.decode(content)[0], content)
    except (ImageError, SourceError) as error:
        if isinstance(error, AccessDenied) and storage.is_credential_error(error):
            raise
        return None  # the caller counts it and says which


def _counted(
    found: Iterable[Fingerprint | None], total: int, on_progress: Callable[[int, int], None]
) -> Iterator[Fingerprint | None]:
    for done, each in enumerate(found, 1):
        yield each
        if done % 32 == 0 or done == total:
            on_progress(done, total)
