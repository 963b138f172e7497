"""Export of a checkpoint as a zip in the layout of Custom Vision's ONNX exports."""

from __future__ import annotations

import io
import json
import os
import uuid
import zipfile
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime

import numpy as np

from tagger import checkpoint, storage
from tagger.checkpoint import onnx as onnx_files
from tagger.checkpoint.info import ModelInfo
from tagger.errors import ModelError, UsageError
from tagger.evaluation.onnx import ExportedModel, converted
from tagger.inference.engines import probe_images
from tagger.storage import StrPath

INPUT, OUTPUT = "data", "model_output"
_POSTPROCESS = {"multiclass": "ClassificationMultiClass", "multilabel": "ClassificationMultiLabel"}
_PIXELS = {
    "Image.BitmapPixelFormat": "Rgb8",
    "Image.NominalPixelRange": "NominalRange_0_255",
    "Image.ColorSpaceGamma": "SRGB",
}
"""Metadata of the model file that its readers expect."""


def export_customvision(
    model: StrPath, out: StrPath, check: StrPath | None = None, force: bool = False
) -> ExportedModel:
    """Write a checkpoint as a zip of model.onnx, labels.txt and metadata; its agreement is measured as for onnx.

    Raises ModelError, UsageError, SourceError or MissingExtra.
    """
    model, out = os.fspath(model), os.fspath(out)
    if not out.lower().endswith(".zip"):
        raise UsageError(f"--out {out}: the name of a Custom Vision export ends in .zip")
    info = checkpoint.describe(model)
    _check_labels(info)
    content, found = converted(model, info, check, force)
    facts = {"model_id": info.model_id, "preprocessing": asdict(info.preprocessing), "agreement": asdict(found)}
    exported = with_float_input(content, {f"tagger.{name}": json.dumps(value) for name, value in facts.items()})
    _check_equal(content, exported, info)
    whole = _zipped(exported, info)
    storage.write_atomic(storage.absolute(out), whole)
    return ExportedModel(out, len(whole), found)


def with_float_input(content: bytes, facts: Mapping[str, str]) -> bytes:
    """Change the input of an exported file to float (N, 3, H, W), RGB from 0 to 255, and the outputs to the scores."""
    import onnx
    from onnx import TensorProto, helper

    proto = onnx.load_model_from_string(content)
    graph = proto.graph
    (images,), (scores, _) = graph.input, graph.output
    batch, height, width, _ = (each.dim_param or each.dim_value for each in images.type.tensor_type.shape.dim)
    before = [
        helper.make_node("Round", [INPUT], ["cv_rounded"]),
        helper.make_node("Clip", ["cv_rounded", "cv_low", "cv_high"], ["cv_clipped"]),
        helper.make_node("Cast", ["cv_clipped"], ["cv_pixels"], to=TensorProto.UINT8),
        helper.make_node("Transpose", ["cv_pixels"], [onnx_files.INPUT], perm=[0, 2, 3, 1]),
    ]
    nodes = [*before, *graph.node, helper.make_node("Identity", [scores.name], [OUTPUT])]
    limits = {"cv_low": 0, "cv_high": 255}
    constants = [helper.make_tensor(name, TensorProto.FLOAT, [], [value]) for name, value in limits.items()]
    classes = scores.type.tensor_type.shape.dim[1].dim_value
    floats = helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, [batch, 3, height, width])
    output = helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, [batch, classes])
    made = helper.make_graph(nodes, graph.name, [floats], [output], [*graph.initializer, *constants])
    whole = helper.make_model(
        made, opset_imports=proto.opset_import, ir_version=proto.ir_version, functions=proto.functions
    )
    helper.set_model_props(whole, {**_PIXELS, **facts})
    result: bytes = whole.SerializeToString()
    return result


def _check_labels(info: ModelInfo) -> None:
    """Raise ModelError for labels that do not fit into one line of labels.txt."""
    if odd := [name for name in info.label_names if name != name.strip() or len(name.splitlines()) != 1]:
        raise ModelError(f"{info.name}: labels.txt has one label per line, and {odd[0]!r} does not fit; rename it")


def _check_equal(content: bytes, exported: bytes, info: ModelInfo) -> None:
    """Raise ModelError unless both files have the same scores."""
    pixels = probe_images(info.preprocessing.size)
    (expected,) = onnx_files.session(content, info.name).run([onnx_files.SCORES], {onnx_files.INPUT: pixels})
    floats = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2), np.float32)
    (scores,) = onnx_files.session(exported, info.name).run([OUTPUT], {INPUT: floats})
    if not np.allclose(scores, expected, atol=1e-5):
        raise ModelError(f"{info.name}: its scores change in a Custom Vision export; use --format onnx")


def _zipped(content: bytes, info: ModelInfo) -> bytes:
    files = {
        "model.onnx": content,
        "labels.txt": "\n".join(info.label_names).encode(),
        "cvexport.manifest": _json(_manifest(info)),
        "metadata_properties.json": _json(_properties(info)),
    }
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, each in files.items():
            archive.writestr(name, each)
    return sink.getvalue()


def _manifest(info: ModelInfo) -> dict[str, str]:
    return {
        "DomainType": "Classification",
        "Platform": "ONNX",
        "Flavor": "ONNX12",
        "ExporterVersion": "2.0",
        "ExportedDate": datetime.now(UTC).isoformat(),
        "IterationId": str(uuid.uuid5(uuid.NAMESPACE_URL, info.model_id)),
        "ModelFileName": "model.onnx",
        "LabelFileName": "labels.txt",
        "MetadataPropsFileName": "metadata_properties.json",
        "SchemaVersion": "1.0",
    }


def _properties(info: ModelInfo) -> dict[str, str]:
    height, width = map(str, info.preprocessing.size)
    squash = info.preprocessing.crop_mode == "squash"
    return {
        "CustomVision.Metadata.Version": "1.1",
        "CustomVision.Postprocess.Method": _POSTPROCESS[info.task],
        "CustomVision.Preprocess.CropMethod": "NoCrop" if squash else "FullImageShorterSide",
        "CustomVision.Preprocess.ResizeMethod": "Stretch" if squash else "ByShorterSideAlign32",
        "CustomVision.Preprocess.TargetHeight": height,
        "CustomVision.Preprocess.TargetWidth": width,
        "CustomVision.Preprocess.NormalizeMean": "[0.0, 0.0, 0.0]",
        "CustomVision.Preprocess.NormalizeStd": "[1.0, 1.0, 1.0]",
        **_PIXELS,
    }


def _json(value: object) -> bytes:
    return json.dumps(value, indent=2, ensure_ascii=False).encode()
