"""Recall of near-duplicate detection on planted copies, its false positives, and its time.

    python -m benchmarks.duplicates PHOTOS

PHOTOS is a folder of photographs without duplicates. Each is copied in every way of COPIES, as a JPEG of quality 90
unless the name gives another quality. Prints two Markdown tables: the share of copies in the group of their original
and the false pairs among all pairs of originals, at three thresholds of similarity (0.9 is the default); and seconds.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
from PIL import Image, ImageEnhance, ImageOps

from benchmarks import machine
from tagger import images, storage
from tagger.data import duplicates, manifest
from tagger.data import scan as scans
from tagger.data.duplicates import Fingerprint
from tagger.data.scan import Scan

THRESHOLDS = (0.85, 0.90, 0.95)
MANY = 100_000


def jpeg(image: Image.Image, quality: int = 90) -> bytes:
    """Encode an image as JPEG."""
    sink = io.BytesIO()
    image.save(sink, "JPEG", quality=quality)
    return sink.getvalue()


def resized(image: Image.Image, share: float) -> Image.Image:
    """Resize an image to a share of its width and height."""
    size = max(1, round(image.width * share)), max(1, round(image.height * share))
    return image.resize(size, Image.Resampling.LANCZOS)


def cropped(image: Image.Image, share: float) -> Image.Image:
    """Crop an image at its edges, by a share of its width and height."""
    x, y = round(image.width * share / 2), round(image.height * share / 2)
    return image.crop((x, y, image.width - x, image.height - y))


COPIES: dict[str, Callable[[Image.Image], bytes]] = {
    "resized to 50%": lambda image: jpeg(resized(image, 0.5)),
    "resized to 25%": lambda image: jpeg(resized(image, 0.25)),
    "JPEG quality 50": lambda image: jpeg(image, 50),
    "JPEG quality 30": lambda image: jpeg(image, 30),
    "mirrored": lambda image: jpeg(ImageOps.mirror(image)),
    "mirrored, JPEG quality 50": lambda image: jpeg(ImageOps.mirror(image), 50),
    "brightness +10%": lambda image: jpeg(ImageEnhance.Brightness(image).enhance(1.1)),
    "cropped by 5%": lambda image: jpeg(cropped(image, 0.05)),
}


def main() -> None:
    """Parse the arguments, measure, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos")
    table = manifest.read_source(parser.parse_args().photos).table
    found, seconds = timed_scan(table)
    uris = [uri for uri, have in zip(manifest.locations(table), found.have, strict=True) if have]
    originals = found.fingerprints()
    print(f"{len(uris):,} of {len(table):,} photographs decode; {machine.describe()}\n")
    print(found_table(uris, originals))
    print(f"\n| | seconds |\n|---|--:|\n| scan {len(table):,} photographs | {seconds:.2f} |")
    print(f"| match {len(uris):,} photographs | {_match_seconds(originals):.2f} |")
    print(f"| match {MANY:,} random thumbnails | {_match_seconds(random_fingerprints(MANY)):.2f} |")


def timed_scan(table: pa.Table) -> tuple[Scan, float]:
    """Scan the files of a manifest with an empty cache; return the scan and its seconds."""
    with tempfile.TemporaryDirectory() as cache:
        os.environ["TAGGER_CACHE"] = cache
        started = time.perf_counter()
        return scans.scan(table), time.perf_counter() - started


def found_table(uris: Sequence[str], originals: list[Fingerprint]) -> str:
    """Return the table of copies found and of false pairs, one column per threshold."""
    lines = [f"| | {' | '.join(f'{value:.2f}' for value in THRESHOLDS)} |", "|---|--:|--:|--:|"]
    for kind in COPIES:
        with ThreadPoolExecutor() as pool:
            copies = list(pool.map(lambda uri, kind=kind: copy_of(uri, kind), uris))
        shares = []
        for threshold in THRESHOLDS:
            groups = duplicates.near_duplicates([*originals, *copies], threshold)
            shares.append(f"{(groups[: len(uris)] == groups[len(uris) :]).mean():.1%}")
        lines.append(f"| {kind} | {' | '.join(shares)} |")
    false = [_pairs_within(duplicates.near_duplicates(originals, threshold)) for threshold in THRESHOLDS]
    total = len(uris) * (len(uris) - 1) // 2
    return "\n".join([*lines, f"| false pairs of {total:,} | {' | '.join(map(str, false))} |"])


def copy_of(uri: str, kind: str) -> Fingerprint:
    """Return the fingerprint of a changed copy of a photograph."""
    content = COPIES[kind](images.decode(storage.read_bytes(uri))[0])
    return Fingerprint(hashlib.sha256(content).hexdigest(), duplicates.thumbnail(images.decode(content)[0]))


def random_fingerprints(number: int) -> list[Fingerprint]:
    """Return fingerprints of random noise."""
    shape = (number, duplicates.SIDE, duplicates.SIDE, 3)
    thumbnails = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    return [Fingerprint(str(row), thumbnail) for row, thumbnail in enumerate(thumbnails)]


def _pairs_within(groups: duplicates.Int64Array) -> int:
    sizes = np.bincount(groups)
    return int((sizes * (sizes - 1) // 2).sum())


def _match_seconds(fingerprints: list[Fingerprint]) -> float:
    started = time.perf_counter()
    duplicates.near_duplicates(fingerprints)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
