"""Copies are found whatever was done to them; images that merely look plain are not copies."""

from __future__ import annotations

import hashlib
import io
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pictures import photo
from PIL import Image, ImageEnhance, ImageOps

from tagger import images
from tagger.data import duplicates, manifest, scan
from tagger.data.duplicates import Fingerprint, Pair, near_duplicates
from tagger.data.pixels import FilePixels
from tagger.errors import SourceError
from tagger.images import Preprocessing


def jpeg(image: Image.Image, quality: int = 90) -> bytes:
    sink = io.BytesIO()
    image.save(sink, "JPEG", quality=quality)
    return sink.getvalue()


def of(content: bytes) -> Fingerprint:
    return Fingerprint(hashlib.sha256(content).hexdigest(), duplicates.thumbnail(images.decode(content)[0]))


def resized(image: Image.Image, share: float) -> Image.Image:
    return image.resize((round(image.width * share), round(image.height * share)), Image.Resampling.LANCZOS)


COPIES: dict[str, Callable[[Image.Image], bytes]] = {
    "half": lambda image: jpeg(resized(image, 0.5)),
    "quarter": lambda image: jpeg(resized(image, 0.25)),
    "quality 95": lambda image: jpeg(image, 95),
    "quality 30": lambda image: jpeg(image, 30),
    "mirrored": lambda image: jpeg(ImageOps.mirror(image)),
    "mirrored, small, quality 50": lambda image: jpeg(resized(ImageOps.mirror(image), 0.5), 50),
    "brighter": lambda image: jpeg(ImageEnhance.Brightness(image).enhance(1.1)),
    "darker": lambda image: jpeg(ImageEnhance.Brightness(image).enhance(0.9)),
}


@pytest.mark.parametrize("kind", COPIES)
def test_a_copy_is_found_and_its_kind_named(kind: str) -> None:
    originals = [of(jpeg(photo(seed, (256, 192)))) for seed in range(40)]
    copies = [of(COPIES[kind](photo(seed, (256, 192)))) for seed in range(40)]
    found = near_duplicates(originals + copies)
    named: duplicates.Kind = "mirrored" if "mirrored" in kind else "near"
    assert set(found.pairs) <= {Pair(row, row + 40, named) for row in range(40)}
    # highlights that clip change a smooth drawing more than a photograph
    assert len(found.pairs) == 40 or (kind == "brighter" and len(found.pairs) >= 36)


def test_the_same_file_twice_is_exact_and_a_group_of_n_has_n_minus_1_pairs() -> None:
    one, other = of(jpeg(photo(1))), of(jpeg(photo(2)))
    found = near_duplicates([one, other, one, one])
    assert found.pairs == (Pair(0, 2, "exact"), Pair(0, 3, "exact"))
    assert found.groups.tolist() == [0, 1, 0, 0]


def test_blank_images_are_copies_only_when_they_are_equal() -> None:
    colours = ["white", "black", "red", "blue", (235, 235, 235), "white"]
    sizes = [(40, 30), (40, 30), (40, 30), (40, 30), (40, 30), (100, 100)]
    blank = [of(jpeg(Image.new("RGB", size, colour))) for size, colour in zip(sizes, colours, strict=True)]
    assert near_duplicates(blank).groups.tolist() == [0, 1, 2, 3, 4, 0]


def test_hundreds_of_noisy_blank_pages_and_still_frames_form_groups_and_stay_apart() -> None:
    rng = np.random.default_rng(0)
    still = of(jpeg(photo(3))).thumbnail.astype(int)
    frames = [still + rng.integers(-6, 7, still.shape) for _ in range(300)]
    blank = [250 + rng.integers(-1, 2, still.shape) for _ in range(300)]
    thumbnails = [np.clip(values, 0, 255).astype(np.uint8) for values in frames + blank]
    found = near_duplicates([Fingerprint(str(n), thumbnail) for n, thumbnail in enumerate(thumbnails)])
    assert set(found.groups[:300]) == {0}
    assert 0 not in found.groups[300:]
    assert len(found.pairs) < 600


def test_a_chain_is_one_group() -> None:
    first, last = (np.asarray(photo(seed, (16, 16))).astype(float) for seed in (1, 2))
    blends = [np.rint(first + (last - first) * share).astype(np.uint8) for share in np.linspace(0, 1, 20)]
    found = near_duplicates([Fingerprint(str(n), blend) for n, blend in enumerate(blends)])
    assert set(found.groups) == {0}
    assert near_duplicates([Fingerprint("a", blends[0]), Fingerprint("b", blends[-1])]).pairs == ()


def test_nothing_and_a_single_image_have_no_copies() -> None:
    assert near_duplicates([]).groups.tolist() == []
    assert near_duplicates([of(jpeg(photo(1)))]).pairs == ()


def test_copies_of_real_photographs_are_found_and_originals_are_not_taken_for_copies(real_photos: Path) -> None:
    paths = sorted(real_photos.glob("*.JPEG"))
    originals = [of(path.read_bytes()) for path in paths]
    assert near_duplicates(originals).pairs == ()
    copied = [images.decode(path.read_bytes())[0] for path in paths[::5]]
    for kind, copy in COPIES.items():
        found = near_duplicates(originals + [of(copy(image)) for image in copied])
        caught = (found.groups[: len(paths) : 5] == found.groups[len(paths) :]).mean()
        assert caught >= 0.99, kind
        assert len(set(found.groups[: len(paths)])) == len(paths), kind


def test_a_scan_holds_no_thumbnails_and_a_report_reads_them_back(tmp_path: Path) -> None:
    for seed in range(30):
        photo(seed, (400, 300)).save(tmp_path / f"{seed}.jpg")
    table = manifest.read_source(str(tmp_path)).table
    found = scan.scan(table)
    assert len(pickle.dumps(found)) < 30 * 1200, "about 768 bytes of fingerprint and an id per image"
    for path in tmp_path.glob("*.jpg"):
        path.unlink()
    pixels = FilePixels(table["uri"].to_pylist(), Preprocessing(size=(64, 64)), image_ids=found.image_ids)
    assert pixels.thumbnail(3).shape == (120, 160, 3)
    with pytest.raises(SourceError):
        FilePixels(pixels.uris, pixels.preprocessing).thumbnail(3)
