"""How many planted copies are found, how many originals are taken for copies, and what it costs.

    python -m benchmarks.duplicates PHOTOS

PHOTOS is a folder of photographs that are no copies of one another. Each is copied in every way of COPIES; copies are
JPEG of quality 90 where nothing else is said. Prints two Markdown tables: the share of copies that land in the group of
their original, at three thresholds of similarity (0.9 is the default), with the false pairs among all pairs of
originals; and seconds.
"""

from __future__ import annotations

import argparse
import io
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from benchmarks import machine
from tagger import images, storage
from tagger.data import duplicates
from tagger.data.duplicates import Fingerprint

THRESHOLDS = (0.85, 0.90, 0.95)
MANY = 100_000


def jpeg(picture: Image.Image, quality: int = 90) -> bytes:
    """Return the picture as JPEG."""
    sink = io.BytesIO()
    picture.save(sink, "JPEG", quality=quality)
    return sink.getvalue()


def resized(picture: Image.Image, share: float) -> Image.Image:
    """Return the picture with its sides at this share."""
    size = max(1, round(picture.width * share)), max(1, round(picture.height * share))
    return picture.resize(size, Image.Resampling.LANCZOS)


def cropped(picture: Image.Image, share: float) -> Image.Image:
    """Return the centre of the picture, this share less wide and high."""
    x, y = round(picture.width * share / 2), round(picture.height * share / 2)
    return picture.crop((x, y, picture.width - x, picture.height - y))


COPIES: dict[str, Callable[[Image.Image], bytes]] = {
    "resized to 50%": lambda picture: jpeg(resized(picture, 0.5)),
    "resized to 25%": lambda picture: jpeg(resized(picture, 0.25)),
    "JPEG quality 50": lambda picture: jpeg(picture, 50),
    "JPEG quality 30": lambda picture: jpeg(picture, 30),
    "mirrored": lambda picture: jpeg(ImageOps.mirror(picture)),
    "mirrored, JPEG quality 50": lambda picture: jpeg(ImageOps.mirror(picture), 50),
    "brightness +10%": lambda picture: jpeg(ImageEnhance.Brightness(picture).enhance(1.1)),
    "cropped by 5%": lambda picture: jpeg(cropped(picture, 0.05)),
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos")
    uris = [found.uri for found in storage.find_images(storage.absolute(parser.parse_args().photos))]
    started = time.perf_counter()
    read = duplicates.read_fingerprints(uris)
    fingerprinting = time.perf_counter() - started
    good = [(uri, entry) for uri, entry in zip(uris, read, strict=True) if isinstance(entry, Fingerprint)]
    originals = [entry for _, entry in good]
    print(f"{len(good):,} of {len(uris):,} photographs decode; {machine.describe()}\n")
    print(found_table([uri for uri, _ in good], originals))
    print(f"\n| | seconds |\n|---|--:|\n| read, decode, fingerprint {len(uris):,} photographs | {fingerprinting:.2f} |")
    print(f"| match {len(good):,} photographs | {_match_seconds(originals):.2f} |")
    print(f"| match {MANY:,} random thumbnails | {_match_seconds(random_fingerprints(MANY)):.2f} |")


def found_table(uris: Sequence[str], originals: list[Fingerprint]) -> str:
    """Return the table of copies found and of false pairs, one column per threshold."""
    lines = [f"| | {' | '.join(f'{value:.2f}' for value in THRESHOLDS)} |", "|---|--:|--:|--:|"]
    for kind in COPIES:
        with ThreadPoolExecutor() as pool:
            copies = list(pool.map(lambda uri, kind=kind: copy_of(uri, kind), uris))
        shares = []
        for threshold in THRESHOLDS:
            groups = duplicates.near_duplicates([*originals, *copies], threshold).groups
            shares.append(f"{(groups[: len(uris)] == groups[len(uris) :]).mean():.1%}")
        lines.append(f"| {kind} | {' | '.join(shares)} |")
    false = [_pairs_within(duplicates.near_duplicates(originals, threshold).groups) for threshold in THRESHOLDS]
    total = len(uris) * (len(uris) - 1) // 2
    return "\n".join([*lines, f"| false pairs of {total:,} | {' | '.join(map(str, false))} |"])


def copy_of(uri: str, kind: str) -> Fingerprint:
    """Return the fingerprint of a changed copy of a photograph."""
    content = COPIES[kind](images.decode(storage.read_bytes(uri))[0])
    return duplicates.fingerprint(images.decode(content)[0], content)


def random_fingerprints(number: int) -> list[Fingerprint]:
    """Return thumbnails of noise: no copies, hashes of independent bits."""
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
