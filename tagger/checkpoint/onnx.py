"""Models as ONNX files: uint8 images (N, H, W, 3) in, scores (N, classes) and embeddings (N, D) out.

Normalisation and temperature are inside the graph. Labels, task, thresholds, preprocessing, the measured agreement and
the statistics of unknown images are the file's metadata, each value as JSON.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import json
import logging
import math
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from types import ModuleType
from typing import TYPE_CHECKING

from tagger import storage
from tagger.checkpoint import unknown
from tagger.checkpoint.info import Json, ModelInfo, fingerprint
from tagger.checkpoint.unknown import Statistics
from tagger.errors import MissingExtra, ModelError, SourceError, SourceNotFound, first_line
from tagger.images import DECODE_VERSION, Preprocessing
from tagger.images.transforms import CROP_MODES, INTERPOLATIONS

if TYPE_CHECKING:
    from onnxruntime import InferenceSession
    from torch import Tensor, nn

SUFFIX = ".onnx"
SCHEMA = 1
"""Version of the metadata."""
INPUT, SCORES, EMBEDDINGS = "images", "scores", "embeddings"
OPSET = 18
"""The oldest opset that torch's exporter supports, which onnxruntime reads from version 1.14."""


def convert(info: ModelInfo, scorer: nn.Module, example: Tensor) -> bytes:
    """Convert a network with normalisation and probabilities to ONNX; `example` is a batch of at least two images.

    Raises ModelError for a network that torch cannot export, MissingExtra without a package.
    """
    torch = _packages()
    dynamic = {"images": {0: torch.export.Dim("batch")}}
    try:
        # the exporter fails on fused attention with a mask
        with _quiet(), torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            program = torch.onnx.export(
                scorer, (example,), dynamo=True, opset_version=OPSET, dynamic_shapes=dynamic, verbose=False,
                input_names=[INPUT], output_names=[SCORES, EMBEDDINGS],
            )  # fmt: skip
    except Exception as error:  # the exporter raises errors of any type
        raise ModelError(f"{info.name}: torch cannot export it to ONNX ({first_line(error)})") from error
    proto = program.model_proto
    parts = [proto.graph, *proto.graph.node, *proto.graph.input, *proto.graph.output, *proto.graph.initializer]
    for part in parts:  # the exporter records the stack of every call here, with local paths
        del part.metadata_props[:]
        part.doc_string = ""
    del proto.graph.value_info[:]
    content: bytes = proto.SerializeToString()
    return content


def with_metadata(content: bytes, info: ModelInfo, agreement: Mapping[str, object], precision: str = "fp32") -> bytes:
    """Add the description of a model to an ONNX file."""
    import onnx

    thresholds = info.thresholds and dict(zip(info.label_names, info.thresholds, strict=True))
    facts = {
        "tagger.schema": SCHEMA,
        "name": info.name,
        "model_id": info.model_id,
        "architecture": info.architecture,
        "task": info.task,
        "label_names": info.label_names,
        "thresholds": thresholds,
        "temperature": info.temperature,
        "preprocessing": asdict(info.preprocessing),
        "precision": precision,
        "agreement": agreement,
        "unknown": info.statistics and _encoded(info.statistics),
    }
    proto = onnx.load_model_from_string(content)
    onnx.helper.set_model_props(proto, {name: json.dumps(value, ensure_ascii=False) for name, value in facts.items()})
    described: bytes = proto.SerializeToString()
    return described


def _encoded(statistics: Statistics) -> Json:
    """Return the statistics for unknown images as JSON; they are not part of the graph."""
    return {**statistics.entry(), "examples": base64.b64encode(unknown.to_bytes(statistics)).decode()}


def _statistics(entry: Json | None, name: str) -> Statistics | None:
    if not entry:
        return None
    neighbour, cut = int(entry["neighbour"]), _number(entry["cut"])
    return unknown.from_bytes(base64.b64decode(entry["examples"], validate=True), neighbour, cut, name)


def session(content: bytes, name: str, optimise: bool = True) -> InferenceSession:
    """Return an onnxruntime session on one core, safe to call from several threads. Raises ModelError, MissingExtra."""
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtra(name, "onnxruntime", "onnx") from error
    levels = onnxruntime.GraphOptimizationLevel
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = settings.inter_op_num_threads = 1
    settings.graph_optimization_level = levels.ORT_ENABLE_ALL if optimise else levels.ORT_DISABLE_ALL
    settings.log_severity_level = 4
    try:
        return onnxruntime.InferenceSession(content, settings, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has a dozen error types
        raise ModelError(f"{name}: onnxruntime cannot load it ({first_line(error)})") from error


def precision(loaded: InferenceSession) -> str:
    """Return the precision in the metadata of a file."""
    return str(json.loads(loaded.get_modelmeta().custom_metadata_map.get("precision", '"fp32"')))


def describe(model: str) -> ModelInfo:
    """Describe a file of `tagger export --format onnx`; raises ModelError for any other."""
    uri = storage.absolute(model)
    try:
        content = storage.read_bytes(uri)
    except SourceNotFound as error:
        raise ModelError(f"{model}: no such file; create one with `tagger export CHECKPOINT --format onnx`") from error
    except SourceError as error:
        raise ModelError(str(error)) from error
    loaded = session(content, model, optimise=False)
    facts = loaded.get_modelmeta().custom_metadata_map
    if "tagger.schema" not in facts:
        raise ModelError(f"{model}: has no labels: neither a labels.txt next to it nor tagger's metadata")
    try:
        return _info(uri, content, {name: json.loads(value) for name, value in facts.items()}, loaded)
    except (ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
        raise ModelError(f"{model}: its metadata is damaged ({first_line(error)}); export it again") from error


def _info(uri: str, content: bytes, facts: Json, loaded: InferenceSession) -> ModelInfo:
    """Return the description in the metadata; raises ValueError and others if it does not fit the graph."""
    if facts["tagger.schema"] > SCHEMA:
        raise ValueError(f"schema {facts['tagger.schema']}, newer than {SCHEMA}; upgrade tagger")
    names = tuple(facts["label_names"])
    (images,), (scores, embeddings) = loaded.get_inputs(), loaded.get_outputs()
    if (images.name, scores.name, embeddings.name) != (INPUT, SCORES, EMBEDDINGS):
        raise ValueError("its inputs and outputs are not those of tagger")
    if not all(isinstance(name, str) for name in names) or len(set(names)) != scores.shape[1]:
        raise ValueError(f"label_names must be {scores.shape[1]} different texts")
    if facts["task"] not in ("multiclass", "multilabel"):
        raise ValueError(f"task {facts['task']!r}; expected multiclass or multilabel")
    preprocessing = _preprocessing(facts["preprocessing"])
    if (images.type, images.shape[1:]) != ("tensor(uint8)", [*preprocessing.size, 3]):
        raise ValueError(f"its input is {images.type} {images.shape}; expected uint8 images of {preprocessing.size}")
    thresholds = facts["thresholds"]
    return ModelInfo(
        name=uri.rpartition("/")[2],
        model_id=fingerprint({"onnx": hashlib.sha256(content).hexdigest(), "decode": DECODE_VERSION}),
        architecture=str(facts["architecture"]),
        model_args={},
        weights=uri,
        label_names=names,
        task=facts["task"],
        preprocessing=preprocessing,
        thresholds=None if thresholds is None else tuple(_number(thresholds[name]) for name in names),
        statistics=_statistics(facts.get("unknown"), uri),
    )


def _preprocessing(facts: Json) -> Preprocessing:
    height, width = facts["size"]
    found = Preprocessing(
        size=(int(height), int(width)),
        interpolation=facts["interpolation"],
        crop_pct=_number(facts["crop_pct"]),
        crop_mode=facts["crop_mode"],
        mean=tuple(map(_number, facts["mean"])),
        std=tuple(map(_number, facts["std"])),
    )
    if found.interpolation not in INTERPOLATIONS or found.crop_mode not in CROP_MODES or found.crop_pct <= 0:
        raise ValueError(f"preprocessing {facts}")
    return found


def _number(value: object) -> float:
    if not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"expected a number, got {value!r}")
    return float(value)


def _packages() -> ModuleType:
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
        import torch.nn.attention
    except ImportError as error:
        raise MissingExtra("--format onnx", str(error.name), "onnx") from error
    return torch


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the exporter's messages."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
