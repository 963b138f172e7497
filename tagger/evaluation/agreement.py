"""Agreement of every engine and precision with the reference: timm's own eval transform and eager fp32.

Measured from file bytes to top tag, including decoding and resizing. int8 is calibrated on some of the photographs and
compared on the others.
"""

from __future__ import annotations

import hashlib
import io
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib.util import find_spec
from typing import ClassVar

import numpy as np
from PIL import Image, ImageOps

from tagger import checkpoint, hardware, images, storage
from tagger.checkpoint.info import Json, ModelInfo
from tagger.data import manifest
from tagger.errors import ImageError, MissingExtra, ModelError, SourceError, UsageError, WriteError, first_line
from tagger.images import UInt8Array
from tagger.inference import engines
from tagger.inference.engines import Choice, Engine, Float32Array

log = logging.getLogger(__name__)

CALIBRATION = 200
"""Maximum number of photographs for the calibration of int8."""
SAMPLE, SAMPLE_CALIBRATION = 400, 120
"""Photographs that are compared before a run, and how many of them calibrate int8."""
ODD = 10
"""Number of photographs that unusual variants are made of."""


@dataclass(frozen=True)
class Agreement:
    """Agreement of one model on this machine."""

    model: str
    processor: str
    recorded_in: str
    photographs: int
    records: dict[str, Json]
    """Choice.key -> top1, odd_top1, max_difference, images, images_per_second."""
    refused: dict[str, str] = field(default_factory=dict)
    """Choice.key -> why the setting cannot run here."""

    columns: ClassVar = ["engine, device, precision", "top-1", "odd images", "largest difference", "model images/s", ""]

    def rows(self) -> list[list[str]]:
        """Return the table, one row per setting."""
        measured = [
            [
                key,
                f"{record['top1']:.2%}",
                f"{record['odd_top1']:.1%}",
                f"{record['max_difference']:.1e}",
                f"{record['images_per_second']:,.1f}",
                "available to auto" if engines.trusted(record, key.rpartition(" ")[2]) else "only if named",
            ]
            for key, record in self.records.items()
        ]
        return measured + [[key, "", "", "", "", why] for key, why in self.refused.items()]

    def text(self) -> str:
        """Return the number of photographs, the machine, and where the result is recorded."""
        machine = f"{hardware.cores()} cores of {self.processor}"
        return f"{self.photographs:,} photographs, {machine}; recorded in {self.recorded_in}"


def measure(
    model: str,
    source: str,
    requested: Choice | None = None,
    limit: int = 1000,
    say: Callable[[str], None] | None = None,
) -> Agreement:
    """Compare every setting that fits the request with the reference, record it with the model, and return it.

    Raises SourceError if the source has no photographs that can be decoded, and the errors of engines.load.
    """
    requested, say = requested or Choice(), say or (lambda line: None)
    info = checkpoint.describe(model)
    if info.only_engine == "onnx":
        raise UsageError(f"{model}: its agreement was measured by the export and is in its metadata")
    contents = photographs(manifest.locations(manifest.read_source(source).table), limit, source)
    calibration, compared = halves(contents)
    odd = [variant for content in compared[:ODD] for variant in odd_variants(content)]
    choices = [
        choice
        for choice in engines.possible(hardware.device(requested.device))
        if choice.engine != "onnx"  # which runs exported files
        and requested.engine in ("auto", choice.engine)
        and requested.precision in ("auto", choice.precision)
    ]
    records, refused = _compare_all(info, choices, calibration, compared, odd, say)
    recorded_in = checkpoint.record_agreement(model, info, hardware.processor(), records)
    return Agreement(info.name, hardware.processor(), recorded_in, len(compared), records, refused)


def measure_for_run(model: str, uris: Sequence[str], device: str) -> None:
    """Measure the most promising precision on a sample of a run's own photographs, and record it in the cache.

    Does nothing if the result is known already, or no less exact precision is faster. If a setting cannot run, or there
    are too few photographs, the run uses fp32.
    """
    info = checkpoint.describe(model)
    choices = _worth_measuring(info, hardware.device(device))
    known = info.agreement.get(hardware.processor(), {})
    if not choices or all(choice.key in known for choice in choices):
        return
    log.warning("%s: comparing faster precisions with fp32 on %d of the photographs", info.name, SAMPLE)
    try:
        calibration, compared = halves(photographs(uris, SAMPLE, info.name), SAMPLE_CALIBRATION)
    except SourceError as error:
        log.info("%s", error)
        return
    records, refused = _compare_all(info, choices, calibration, compared, [], lambda line: None)
    for key, reason in refused.items():
        log.warning("%s: %s is not used: %s", info.name, key, reason)
        records[key] = {"top1": 0.0, "images": len(compared), "images_per_second": 0.0, "refused": reason}
    try:
        checkpoint.record_agreement(model, info, hardware.processor(), records, in_cache=True)
    except WriteError as error:
        log.warning("%s: running in fp32", error)


def _worth_measuring(info: ModelInfo, device: str) -> list[Choice]:
    """Return the settings to compare before a long run: fp32, and those that have proved faster."""
    if info.only_engine:
        return []
    if device == "cuda":
        return [Choice(device, "eager", bits) for bits in ("fp32", "tf32", "fp16", "bf16")]
    if not (find_spec("openvino") and find_spec("nncf")):
        return []
    int8 = "int8-checked" if info.task == "multiclass" else "int8"
    return [Choice(device, "openvino", bits) for bits in ("fp32", int8)]


def _compare_all(
    info: ModelInfo,
    choices: Sequence[Choice],
    calibration: Sequence[bytes],
    compared: Sequence[bytes],
    odd: Sequence[bytes],
    say: Callable[[str], None],
) -> tuple[dict[str, Json], dict[str, str]]:
    """Return the measurements of each setting, and why others cannot run."""
    say(f"reference: eager fp32 on {len(compared) + len(odd):,} photographs")
    expected = reference(info, [*compared, *odd])
    pixels = fitted(info, [*compared, *odd])
    records, refused = {}, {}
    for choice in choices:
        say(choice.key)
        try:
            engine = engines.load(info, checkpoint.build, choice, None, lambda: fitted(info, calibration))
            records[choice.key] = _compare(engine, pixels, expected, len(compared))
        except (UsageError, ModelError, MissingExtra) as error:
            refused[choice.key] = first_line(error)
    return records, refused


def odd_variants(content: bytes) -> list[bytes]:
    """Return unusual variants of a photograph: grey, CMYK, rotated by EXIF, tiny, huge, a strip, an odd size, PNG."""
    with Image.open(io.BytesIO(content)) as image:
        photo = image.convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = 6
    width, height = photo.size
    sizes = {"tiny": (24, 18), "huge": (4000, 4000 * height // width), "odd": (331, 257), "strip": (1200, 90)}
    variants = [
        _encoded(photo.convert("L"), "JPEG"),
        _encoded(photo.convert("CMYK"), "JPEG"),
        _encoded(photo, "JPEG", exif=exif),
        _encoded(photo, "JPEG", progressive=True),
        _encoded(photo, "PNG"),
    ]
    return variants + [_encoded(photo.resize(size, Image.Resampling.LANCZOS), "JPEG") for size in sizes.values()]


def _encoded(image: Image.Image, format: str, **options: object) -> bytes:
    target = io.BytesIO()
    image.save(target, format, **({"quality": 90} if format == "JPEG" else {}), **options)
    return target.getvalue()


def photographs(uris: Sequence[str], limit: int, source: str) -> list[bytes]:
    """Return the bytes of up to `limit` decodable files, spread over the source."""
    count = min(limit, len(uris))
    chosen = [uris[row * len(uris) // count] for row in range(count)]
    with ThreadPoolExecutor(hardware.cores()) as pool:
        contents = [content for content in pool.map(_decodable, chosen) if content is not None]
    if len(contents) < 2:
        raise SourceError(
            f"{source}: {len(contents)} of {len(chosen)} files can be decoded; agreement needs two photographs or more"
        )
    return contents


def _decodable(uri: str) -> bytes | None:
    try:
        content = storage.read_bytes(uri)
        images.decode(content)
    except (SourceError, ImageError):
        return None
    return content


def halves(contents: Sequence[bytes], most: int = CALIBRATION) -> tuple[list[bytes], list[bytes]]:
    """Split the photographs by content, so that int8 is never compared on its calibration photographs."""
    first = [content for content in contents if hashlib.sha256(content).digest()[0] % 5 < 2]
    calibration = first[:most] or list(contents[:1])
    return calibration, [content for content in contents if content not in set(first)] or list(contents)


def reference(info: ModelInfo, contents: Sequence[bytes]) -> Float32Array:
    """Return the scores of timm's transform and network; EXIF rotation is applied first, as in tagging."""
    import torch
    from timm.data.transforms_factory import create_transform

    from tagger.inference.engines.pytorch import scorer

    whole = scorer(info, checkpoint.build(info))
    grid = asdict(info.preprocessing)
    transform = create_transform(input_size=(3, *grid.pop("size")), **grid, is_training=False)
    scores = []
    with torch.inference_mode():
        for start in range(0, len(contents), 32):
            batch = torch.stack([transform(_upright_rgb(content)) for content in contents[start : start + 32]])
            logits = whole.net(batch) / info.temperature
            scores.append((logits.sigmoid() if info.task == "multilabel" else logits.softmax(1)).numpy())
    return np.concatenate(scores)


def _upright_rgb(content: bytes) -> Image.Image:
    with Image.open(io.BytesIO(content)) as image:
        return ImageOps.exif_transpose(image).convert("RGB")


def fitted(info: ModelInfo, contents: Sequence[bytes]) -> UInt8Array:
    """Return the photographs preprocessed for the model: (N, H, W, 3)."""
    with ThreadPoolExecutor(hardware.cores()) as pool:
        return np.stack(list(pool.map(partial(images.prepare_for, preparation=info.preprocessing), contents)))


def _compare(engine: Engine, pixels: UInt8Array, expected: Float32Array, photographs: int) -> Json:
    """Return the agreement on photographs, and on the unusual variants after them."""
    engine(pixels[: engine.batch_size])  # the first call allocates
    started = time.perf_counter()
    scores, _ = engines.run(engine, pixels)
    seconds = time.perf_counter() - started
    same = scores.argmax(1) == expected.argmax(1)
    odd = same[photographs:]
    return {
        "top1": round(float(same[:photographs].mean()), 5),
        "odd_top1": round(float(odd.mean()), 5) if len(odd) else None,
        "max_difference": float(np.abs(scores - expected)[:photographs].max()),
        "images": photographs,
        "images_per_second": round(len(pixels) / seconds, 1),
        "engine": engine.name,
    }
