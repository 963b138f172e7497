"""Bytes become the pixels timm would see, or a named error."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pictures import photo
from PIL import Image
from timm.data.transforms_factory import create_transform

from tagger import images
from tagger.errors import ImageError
from tagger.images.transforms import Preprocessing


def encoded(image: Image.Image, format: str, **options: Any) -> bytes:
    sink = io.BytesIO()
    image.save(sink, format, **options)
    return sink.getvalue()


LOSSLESS = [
    ("PNG", {}),
    ("BMP", {}),
    ("TIFF", {}),
    ("TIFF", {"compression": "tiff_lzw"}),
    ("WEBP", {"lossless": True}),
    ("PPM", {}),
]


@pytest.mark.parametrize(("format", "options"), LOSSLESS)
def test_lossless_formats_keep_every_pixel(format: str, options: dict[str, Any]) -> None:
    original = photo(1)
    decoded, info = images.decode(encoded(original, format, **options))
    assert np.array_equal(decoded, original)
    assert (info.width, info.height, info.format) == (64, 48, format)


@pytest.mark.parametrize(
    ("mode", "format", "options"),
    [
        ("RGB", "JPEG", {"progressive": True}),
        ("L", "JPEG", {}),
        ("CMYK", "JPEG", {}),
        ("RGB", "AVIF", {"quality": 95}),
        ("RGB", "HEIF", {"quality": 95}),
        ("RGB", "WEBP", {"quality": 95}),
        ("P", "PNG", {}),
        ("P", "GIF", {}),
        ("L", "PNG", {}),
        ("1", "PNG", {}),
        ("CMYK", "TIFF", {}),
        ("YCbCr", "TIFF", {}),
        ("LAB", "TIFF", {}),
    ],
)
def test_every_colour_mode_and_format_comes_out_as_the_same_picture(
    mode: str, format: str, options: dict[str, Any]
) -> None:
    original = photo(2)
    if mode == "LAB":
        from PIL import ImageCms

        profile = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
        stored = ImageCms.applyTransform(original, profile)
    else:
        stored = original.convert(mode)
    data = encoded(stored, format, **options)
    decoded, _ = images.decode(data)
    expected = np.asarray(original.convert("L" if mode in ("L", "1") else "RGB").convert("RGB"), dtype=int)
    tolerance = {"1": 140, "P": 30}.get(mode, 12)
    assert decoded.mode == "RGB"
    assert np.abs(np.asarray(decoded, dtype=int) - expected).mean() < tolerance


def test_sixteen_bit_grey_is_scaled_not_clipped() -> None:
    ramp = np.linspace(0, 65535, 64 * 48).reshape(48, 64).astype(np.uint16)
    decoded, _ = images.decode(encoded(Image.fromarray(ramp), "PNG"))
    assert np.abs(np.asarray(decoded)[:, :, 0].astype(float) - ramp / 257).max() <= 1


def test_float_tiff_is_scaled() -> None:
    ramp = np.linspace(0, 1, 64 * 48).reshape(48, 64).astype(np.float32)
    decoded, _ = images.decode(encoded(Image.fromarray(ramp), "TIFF"))
    assert np.asarray(decoded).max() == 255
    assert 120 < np.asarray(decoded).mean() < 135


@pytest.mark.parametrize(("mode", "format"), [("RGBA", "PNG"), ("LA", "PNG"), ("RGBA", "WEBP"), ("PA", "PNG")])
def test_transparent_pixels_are_white(mode: str, format: str) -> None:
    image = photo(3).convert("RGBA")
    image.putalpha(Image.new("L", image.size, 0))
    stored = image.convert(mode) if mode != "PA" else image.quantize(16)
    decoded, _ = images.decode(encoded(stored, format, **({"lossless": True} if format == "WEBP" else {})))
    assert (np.asarray(decoded) == 255).all()


def test_the_first_frame_of_an_animation_is_taken() -> None:
    frames = [photo(seed) for seed in (4, 5, 6)]
    for format in ("GIF", "WEBP", "PNG", "TIFF"):
        data = encoded(frames[0], format, save_all=True, append_images=frames[1:])
        decoded, _ = images.decode(data)
        first, second = (np.asarray(frame, dtype=int) for frame in frames[:2])
        pixels = np.asarray(decoded, dtype=int)
        assert np.abs(pixels - first).mean() < np.abs(pixels - second).mean() / 2, format


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int) -> None:
    from PIL import ImageOps

    original = photo(7)
    exif = Image.Exif()
    exif[274] = orientation
    data = encoded(original, "PNG", exif=exif)
    decoded, info = images.decode(data)
    with Image.open(io.BytesIO(data)) as opened:
        assert np.array_equal(decoded, ImageOps.exif_transpose(opened))
    assert (info.width, info.height) == ((48, 64) if orientation >= 5 else (64, 48))


def test_a_broken_exif_block_does_not_cost_the_image() -> None:
    data = encoded(photo(8), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01\x12\0\x09")
    assert images.decode(data)[0].size == (64, 48)


GOOD_JPEG, GOOD_PNG = encoded(photo(9, (300, 200)), "JPEG"), encoded(photo(9, (300, 200)), "PNG")


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"", "corrupt"),
        (GOOD_JPEG[: len(GOOD_JPEG) // 2], "corrupt"),
        (GOOD_PNG[: len(GOOD_PNG) // 2], "corrupt"),
        (GOOD_JPEG[:20], "corrupt"),
        (GOOD_PNG[:12], "corrupt"),
        (b"dear diary, this is no picture", "unsupported"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "unsupported"),
        (b"%PDF-1.7 ...", "unsupported"),
        (b"\0" * 1000, "unsupported"),
        (encoded(Image.new("L", (20_000, 20_000)), "PNG"), "too_large"),
    ],
)
def test_what_is_no_whole_image_gets_the_status_that_says_so(data: bytes, status: str) -> None:
    with pytest.raises(ImageError) as caught:
        images.decode(data)
    assert caught.value.status == status
    assert "\n" not in str(caught.value)


def test_no_prefix_of_an_image_escapes_as_another_exception() -> None:
    for data in (GOOD_JPEG, GOOD_PNG, encoded(photo(1), "WEBP"), encoded(photo(1), "GIF"), encoded(photo(1), "TIFF")):
        for length in range(0, len(data) - 1, 37):
            try:
                images.decode(data[:length])
            except ImageError as error:
                assert error.status in ("corrupt", "unsupported")  # noqa: PT017


SIZES = [(500, 375), (375, 500), (224, 224), (256, 256), (500, 333), (333, 499), (31, 47), (1, 1), (640, 1), (1001, 77)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
@pytest.mark.parametrize(
    ("target", "crop_pct", "interpolation"),
    [
        ((224, 224), 0.875, "bicubic"),
        ((160, 160), 0.95, "bilinear"),
        ((32, 32), 1.0, "bicubic"),
        ((96, 128), 0.9, "bicubic"),
    ],
)
def test_fit_gives_the_pixels_of_timms_transform(
    size: tuple[int, int], crop_mode: str, target: tuple[int, int], crop_pct: float, interpolation: str
) -> None:
    if crop_mode == "border" and size == (640, 1):
        pytest.skip("timm's own transform fails on a height of 0")
    picture = photo(10, size)
    preprocessing = Preprocessing(target, interpolation, crop_pct, crop_mode, mean=(0.5, 0.4, 0.3))
    transform = create_transform(
        (3, *target),
        interpolation=interpolation,
        crop_pct=crop_pct,
        crop_mode=crop_mode,
        normalize=False,
        mean=(0.5, 0.4, 0.3),
    )
    expected = np.asarray(transform(picture)).transpose(1, 2, 0).astype(int)
    ours = images.fit(picture, preprocessing).astype(int)
    assert ours.shape == (*target, 3)
    difference = np.abs(ours - expected)
    assert difference.max() <= 2, "only the rounding of the sampling grid may differ"
    assert (difference > 0).mean() < 0.2


def test_fit_of_a_long_strip_stays_small() -> None:
    strip = photo(11, (1, 20_000))
    assert images.fit(strip, Preprocessing()).shape == (224, 224, 3)


def test_real_photographs_come_out_as_timm_sees_them(real_photos: Path) -> None:
    transform = create_transform((3, 224, 224), interpolation="bicubic", crop_pct=0.875, normalize=False)
    for path in sorted(real_photos.iterdir())[::25]:
        with Image.open(path) as opened:
            expected = np.asarray(transform(opened.convert("RGB"))).transpose(1, 2, 0).astype(int)
        picture, _ = images.decode(path.read_bytes())
        assert np.abs(images.fit(picture, Preprocessing()).astype(int) - expected).max() <= 1


def test_postscript_is_no_image_and_no_program_is_run_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("subprocess.check_call", lambda *given, **named: pytest.fail("a program was run"))
    document = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n{} loop\n%%EOF\n"
    with pytest.raises(ImageError) as caught:
        images.decode(document)
    assert caught.value.status == "unsupported"
