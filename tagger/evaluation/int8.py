"""ONNX networks in int8, for any onnxruntime: static quantisation by NNCF, QDQ, weights per channel."""

from __future__ import annotations

import contextlib
import io
import logging

from tagger.checkpoint import onnx as onnx_files
from tagger.errors import MissingExtra, ModelError, first_line
from tagger.images import UInt8Array


def quantised(content: bytes, images: UInt8Array, name: str) -> bytes:
    """Quantise an exported network to int8, calibrated on images (N, H, W, 3); raises ModelError, MissingExtra."""
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # NNCF looks for CUDA
    try:
        import nncf
        import onnx
    except ImportError as error:
        raise MissingExtra("--precision int8", str(error.name)) from error
    logging.getLogger("nncf").setLevel(logging.ERROR)
    calibration = nncf.Dataset([{onnx_files.INPUT: image[None]} for image in images])
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):  # progress bars
            network = nncf.quantize(
                onnx.load_model_from_string(content), calibration, preset=nncf.QuantizationPreset.MIXED,
                subset_size=len(images),
            )  # fmt: skip
    except Exception as error:  # NNCF raises errors of any type
        raise ModelError(f"{name}: NNCF cannot quantise it ({first_line(error)})") from error
    whole: bytes = network.SerializeToString()
    return whole
