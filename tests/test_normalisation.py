"""Normalisation is computed on the training images alone, and CNTK mean files are read as they are written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tagger.data.normalisation import NAMES, Normalisation, compute
from tagger.errors import SourceError, UsageError
from tagger.training.scratch import on_device


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.normal([90, 120, 150], [20, 40, 60], (300, 8, 8, 3)).clip(0, 255).astype(np.uint8)


def apply(normalisation: Normalisation, pixels: np.ndarray) -> np.ndarray:
    """Network input minus the offset, which the network subtracts."""
    found = on_device(pixels, normalisation, "cpu").numpy()
    return found if normalisation.offset is None else found - normalisation.offset


def unit(pixels: np.ndarray) -> np.ndarray:
    return pixels.transpose(0, 3, 1, 2) / 255


def test_each_normalisation_does_what_its_name_says(pixels: np.ndarray) -> None:
    means = unit(pixels).mean(axis=(0, 2, 3)).reshape(3, 1, 1)
    stds = unit(pixels).std(axis=(0, 2, 3)).reshape(3, 1, 1)
    expected = {
        "none": 255 * unit(pixels),
        "scale": unit(pixels),
        "mean": unit(pixels) - means,
        "standardise": (unit(pixels) - means) / stds,
        "single-mean": unit(pixels) - unit(pixels).mean(),
        "pixel-mean": unit(pixels) - unit(pixels).mean(axis=0),
    }
    assert {*expected, "mean-file:PATH"} == set(NAMES)
    for name, values in expected.items():
        prepared = apply(compute(name, pixels), pixels)
        assert prepared.dtype == np.float32
        np.testing.assert_allclose(prepared, values, atol=2e-5 * max(1, np.abs(values).max()), err_msg=name)


def test_pixels_as_they_are_come_out_as_whole_numbers(pixels: np.ndarray) -> None:
    assert np.array_equal(apply(compute("none", pixels), pixels), pixels.transpose(0, 3, 1, 2))


def test_other_images_are_prepared_with_the_numbers_of_the_training_split(pixels: np.ndarray) -> None:
    normalisation = compute("standardise", pixels)
    other = np.full((2, 8, 8, 3), 200, dtype=np.uint8)
    for channel in range(3):
        value = (200 / 255 - normalisation.mean[channel]) / normalisation.std[channel]
        np.testing.assert_allclose(apply(normalisation, other)[:, channel], value, rtol=1e-5)


def test_a_channel_that_never_varies_stays_a_number() -> None:
    flat = np.full((4, 5, 5, 3), 77, dtype=np.uint8)
    assert np.abs(apply(compute("standardise", flat), flat)).max() < 1e-6


def test_unknown_names_list_the_choices(pixels: np.ndarray) -> None:
    with pytest.raises(UsageError, match=r"whiten is unknown; choose one of none, scale, mean, .*mean-file:PATH"):
        compute("whiten", pixels)


def mean_file(values: np.ndarray, row: int, col: int, channel: int = 3, prologue: str = "") -> str:
    numbers = " ".join(f"{value:e}" for value in values.ravel())
    return (
        f'<?xml version="1.0" ?>{prologue}<opencv_storage><Channel>{channel}</Channel><Row>{row}</Row><Col>{col}</Col>'
        f'<MeanImg type_id="opencv-matrix"><rows>1</rows><cols>{values.size}</cols><dt>f</dt><data>{numbers}</data>'
        "</MeanImg></opencv_storage>"
    )


def read(path: Path, text: str, pixels: np.ndarray) -> Normalisation:
    path.write_text(text)
    return compute(f"mean-file:{path}", pixels)


def test_a_cntk_mean_file_is_planes_of_0_to_255(pixels: np.ndarray, tmp_path: Path) -> None:
    mean = pixels.mean(axis=0).transpose(2, 0, 1)
    normalisation = read(tmp_path / "mean.xml", mean_file(mean, 8, 8), pixels)
    computed = compute("pixel-mean", pixels)
    np.testing.assert_allclose(apply(normalisation, pixels), apply(computed, pixels), atol=1e-6)
    assert normalisation.offset is not None
    assert normalisation.offset.shape == (3, 8, 8)


ENTITIES = '<!DOCTYPE x [<!ENTITY a "1 1 1 1"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>'
OUTSIDE = '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]>'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (mean_file(np.ones((3, 6, 8)), 6, 8), "mean of 3x6x8 images .* but the training images are 3x8x8"),
        (mean_file(np.ones((1, 8, 8)), 8, 8, channel=1), "mean of 1x8x8"),
        (mean_file(np.ones((3, 8, 5)), 8, 8), "120 numbers for 3x8x8 pixels"),
        (mean_file(np.full((3, 8, 8), np.nan), 8, 8), "not finite"),
        (mean_file(np.ones((3, 8, 8)), 8, 8, prologue=ENTITIES), "declares a DTD or entities"),
        (mean_file(np.ones((3, 8, 8)), 8, 8, prologue=OUTSIDE), "declares a DTD or entities"),
        ("<opencv_storage><Row>8</Row></opencv_storage>", "not a CNTK mean file"),
        ("<opencv_storage><Row>8", "not valid XML"),
        ('<?xml version="1.0" encoding="nonsense"?><a/>', "not valid XML"),
    ],
)
def test_a_mean_file_that_does_not_fit_is_refused(pixels: np.ndarray, tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(SourceError, match=rf"mean\.xml: .*{message}"):
        read(tmp_path / "mean.xml", text, pixels)


def test_a_mean_file_that_is_not_there_is_named(pixels: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"none\.xml"):
        compute(f"mean-file:{tmp_path}/none.xml", pixels)
