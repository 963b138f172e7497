"""Images and networks made on the spot, and the paths of real ones."""

from __future__ import annotations

import ctypes
import json
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).parent.parent
SHARED = ROOT.parent / "shared"
MODEL = str(ROOT / "checkpoints" / "cifar10-speedrun")


def photo(seed: int, size: tuple[int, int] = (64, 48)) -> Image.Image:
    """A smooth image that no other seed gives."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 255, (4, 4, 3), dtype=np.uint8))
    return coarse.resize(size, Image.Resampling.BICUBIC)


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


def backbone(folder: Path, architecture: str, side: int) -> Path:
    """A timm network with random weights, in timm's local-dir layout."""
    import safetensors.torch
    import timm
    import torch

    torch.manual_seed(0)
    folder.mkdir()
    net = timm.create_model(architecture, num_classes=3, pretrained=False)
    safetensors.torch.save_file(net.state_dict(), folder / "model.safetensors")
    preparation = {"input_size": [3, side, side], "crop_pct": 0.9, "interpolation": "bilinear", "mean": [0.5] * 3}
    names = ["red", "green", "blue"]
    config = {"architecture": architecture, "num_classes": 3, "label_names": names, "pretrained_cfg": preparation}
    (folder / "config.json").write_text(json.dumps(config))
    return folder
