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
from tagger.data.duplicates import Fingerprint, near_duplicates
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
def test_a_copy_is_found(kind: str) -> None:
    originals = [of(jpeg(photo(seed, (256, 192)))) for seed in range(40)]
    copies = [of(COPIES[kind](photo(seed, (256, 192)))) for seed in range(40)]
    groups = near_duplicates(originals + copies)
    assert groups[:40].tolist() == list(range(40))
    assert ((groups[40:] == groups[:40]) | (groups[40:] == np.arange(40, 80))).all()
    # highlights that clip change a smooth drawing more than a photograph
    assert (groups[40:] == groups[:40]).sum() >= (36 if kind == "brighter" else 40)


def test_the_same_file_several_times_is_a_group() -> None:
    one, other = of(jpeg(photo(1))), of(jpeg(photo(2)))
    assert near_duplicates([one, other, one, one]).tolist() == [0, 1, 0, 0]


def test_blank_images_are_copies_only_when_they_are_equal() -> None:
    colours = ["white", "black", "red", "blue", (235, 235, 235), "white"]
    sizes = [(40, 30), (40, 30), (40, 30), (40, 30), (40, 30), (100, 100)]
    blank = [of(jpeg(Image.new("RGB", size, colour))) for size, colour in zip(sizes, colours, strict=True)]
    assert near_duplicates(blank).tolist() == [0, 1, 2, 3, 4, 0]


def test_hundreds_of_noisy_blank_pages_and_still_frames_form_groups_and_stay_apart() -> None:
    rng = np.random.default_rng(0)
    still = of(jpeg(photo(3))).thumbnail.astype(int)
    frames = [still + rng.integers(-6, 7, still.shape) for _ in range(300)]
    blank = [250 + rng.integers(-1, 2, still.shape) for _ in range(300)]
    thumbnails = [np.clip(values, 0, 255).astype(np.uint8) for values in frames + blank]
    groups = near_duplicates([Fingerprint(str(n), thumbnail) for n, thumbnail in enumerate(thumbnails)])
    assert set(groups[:300]) == {0}
    assert 0 not in groups[300:]


def test_a_chain_is_one_group() -> None:
    first, last = (np.asarray(photo(seed, (16, 16))).astype(float) for seed in (1, 2))
    blends = [np.rint(first + (last - first) * share).astype(np.uint8) for share in np.linspace(0, 1, 20)]
    assert set(near_duplicates([Fingerprint(str(n), blend) for n, blend in enumerate(blends)])) == {0}
    assert near_duplicates([Fingerprint("a", blends[0]), Fingerprint("b", blends[-1])]).tolist() == [0, 1]


def test_nothing_and_a_single_image_have_no_copies() -> None:
    assert near_duplicates([]).tolist() == []
    assert near_duplicates([of(jpeg(photo(1)))]).tolist() == [0]


def test_copies_of_real_photographs_are_found_and_originals_are_not_taken_for_copies(real_photos: Path) -> None:
    paths = sorted(real_photos.glob("*.JPEG"))
    originals = [of(path.read_bytes()) for path in paths]
    assert near_duplicates(originals).tolist() == list(range(len(originals)))
    copied = [images.decode(path.read_bytes())[0] for path in paths[::5]]
    for kind, copy in COPIES.items():
        groups = near_duplicates(originals + [of(copy(image)) for image in copied])
        caught = (groups[: len(paths) : 5] == groups[len(paths) :]).mean()
        assert caught >= 0.99, kind
        assert len(set(groups[: len(paths)])) == len(paths), kind


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
