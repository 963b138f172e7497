"""Sensitivity of layers to int8: top-1 agreement with fp32 when parts of a network are quantised.

    python -m benchmarks.int8_layers PHOTOS local-dir:FOLDER [--calibrate 100]

Quantises one part alone (stem, each stage, head, classifier), then everything except the most sensitive parts. Prints a
Markdown table: agreement with OpenVINO's fp32 on all photographs, and images/s of the network.
"""

from __future__ import annotations

import argparse
import logging
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import nncf
import numpy as np
import openvino

from benchmarks import machine
from tagger import checkpoint, images, storage
from tagger.inference import engines
from tagger.inference.engines.openvino import OpenVinoEngine
from tagger.inference.engines.probe import rate

PART = re.compile(r"net\.([a-z_]+(?:\.\d+)?)")
QUANTISED = ("Convolution", "GroupConvolution", "MatMul", "Add", "ReduceMean", "AvgPool")
"""Layer types that NNCF quantises. Sums must be listed, or they are quantised even if their convolutions are not."""
ENOUGH = 0.995


def main() -> None:
    """Parse the arguments, measure, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("model")
    parser.add_argument("--calibrate", type=int, default=100)
    arguments = parser.parse_args()
    logging.getLogger("nncf").setLevel(logging.ERROR)
    info = checkpoint.describe(arguments.model)
    engines.load(info, checkpoint.build, engines.Choice("cpu", "openvino", "fp32"))  # converts the network once
    network = storage.cache_folder() / "openvino" / info.model_id / "model.xml"
    pixels = _pixels(arguments.photos, info.preprocessing)
    with TemporaryDirectory() as folder:
        quantiser = Quantiser(network, pixels, arguments.calibrate, Path(folder))
        print(f"{len(pixels)} photographs, {machine.describe()}\n")
        print("| in int8 | top-1 agreement | images/s |\n|---|--:|--:|")
        alone = {part: quantiser.row(f"only {part}", quantiser.others(part))[0] for part in quantiser.parts}
        quantiser.row("everything", [])
        spared: list[str] = []
        for part in sorted(alone, key=lambda name: alone[name]):
            spared.append(part)
            if quantiser.row(f"all but {', '.join(spared)}", quantiser.layers(spared))[0] >= ENOUGH:
                break
        print(f"| nothing (fp32) | | {quantiser.rate(network):.0f} |")


class Quantiser:
    """Quantises parts of a network and compares the top tags with those of fp32."""

    def __init__(self, network: Path, pixels: images.UInt8Array, calibrate: int, folder: Path) -> None:
        self.network, self.pixels, self.folder = network, pixels, folder
        self.calibration = pixels[:: max(1, len(pixels) // calibrate)][:calibrate]
        self.expected = self._top_tags(network)
        model = openvino.Core().read_model(network)
        self.by_part: dict[str, list[str]] = {}
        for node in model.get_ordered_ops():
            found = PART.search(_module(node))
            if found and node.get_type_name() in QUANTISED:
                self.by_part.setdefault(found[1], []).append(node.get_friendly_name())
        self.parts = list(self.by_part)

    def layers(self, parts: Sequence[str]) -> list[str]:
        """Return the names of the layers of some parts."""
        return [name for part in parts for name in self.by_part[part]]

    def others(self, part: str) -> list[str]:
        """Return the names of the layers of all other parts."""
        return self.layers([each for each in self.parts if each != part])

    def row(self, title: str, spared: list[str]) -> tuple[float, float]:
        """Quantise all layers except the spared ones; print and return agreement and rate."""
        quantised: Any = nncf.quantize(
            openvino.Core().read_model(self.network),
            nncf.Dataset([image[None] for image in self.calibration]),
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(self.calibration),
            ignored_scope=nncf.IgnoredScope(names=spared) if spared else None,
        )
        path = self.folder / "int8.xml"
        openvino.save_model(quantised, path, compress_to_fp16=False)
        agreement, fast = float((self._top_tags(path) == self.expected).mean()), self.rate(path)
        print(f"| {title} | {agreement:.1%} | {fast:.0f} |", flush=True)
        return agreement, fast

    def rate(self, network: Path) -> float:
        """Return images/s of the network on all cores."""
        return rate(self._engine(network), self.pixels[:64], seconds=2.0)

    def _top_tags(self, network: Path) -> np.ndarray[Any, Any]:
        engine = self._engine(network)
        with ThreadPoolExecutor(engine.concurrency) as pool:
            chunks = np.array_split(self.pixels, max(1, len(self.pixels) // 50))
            return np.concatenate([scores.argmax(1) for scores, _ in pool.map(engine, chunks)])

    def _engine(self, network: Path) -> OpenVinoEngine:
        return OpenVinoEngine(network, "int8", 4)


def _module(node: Any) -> str:
    """Return the names of a layer and its consumer: a layer fused with its batch norm has lost its own name."""
    readers = [found.get_node().get_friendly_name() for found in node.output(0).get_target_inputs()]
    return " ".join([node.get_friendly_name(), *readers[:1]])


def _pixels(folder: Path, preprocessing: Any) -> images.UInt8Array:
    found = storage.find_images(str(folder.resolve()))
    return np.stack([images.prepare_for(storage.read_bytes(entry.uri), preprocessing) for entry in found])


if __name__ == "__main__":
    main()
