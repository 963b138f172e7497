"""Images of a labelled dataset to check: labels that look wrong, copies with other labels, bad images."""

from __future__ import annotations

import io
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import numpy as np
from PIL import Image

from tagger import checkpoint, hardware, schema, storage
from tagger.data import dataset as datasets
from tagger.data import decisions, duplicates
from tagger.data.cache import ImageCache
from tagger.data.dataset import Dataset
from tagger.data.duplicates import Int64Array
from tagger.evaluation import label_errors
from tagger.tagging.suggest import suggestions
from tagger.tagging.suggest.config import SuggestConfig
from tagger.tagging.suggest.suggestions import Suggestions

DARK = 45.0
"""Grey level (95th percentile of a thumbnail) below which an image is too dark."""
BLURRED = 4.5
"""Contrast (of the sharpest parts of a thumbnail) below which an image is blurred."""
_BLOCK = 16

Ranked = list[tuple[int, float]]
"""Rows of a dataset with scores from 0 to 1, the highest first."""


def suspects(
    dataset: str, config: SuggestConfig, on_progress: Callable[[int, int], None] = lambda done, total: None
) -> Suggestions:
    """Suggest images of a labelled dataset. Raises SourceError or UsageError, as training does."""
    read = datasets.read_dataset(dataset, config.multilabel, config.labels)
    backbone = checkpoint.describe(config.backbone)
    images, scanned = datasets.scan(dataset, read, backbone, config.device, on_progress=on_progress)
    assert scanned.features is not None
    groups = duplicates.near_duplicates(scanned.fingerprints())
    task = "multilabel" if config.multilabel else "multiclass"
    scores = label_errors.out_of_sample(scanned.features, images.truth, groups, task)
    copies = _copies(images, groups)
    found: dict[str, Ranked] = {
        "duplicate": [(row, score) for row, (score, _) in copies.items()],
        "label": label_errors.find(scores, images.truth, task),
        **_bad(images.image_ids),
    }
    chosen = _first_reasons(found, _reviewed(images, config.labels))
    uris, labels = images.uris, images.labels
    rows = [
        {
            "uri": uris[row], "image_id": images.image_ids[row], "reason": reason, "score": score,
            "labels": labels[row], "candidates": suggestions.pairs(images.label_names, scores[row]),
            "copies": copies[row][1] if row in copies else None, "model": backbone.name, "model_id": backbone.model_id,
        }
        for row, (reason, score) in islice(chosen.items(), config.count)
    ]  # fmt: skip
    counts = Counter(reason for reason, _ in chosen.values())
    return Suggestions(suggestions.table_of(rows), {each: counts[each] for each in found}, images.notes)


def _first_reasons(found: Mapping[str, Ranked], left_out: Collection[int]) -> dict[int, tuple[str, float]]:
    """Return row -> (reason, score), in order; an image gets only its first reason."""
    chosen: dict[int, tuple[str, float]] = {}
    for reason, ranked in found.items():
        for row, score in ranked:
            if row not in left_out:
                chosen.setdefault(row, (reason, score))
    return chosen


def _reviewed(images: Dataset, labels: str | None) -> set[int]:
    """Return the rows with a decision in the labels table; none for a label file of another kind."""
    if labels is None or not labels.endswith(".parquet"):
        return set()
    uri = storage.absolute(labels)
    with storage.open_input(uri) as file, schema.named_damage(uri):
        if schema.footer_of(schema.open_parquet(file).schema_arrow).get("table") != "labels":
            return set()
    decided = set(decisions.image_of(decisions.latest(decisions.read(uri))).to_pylist())
    return {row for row, names in enumerate(zip(images.uris, images.image_ids, strict=True)) if decided & {*names}}


def _copies(images: Dataset, groups: Int64Array) -> dict[int, tuple[float, list[str]]]:
    """Return row -> score and uris of its copies with other labels; exact copies (score 1) before near ones."""
    members = defaultdict[int, list[int]](list)
    for row, group in enumerate(groups.tolist()):
        members[group].append(row)
    labels, ids, uris = images.labels, images.image_ids, images.uris
    found: dict[int, tuple[float, list[str]]] = {}
    for rows in members.values():
        for row in rows if len({frozenset(labels[each]) for each in rows}) > 1 else ():
            others = [each for each in rows if {*labels[each]} != {*labels[row]}]
            exact = any(ids[each] == ids[row] for each in others)
            found[row] = (1.0 if exact else 0.5, [uris[each] for each in others[: suggestions.SHOWN]])
    return dict(sorted(found.items(), key=lambda item: -item[1][0]))


def _bad(image_ids: Sequence[str]) -> dict[str, Ranked]:
    """Return the images that are too dark or blurred, by their cached thumbnails; the worst first."""
    cache = ImageCache()
    thumbnails = [cache.thumbnail(image_id) for image_id in image_ids]
    cache.close()
    with ThreadPoolExecutor(hardware.cores()) as pool:
        measured = list(pool.map(lambda content: light_and_sharpness(content) if content else None, thumbnails))
    found = {}
    for place, (reason, limit) in enumerate({"dark": DARK, "blurred": BLURRED}.items()):
        values = [(row, 1 - each[place] / limit) for row, each in enumerate(measured) if each and each[place] < limit]
        found[reason] = sorted(values, key=lambda pair: -pair[1])
    return found


def light_and_sharpness(content: bytes) -> tuple[float, float]:
    """Return the 95th percentile of a thumbnail's grey levels, and the contrast of its sharpest parts.

    The contrast is the 95th percentile, over blocks of 16x16 pixels, of the standard deviation of the Laplacian.
    """
    grey = np.asarray(Image.open(io.BytesIO(content)).convert("L"), dtype=np.float32)
    laplacian = 4 * grey[1:-1, 1:-1] - grey[:-2, 1:-1] - grey[2:, 1:-1] - grey[1:-1, :-2] - grey[1:-1, 2:]
    height, width = (side // _BLOCK for side in laplacian.shape)
    if not height or not width:
        return float(np.quantile(grey, 0.95)), math.inf
    blocks = laplacian[: height * _BLOCK, : width * _BLOCK].reshape(height, _BLOCK, width, _BLOCK)
    return float(np.quantile(grey, 0.95)), float(np.quantile(blocks.std(axis=(1, 3)), 0.95))
