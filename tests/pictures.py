"""Images and networks made on the spot, and the paths of real ones."""

from __future__ import annotations

import ctypes
import json
import shutil
import struct
import tempfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

ROOT = Path(__file__).parent.parent
SHARED = ROOT.parent / "shared"
SHIPPED = ROOT / "checkpoints" / "cifar10-speedrun"


def without_statistics(model: Path, out: Path) -> Path:
    """Copy a checkpoint as an earlier version wrote it, which knows no unknown images."""
    shutil.copytree(model, out, ignore=shutil.ignore_patterns("unknown.safetensors"))
    bundle = json.loads((out / "tagger.json").read_text())
    del bundle["unknown"]
    (out / "tagger.json").write_text(json.dumps(bundle))
    return out


_FOLDER = tempfile.TemporaryDirectory(prefix="tagger-tests-")
MODEL = str(without_statistics(SHIPPED, Path(_FOLDER.name) / SHIPPED.name))
"""The shipped checkpoint without statistics: it gives tags to images that are no photographs."""


def photo(seed: int, size: tuple[int, int] = (64, 48)) -> Image.Image:
    """A smooth image that no other seed gives."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 255, (4, 4, 3), dtype=np.uint8))
    return coarse.resize(size, Image.Resampling.BICUBIC)


def write_stripes(
    folder: Path, count: int, seed: int = 0, labels: tuple[str, ...] = ("across", "down", "plain")
) -> None:
    """Class folders that a network can tell apart: stripes across, stripes down, and none."""
    rng = np.random.default_rng(seed)
    for label in labels:
        (folder / label).mkdir(parents=True)
        for index in range(count):
            wave = 90 * np.sin(np.arange(32) * rng.uniform(0.8, 1.6) + rng.uniform(0, 6))
            shape = {"across": wave[:, None, None], "down": wave[:, None], "plain": 0}[label]
            noisy = 128 + shape + rng.normal(0, 30, (32, 32, 3))
            Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)).save(folder / label / f"{index}.png")


def chunk(kind: bytes, content: bytes) -> bytes:
    """A chunk of a PNG file."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def bomb() -> bytes:
    """A PNG with the header of 20,000 x 20,000 pixels."""
    header = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(20_001))), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*each) for each in chunks)


def without_root_powers() -> None:
    """For preexec_fn: make file permissions count even when the tests run as root."""
    PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH = 24, 1, 2
    for capability in (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH):
        ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)


def backbone(folder: Path, architecture: str, side: int, **model_args: object) -> Path:
    """A timm network with random weights, in timm's local-dir layout."""
    import safetensors.torch
    import timm
    import torch

    torch.manual_seed(0)
    folder.mkdir()
    net = timm.create_model(architecture, num_classes=3, pretrained=False, **model_args)
    safetensors.torch.save_file(net.state_dict(), folder / "model.safetensors")
    preparation = {"input_size": [3, side, side], "crop_pct": 0.9, "interpolation": "bilinear", "mean": [0.5] * 3}
    names = ["red", "green", "blue"]
    config = {"architecture": architecture, "num_classes": 3, "label_names": names, "pretrained_cfg": preparation}
    config["model_args"] = model_args
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def ours(folder: Path, architecture: str, model_args: dict[str, Any], **weights: Any) -> str:
    """A network of ours with random weights, in timm's local-dir layout."""
    import safetensors.torch
    import torch

    from tagger import models

    torch.manual_seed(0)
    folder.mkdir()
    net = models.build(architecture, 3, model_args)
    for name, value in net.state_dict().items():
        if value.is_floating_point() and name.startswith("head"):
            value.copy_(weights.get(name, torch.randn_like(value)))
    safetensors.torch.save_file(net.state_dict(), folder / "model.safetensors")
    side = model_args.get("input_size", 32)
    grid = {"input_size": [3, side, side], "crop_pct": 1.0, "mean": [0.5] * 3, "std": [0.25] * 3}
    config = {"architecture": architecture, "num_classes": 3, "model_args": model_args, "pretrained_cfg": grid}
    (folder / "config.json").write_text(json.dumps(config | {"label_names": ["red", "green", "blue"]}))
    return f"local-dir:{folder}"
