"""Bytes become the pixels timm would see, or a named error."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from pictures import MODEL, bomb, chunk, photo
from PIL import Image, PngImagePlugin
from timm.data.transforms_factory import create_transform

from tagger import images
from tagger.errors import ImageError
from tagger.images.cost import DECODE_MEMORY, Budget, memory
from tagger.images.transforms import Preprocessing

Run = Callable[..., subprocess.CompletedProcess[str]]


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
def test_every_colour_mode_and_format_decodes_to_the_same_image(
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
        (b"dear diary, this is no image", "unsupported"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "unsupported"),
        (b"%PDF-1.7 ...", "unsupported"),
        (b"\0" * 1000, "unsupported"),
        (bomb(), "too_large"),
    ],
)
def test_a_file_that_is_no_whole_image_gets_its_status(data: bytes, status: str) -> None:
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
    image = photo(10, size)
    preprocessing = Preprocessing(target, interpolation, crop_pct, crop_mode, mean=(0.5, 0.4, 0.3))
    transform = create_transform(
        (3, *target),
        interpolation=interpolation,
        crop_pct=crop_pct,
        crop_mode=crop_mode,
        normalize=False,
        mean=(0.5, 0.4, 0.3),
    )
    expected = np.asarray(transform(image)).transpose(1, 2, 0).astype(int)
    ours = images.fit(image, preprocessing).astype(int)
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
        image, _ = images.decode(path.read_bytes())
        assert np.abs(images.fit(image, Preprocessing()).astype(int) - expected).max() <= 1


def test_postscript_is_no_image_and_no_program_is_run_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("subprocess.check_call", lambda *given, **named: pytest.fail("a program was run"))
    document = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n{} loop\n%%EOF\n"
    with pytest.raises(ImageError) as caught:
        images.decode(document)
    assert caught.value.status == "unsupported"


# --- files cut short --------------------------------------------------------------------------------------------------


def box(kind: bytes, *content: bytes) -> bytes:
    body = b"".join(content)
    return struct.pack(">I", 8 + len(body)) + kind + body


def heic_of_tiles(tiles: list[Image.Image], columns: int) -> bytes:
    """Return a HEIC as phones write it: a grid of separately coded tiles, whose data end the file."""
    side, rows = tiles[0].width, len(tiles) // columns
    coded = [encoded(tile, "HEIF", quality=90) for tile in tiles]
    start = coded[0].index(b"hvcC") - 4
    codec = coded[0][start : start + int.from_bytes(coded[0][start : start + 4])]
    size = struct.pack(">HH", side * columns, side * rows)
    extents = [bytes([0, 0, rows - 1, columns - 1]) + size, *(data[data.index(b"mdat") + 4 :] for data in coded)]
    kinds, count = [b"grid", *[b"hvc1"] * len(tiles)], struct.pack(">H", len(extents))
    names = [box(b"infe", b"\2\0\0\0", struct.pack(">HH", n, 0), kind, b"\0") for n, kind in enumerate(kinds)]
    sides = [struct.pack(">II", side, side), struct.pack(">II", side * columns, side * rows)]
    uses = [struct.pack(">HBB", 0, 1, 3), *(struct.pack(">HBBB", n, 2, 0x81, 2) for n in range(1, len(extents)))]
    of_grid = struct.pack(f">{2 + len(tiles)}H", 0, len(tiles), *range(1, len(extents)))

    def meta(start: int) -> bytes:
        places = [start + sum(map(len, extents[:n])) for n in range(len(extents))]
        rows = [struct.pack(">HHHII", n, 0, 1, places[n], len(data)) for n, data in enumerate(extents)]
        sizes = [box(b"ispe", bytes(4), each) for each in sides]
        return box(
            b"meta", bytes(4),
            box(b"hdlr", bytes(8), b"pict", bytes(13)),
            box(b"pitm", bytes(4), bytes(2)),
            box(b"iloc", bytes(4), b"\x44\0", count, *rows),
            box(b"iinf", bytes(4), count, *names),
            box(b"iref", bytes(4), box(b"dimg", of_grid)),
            box(b"iprp", box(b"ipco", codec, *sizes), box(b"ipma", bytes(6), count, *uses)),
        )  # fmt: skip

    kind = box(b"ftyp", b"heic", bytes(4), b"mif1heic")
    return kind + meta(len(kind) + len(meta(0)) + 8) + box(b"mdat", *extents)


WHOLE = photo(1, (256, 256))
TILES = [WHOLE.crop((x, y, x + 128, y + 128)) for y in (0, 128) for x in (0, 128)]
HEIC, AVIF = heic_of_tiles(TILES, 2), encoded(WHOLE, "AVIF", quality=90)


def test_a_heic_of_tiles_is_decoded_with_what_may_follow_it() -> None:
    for data in (HEIC, HEIC + b"\0", HEIC + box(b"mpvd", bytes(100)), HEIC + b"\xff" * 100):
        decoded, _ = images.decode(data)
        assert np.abs(np.asarray(decoded, dtype=int) - np.asarray(WHOLE)).mean() < 3


@pytest.mark.parametrize("missing", [1, 100, 3000, 9000])
@pytest.mark.parametrize("data", [HEIC, AVIF], ids=["HEIC", "AVIF"])
def test_a_heic_or_avif_cut_short_is_corrupt(data: bytes, missing: int) -> None:
    with pytest.raises(ImageError) as caught:
        images.decode(data[:-missing])
    assert caught.value.status == "corrupt"


@pytest.mark.parametrize("size", [20, 60, 300])
def test_a_damaged_heic_does_not_ask_for_a_package_that_is_installed(size: int) -> None:
    with pytest.raises(ImageError, match=r"damaged|cannot decode|truncated"):
        images.decode(HEIC[:size])


# --- depth and transparency -------------------------------------------------------------------------------------------

SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""PNG colour type -> samples per pixel: grey, colour, palette, grey and alpha, colour and alpha."""
PNGS = [
    *((0, depth) for depth in (1, 2, 4, 8, 16)), (2, 8), (2, 16), *((3, depth) for depth in (1, 2, 4, 8)),
    (4, 8), (4, 16), (6, 8), (6, 16),
]  # fmt: skip


def png(pixels: npt.NDArray[Any], colour_type: int, depth: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """Return a PNG of samples (H, W, C), written by the specification."""
    height, width = pixels.shape[:2]
    lines = []
    for row in pixels.reshape(height, -1):
        if depth == 16:
            line = row.astype(">u2").tobytes()
        else:
            bits = (row[:, None] >> np.arange(depth)[::-1]) & 1
            line = np.packbits(bits.astype(np.uint8).ravel()).tobytes()
        lines.append(b"\0" + line)
    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    every = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(b"".join(lines))), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*each) for each in every)


@pytest.mark.parametrize("transparent", [False, True], ids=["opaque", "transparent"])
@pytest.mark.parametrize(("colour_type", "depth"), PNGS)
def test_every_png_is_scaled_and_then_laid_over_white(colour_type: int, depth: int, transparent: bool) -> None:
    rng, top = np.random.default_rng(depth), 2**depth - 1
    pixels = rng.integers(0, top + 1, (12, 10, SAMPLES[colour_type]))
    if colour_type in (4, 6) and not transparent:
        pixels[:, :, -1] = top
    chunks, alpha = [], np.ones((12, 10, 1))
    if colour_type == 3:
        palette = rng.integers(0, 256, (top + 1, 3))
        opacity = rng.integers(0, 256, top + 1)
        chunks = [(b"PLTE", palette.astype(np.uint8).tobytes())]
        expected = palette[pixels[:, :, 0]].astype(float)
        if transparent:
            chunks.append((b"tRNS", opacity.astype(np.uint8).tobytes()))
            alpha = opacity[pixels] / 255
    elif colour_type in (4, 6):
        expected, alpha = pixels[:, :, :-1] * 255 / top, pixels[:, :, -1:] / top
    else:
        expected = pixels * 255 / top
        if transparent:
            key = pixels[5, 5]
            chunks = [(b"tRNS", key.astype(">u2").tobytes())]
            alpha = (pixels != key).any(axis=2, keepdims=True).astype(float)
    decoded, _ = images.decode(png(pixels, colour_type, depth, *chunks))
    over_white = expected * alpha + 255 * (1 - alpha)
    assert np.abs(np.asarray(decoded) - over_white).max() <= 2


def bmp(pixels: npt.NDArray[np.uint8]) -> bytes:
    """Return a 32-bit BMP (version 4, with an alpha mask) of BGRA pixels (H, W, 4)."""
    height, width = pixels.shape[:2]
    masks = struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    header = struct.pack("<IiiHHIIiiII", 108, width, -height, 1, 32, 3, pixels.nbytes, 0, 0, 0, 0) + masks + bytes(52)
    return b"BM" + struct.pack("<IHHI", 122 + pixels.nbytes, 0, 0, 122) + header + pixels.tobytes()


def tga(pixels: npt.NDArray[np.uint8]) -> bytes:
    """Return a 32-bit TGA of BGRA pixels (H, W, 4)."""
    height, width = pixels.shape[:2]
    return struct.pack("<BBBHHBHHHHBB", 0, 0, 2, 0, 0, 0, 0, 0, width, height, 32, 0x28) + pixels.tobytes()


@pytest.mark.parametrize("write", [bmp, tga])
def test_an_alpha_channel_that_is_all_zero_is_no_transparency(write: Any) -> None:
    pixels = np.dstack([np.asarray(photo(3))[:, :, ::-1], np.zeros((48, 64), np.uint8)])
    assert np.array_equal(images.decode(write(pixels))[0], photo(3))
    pixels[:24, :, 3] = 255
    half = np.asarray(photo(3)).copy()
    half[24:] = 255
    assert np.array_equal(images.decode(write(pixels))[0], half)


@pytest.mark.parametrize(
    ("mode", "format"),
    [
        ("LA", "PNG"), ("RGBA", "PNG"), ("RGBA", "WEBP"), ("RGBA", "AVIF"), ("RGBA", "HEIF"), ("RGBA", "TIFF"),
        ("LA", "TIFF"), ("RGBA", "TGA"), ("LA", "TGA"), ("RGBA", "ICO"), ("RGBA", "JPEG2000"), ("LA", "JPEG2000"),
    ],
)  # fmt: skip
def test_half_transparent_pixels_are_mixed_with_white(mode: str, format: str) -> None:
    grey = photo(3).convert("L")
    image = Image.merge("RGBA", [grey, grey, grey, Image.linear_gradient("L").resize(grey.size)])
    options = {"lossless": True} if format == "WEBP" else {"sizes": [grey.size]} if format == "ICO" else {}
    decoded, _ = images.decode(encoded(image.convert(mode), format, **options))
    pixels, alpha = np.asarray(image)[:, :, :3].astype(float), np.asarray(image)[:, :, 3:] / 255
    assert np.abs(np.asarray(decoded) - (pixels * alpha + 255 * (1 - alpha))).mean() < 3


# --- size, EXIF, and the host process ---------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", [1, 3, 6])
@pytest.mark.parametrize(
    ("format", "size"),
    [
        *(("JPEG", size) for size in ((2050, 2049), (2049, 2050), (2048, 2056), (2000, 1000))),
        ("PNG", (205, 204)), ("TIFF", (205, 204)), ("WEBP", (205, 204)),
    ],
)  # fmt: skip
def test_width_and_height_are_those_of_the_upright_image(size: tuple[int, int], orientation: int, format: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.new("RGB", size)
    _, info = images.prepare(encoded(image, format, exif=exif), [Preprocessing((32, 32)), Preprocessing((128, 128))])
    assert (info.width, info.height) == (size[::-1] if orientation == 6 else size)


def test_an_error_in_the_pixels_is_not_taken_for_broken_exif() -> None:
    data = encoded(photo(9), "PPM").replace(b"P6", b"P3")  # binary where numbers are due: Pillow raises ValueError
    with pytest.raises(ImageError, match="cannot decode") as caught:
        images.decode(data)
    assert caught.value.status == "corrupt"


@pytest.mark.parametrize(
    "metadata",
    [chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(2_000_000))), chunk(b"tRNS", b""), chunk(b"eXIf", b"x")],
    ids=["zTXt", "tRNS", "eXIf"],
)
def test_damaged_metadata_behind_the_pixels_does_not_cost_the_image(metadata: bytes) -> None:
    data = encoded(photo(9), "PNG")
    end = data.index(b"IEND") - 4
    assert np.array_equal(images.decode(data[:end] + metadata + data[end:])[0], photo(9))
    damaged = data[: end - 200] + bytes(100) + data[end - 100 : end] + metadata + data[end:]
    assert _status(damaged) == "corrupt"


def test_pillows_limit_of_pixels_stays_the_hosts_and_is_not_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    code = "from PIL import Image as i; before = i.MAX_IMAGE_PIXELS; import tagger.images; i.MAX_IMAGE_PIXELS / before"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    large = photo(1, (1000, 800))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 60_000)
    decoded, _ = images.decode(encoded(large, "PNG"))
    assert images.fit(decoded, Preprocessing()).shape == (224, 224, 3)
    with pytest.raises(ImageError, match="exceed the limit of 700000"):
        images.decode(encoded(large, "PNG"), max_pixels=700_000)


def test_the_command_does_not_print_warnings_of_pillow(run_tagger: Run, tmp_path: Path) -> None:
    photo(8).save(tmp_path / "a.jpg", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01\x12\0\x09")
    ran = run_tagger("predict", tmp_path / "a.jpg", "--model", MODEL)
    assert ran.returncode == 0, ran.stderr
    assert "Warning" not in ran.stderr


# --- files that are cut short, and what Pillow alone would refuse -----------------------------------------------------


SQUARE = Preprocessing((64, 64))


def _encoded(format: str, size: tuple[int, int] = (200, 160), **options: Any) -> bytes:
    target = io.BytesIO()
    photo(1, size).save(target, format, **options)
    return target.getvalue()


def _status(data: bytes) -> str:
    try:
        _, info = images.prepare(data, [SQUARE], truncated=True)
    except ImageError as error:
        return error.status
    return "truncated" if info.truncated else "ok"


@pytest.mark.parametrize(
    ("format", "options"),
    [
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("PNG", {}),
        ("BMP", {}),
        ("GIF", {"interlace": False}),
        ("TIFF", {}),
        ("PPM", {}),
    ],
)
def test_an_image_that_is_cut_short_is_decoded_as_far_as_it_goes(format: str, options: dict[str, Any]) -> None:
    data = _encoded(format, **options)
    half = data[: len(data) // 2 + 200]
    assert _status(half) == "truncated"
    with pytest.raises(ImageError, match="truncated"):
        images.prepare(half, [SQUARE])
    whole, cut = (images.prepare(each, [SQUARE], truncated=True)[0][SQUARE] for each in (data, half))
    first = slice(-20, None) if format == "BMP" else slice(20)  # a BMP begins with its lowest row
    assert np.abs(whole[first].astype(int) - cut[first]).mean() < 12


def test_a_jpeg_without_its_last_bytes_keeps_its_pixels() -> None:
    data = _encoded("JPEG")
    whole = images.prepare(data, [SQUARE])[0][SQUARE]
    for missing in (1, 2, 8):
        cut = images.prepare(data[:-missing], [SQUARE], truncated=True)[0][SQUARE]
        assert (cut == whole).mean() > 0.95


@pytest.mark.parametrize("prefix", [b"\xef\xbb\xbf", b"\n", b"\r\n\r\n"])
@pytest.mark.parametrize("format", ["JPEG", "PNG", "GIF", "WEBP"])
def test_a_byte_order_mark_or_line_break_before_an_image_is_skipped(prefix: bytes, format: str) -> None:
    data = _encoded(format)
    assert (images.prepare(prefix + data, [SQUARE])[0][SQUARE] == images.prepare(data, [SQUARE])[0][SQUARE]).all()


def test_large_texts_in_a_png_do_not_cost_its_pixels() -> None:
    texts = PngImagePlugin.PngInfo()
    texts.add_text("comment", "a" * (2 << 20), zip=True)
    assert _status(_encoded("PNG", pnginfo=texts)) == "ok"
    many = PngImagePlugin.PngInfo()
    for number in range(70):  # each below Pillow's limit, together above
        many.add_text(f"comment{number}", "a" * 1_000_000, zip=True)
    assert _status(_encoded("PNG", pnginfo=many)) == "ok"


def _lossless_jpeg(side: int) -> bytes:
    """A lossless grey JPEG: every pixel is as its neighbour, which is one zero bit."""

    def segment(marker: int, content: bytes) -> bytes:
        return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content

    frame = segment(0xC3, struct.pack(">BHHB", 8, side, side, 1) + bytes([1, 0x11, 0]))
    codes, scan = segment(0xC4, bytes([0, 1, *[0] * 15, 0])), segment(0xDA, bytes([1, 1, 0, 1, 0, 0]))
    return b"\xff\xd8" + frame + codes + scan + bytes(side * side // 8) + b"\xff\xd9"


@pytest.mark.parametrize("side", [16, 32, 224])
def test_a_lossless_jpeg_is_decoded_whatever_the_size_of_the_models_input(side: int) -> None:
    pixels, info = images.prepare(_lossless_jpeg(512), [Preprocessing((side, side))])
    assert (info.width, info.height) == (512, 512)
    assert set(np.unique(next(iter(pixels.values())))) == {128}


def _grey_tiff(values: npt.NDArray[Any]) -> bytes:
    return encoded(Image.fromarray(values), "TIFF")


def test_grey_of_an_unknown_range_is_unsupported_and_not_white() -> None:
    ramp = np.linspace(0, 1, 64 * 48).reshape(48, 64)
    for largest in (70_000, 2**31 - 1):
        assert _status(_grey_tiff((ramp * largest).astype(np.int32))) == "unsupported"
    assert _status(_grey_tiff((ramp * 4095).astype(np.float32))) == "unsupported"
    assert _status(_grey_tiff((ramp * 65535).astype(np.int32))) == "ok"
    assert _status(_grey_tiff((ramp * 260).astype(np.float32))) == "ok"


def test_damage_that_libtiff_only_reports_makes_a_fax_corrupt() -> None:
    data = bytearray(encoded(photo(9, (200, 200)).convert("1"), "TIFF", compression="group4"))
    for place in range(1000, 3000, 61):
        data[place] ^= 0xA5
    with pytest.raises(ImageError, match=r"cannot decode: damaged data \(.+\)"):
        images.decode(bytes(data))


@pytest.mark.parametrize("mode", ["F", "LAB"])
def test_a_tiff_of_a_mode_that_cannot_be_shown_never_escapes(mode: str) -> None:
    target = io.BytesIO()
    Image.new(mode, (40, 30), 0 if mode == "F" else (0, 0, 0)).save(target, "TIFF")
    assert _status(target.getvalue()) in ("ok", "unsupported")


def test_a_valid_tiff_with_unknown_pixels_is_unsupported() -> None:
    data = bytearray(_encoded("TIFF"))
    photometric = data.index(b"\x06\x01\x03\x00")
    data[photometric + 8] = 77
    assert _status(bytes(data)) == "unsupported"


def test_an_icon_is_not_taken_for_a_tga() -> None:
    assert images.prepare(_encoded("ICO", (64, 64)), [SQUARE])[1].format == "ICO"


def test_libtiff_writes_to_the_row_and_never_to_the_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    data = _encoded("TIFF", compression="tiff_deflate")
    for end in range(9, len(data), len(data) // 20):
        _status(data[:8] + data[8:end][::-1] + data[end:])
    damaged = data[:20] + b"\0\0\0\0" + data[24:]
    with pytest.raises(ImageError, match=r"decoder error -2 \(Decoding error at scanline"):
        images.decode(damaged)
    with pytest.raises(ImageError, match=r"^cannot decode: [^(]*$"):  # not the message of the file before
        images.decode(_encoded("PNG")[:-30])
    assert not capfd.readouterr().err


# --- images that cost more than they look -----------------------------------------------------------------------------


def _hostile(name: str) -> bytes:
    if name == "icons":
        return b"\0\0\1\0\xff\xff" + b"\x10\x10\0\0\1\0\x20\0\0\0\0\1\0\0\0\0" * 65535
    data = _encoded("JPEG", (1000, 1000), progressive=True)
    scan = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + scan * 5000 + b"\xff\xd9"


@pytest.mark.parametrize("name", ["icons", "scans"])
def test_a_header_that_promises_endless_work_is_refused(name: str) -> None:
    assert _status(_hostile(name)) == "too_large"


def test_images_wait_for_the_memory_that_others_hold() -> None:
    budget, order = Budget(100), list[str]()

    def second() -> None:
        with budget.of(60):
            order.append("second")

    with budget.of(60):
        waiting = threading.Thread(target=second)
        waiting.start()
        waiting.join(0.2)
        order.append("first")
    waiting.join(10)
    assert order == ["first", "second"]
    with pytest.raises(ImageError, match="the limit is"), budget.of(101):
        pass


def test_a_strip_whose_rows_need_more_memory_than_its_pixels_is_too_large() -> None:
    assert memory(Image.new("P", (1, 1))) == 3 * 12
    header = Image.new("L", (1, 1))
    header._size = (1, 99_000_000)
    assert memory(header) > DECODE_MEMORY


@pytest.mark.parametrize("mode", ["RGBA", "I;16"])
def test_converting_a_large_image_takes_a_few_copies_of_it(mode: str, tmp_path: Path) -> None:
    Image.new(mode, (6000, 6000)).save(tmp_path / "large.png")
    code = (
        "import resource, sys; from tagger import images; data = open(sys.argv[1], 'rb').read();"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss; images.prepare_for(data, images.Preprocessing());"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "large.png")]
    used = int(subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout)
    assert used * 1024 < 3 * 4 * 6000 * 6000
