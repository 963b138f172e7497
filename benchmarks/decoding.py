"""Image decoders on one core: bytes to pixels, and to the 224x224 pixels of a network's input.

    python -m benchmarks.decoding PHOTOS [--limit 300] [--large 40] [--model local-dir:FOLDER]

Alternates the decoders over the same photographs, five times, and prints medians of images/s. Then 12-megapixel JPEGs
(the photographs enlarged to 4000x3000): Pillow's full decode and resize against tagger, which lets libjpeg scale while
decoding, with the mean difference of the pixels and, with `--model`, the number of large images with the same top tag.
simplejpeg is measured if it is installed.
"""

from __future__ import annotations

import argparse
import io
import statistics
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks import machine
from tagger import checkpoint, images
from tagger.images.transforms import Preprocessing
from tagger.inference import engines

PREPROCESSING = Preprocessing()
ROUNDS = 5


def main() -> None:
    """Parse the arguments, measure, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--limit", type=int, default=300)
    parser.add_argument("--large", type=int, default=40)
    parser.add_argument("--model")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    paths = sorted(path for path in arguments.photos.rglob("*") if path.is_file())
    contents = [path.read_bytes() for path in paths[:: max(1, len(paths) // arguments.limit)][: arguments.limit]]
    print(f"{machine.describe()}, one core, medians of {ROUNDS}\n")
    print(f"| {len(contents)} photographs | images/s |\n|---|--:|")
    for name, rate in rates(_decoders(), contents).items():
        print(f"| {name} | {rate:.0f} |")
    large = [_enlarged(content) for content in contents[: arguments.large]]
    found = rates({"Pillow, full": _full, "tagger": _ours}, large)
    full, ours = np.stack([_full(content) for content in large]), np.stack([_ours(content) for content in large])
    difference = np.abs(full.astype(int) - ours.astype(int)).mean()
    print(f"\n| {len(large)} JPEGs of 12 megapixels | images/s |\n|---|--:|")
    for name, rate in found.items():
        print(f"| {name} | {rate:.1f} |")
    print(f"\nratio {found['tagger'] / found['Pillow, full']:.2f}; mean difference {difference:.2f} of 255")
    if arguments.model:
        info = checkpoint.describe(arguments.model)
        engine = engines.load(info, checkpoint.build, engines.Choice("cpu", "eager", "fp32"))
        same = engine(full)[0].argmax(1) == engine(ours)[0].argmax(1)
        print(f"same top tag: {same.sum()} of {len(same)}")


def rates(decoders: dict[str, Callable[[bytes], Any]], contents: Sequence[bytes]) -> dict[str, float]:
    """Run the decoders in turn; return the median images/s of each."""
    seconds: dict[str, list[float]] = {name: [] for name in decoders}
    for _ in range(ROUNDS):
        for name, decode in decoders.items():
            started = time.perf_counter()
            for content in contents:
                decode(content)
            seconds[name].append(time.perf_counter() - started)
    return {name: len(contents) / statistics.median(each) for name, each in seconds.items()}


def _decoders() -> dict[str, Callable[[bytes], Any]]:
    from torchvision.io import ImageReadMode, decode_jpeg

    found: dict[str, Callable[[bytes], Any]] = {
        "Pillow": lambda content: np.asarray(Image.open(io.BytesIO(content)).convert("RGB")),
        "torchvision": lambda content: decode_jpeg(
            torch.frombuffer(bytearray(content), dtype=torch.uint8), mode=ImageReadMode.RGB
        ),
    }
    if find_spec("simplejpeg"):
        import simplejpeg

        found["simplejpeg"] = simplejpeg.decode_jpeg
    return {**found, "Pillow, with resize": _full, "tagger, with resize": _ours}


def _full(content: bytes) -> images.UInt8Array:
    image, _ = images.decode(content)
    return images.fit(image, PREPROCESSING)


def _ours(content: bytes) -> images.UInt8Array:
    return images.prepare_for(content, PREPROCESSING)


def _enlarged(content: bytes) -> bytes:
    with Image.open(io.BytesIO(content)) as image:
        target = io.BytesIO()
        image.convert("RGB").resize((4000, 3000), Image.Resampling.LANCZOS).save(target, "JPEG", quality=90)
    return target.getvalue()


if __name__ == "__main__":
    main()
