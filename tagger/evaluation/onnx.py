"""Export of a checkpoint to ONNX; the file's agreement with the reference is measured and recorded in it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal, TypeAlias

import numpy as np
import torch

from tagger import checkpoint, hardware, storage
from tagger.checkpoint import onnx as onnx_files
from tagger.checkpoint.info import ModelInfo
from tagger.data import manifest
from tagger.errors import ModelError, UsageError, WriteError
from tagger.evaluation import agreement, int8
from tagger.inference.engines import Float32Array, probe_images
from tagger.inference.engines.choice import MIN_AGREEMENT
from tagger.inference.engines.onnx import OnnxEngine
from tagger.models.scorer import Scorer
from tagger.storage import StrPath

Precision: TypeAlias = Literal["fp32", "int8"]

PHOTOGRAPHS, PROBES = 1000, 64
"""Maximum number of photographs, and of probe images, that are compared."""


@dataclass(frozen=True)
class Agreement:
    """Agreement of an ONNX file in onnxruntime with the reference."""

    top1: float
    """Share of images with the same top tag."""
    max_difference: float
    """Largest difference of a probability."""
    images: int
    kind: str
    """photographs, compared from their bytes with timm's transform and eager fp32; or probe images, after it"""
    engine: str


@dataclass(frozen=True)
class ExportedModel:
    """An ONNX file that was written."""

    out: str
    bytes: int
    agreement: Agreement

    def text(self) -> str:
        """Return one line for a terminal."""
        found = self.agreement
        return (
            f"{self.out}: {self.bytes / 1e6:,.1f} MB; top-1 agreement {found.top1:.2%} on {found.images:,} "
            f"{found.kind}, largest difference of a probability {found.max_difference:.1e}"
        )


def export_onnx(
    model: StrPath,
    out: StrPath,
    check: StrPath | None = None,
    force: bool = False,
    precision: Precision = "fp32",
) -> ExportedModel:
    """Write a checkpoint as an ONNX file.

    It is compared with the reference on the photographs of `check`, else on probe images; under 99.5% agreement it is
    written only with `force`. The agreement is recorded in the file and in the checkpoint. int8 needs `check`: it is
    calibrated on some of the photographs, and compared on the others. Raises ModelError, UsageError, SourceError
    or MissingExtra.
    """
    model, out = os.fspath(model), os.fspath(out)
    if not out.lower().endswith(onnx_files.SUFFIX):
        raise UsageError(f"--out {out}: the name of an ONNX file ends in {onnx_files.SUFFIX}")
    info = checkpoint.describe(model)
    content, found = converted(model, info, check, force, precision)
    whole = onnx_files.with_metadata(content, info, asdict(found), precision)
    storage.write_atomic(storage.absolute(out), whole)
    _record(model, info, precision, found)
    return ExportedModel(out, len(whole), found)


def _record(model: str, info: ModelInfo, precision: Precision, found: Agreement) -> None:
    """Record the agreement in the checkpoint, or in the cache if the checkpoint is read-only."""
    records = {f"exported onnx {precision}": asdict(found)}
    try:
        checkpoint.record_agreement(model, info, hardware.processor(), records)
    except WriteError:
        checkpoint.record_agreement(model, info, hardware.processor(), records, in_cache=True)


def converted(
    model: str, info: ModelInfo, check: StrPath | None, force: bool, precision: Precision = "fp32"
) -> tuple[bytes, Agreement]:
    """Return a checkpoint as ONNX without metadata, and its agreement with the reference.

    Raises ModelError if they do not agree, unless `force`.
    """
    if precision == "int8" and check is None:
        raise UsageError("--precision int8: it is calibrated on photographs like yours; give some with --check")
    if info.only_engine:
        raise ModelError(f"{model}: {_WHY_NOT[info.only_engine]}")
    scorer = Scorer(
        checkpoint.build(info), info.preprocessing.mean, info.preprocessing.std, info.task, info.temperature
    ).eval()
    content = onnx_files.convert(info, scorer, torch.from_numpy(probe_images(info.preprocessing.size, count=2)))
    calibration, compared = _photographs(check, precision)
    if precision == "int8":
        content = int8.quantised(content, agreement.fitted(info, calibration), info.name)
    found = _compared(info, scorer, OnnxEngine(content, info.name, precision=precision), compared)
    if not found.top1 >= MIN_AGREEMENT and not force:
        raise ModelError(
            f"{model}: as ONNX in {precision} it gives the reference's top tag for {found.top1:.1%} of "
            f"{found.images:,} {found.kind}, under {MIN_AGREEMENT:.1%}; use --force to write it anyway"
        )
    return content, found


_WHY_NOT = {
    "eager": "k-NN ranks its neighbours in float64, which ONNX would do differently; train with another method",
    "onnx": "is already an ONNX file",
}


def _photographs(check: StrPath | None, precision: Precision) -> tuple[list[bytes], list[bytes]]:
    """Return the photographs for the calibration of int8, and those for the comparison."""
    if check is None:
        return [], []
    source = os.fspath(check)
    contents = agreement.photographs(manifest.locations(manifest.read_source(source).table), PHOTOGRAPHS, source)
    return agreement.halves(contents) if precision == "int8" else ([], contents)


def _compared(info: ModelInfo, scorer: Scorer, engine: OnnxEngine, contents: Sequence[bytes]) -> Agreement:
    """Compare an ONNX file with the reference on photographs, or without any on probe images."""
    if not contents:
        kind, pixels = "probe images", probe_images(info.preprocessing.size, PROBES)
        with torch.inference_mode():
            scored = [scorer(batch)[0] for batch in torch.from_numpy(pixels).split(8)]
        expected: Float32Array = torch.cat(scored).numpy()
    else:
        kind, pixels = "photographs", agreement.fitted(info, contents)
        expected = agreement.reference(info, contents)
    scores, _ = engine(pixels)
    return Agreement(
        top1=round(float((scores.argmax(1) == expected.argmax(1)).mean()), 5),
        max_difference=float(np.abs(scores - expected).max()),
        images=len(pixels),
        kind=kind,
        engine=engine.name,
    )
