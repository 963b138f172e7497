"""ONNX models of other programs: exports of Azure Custom Vision (.zip), and .onnx files with a labels.txt beside them.

A copy of the model between our own input and outputs, with labels and preprocessing as metadata, is made once and kept
in the cache; from there on it is a file of ours. Its embeddings are its scores.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tagger import storage
from tagger.checkpoint import onnx as onnx_files
from tagger.checkpoint.info import Json, ModelInfo
from tagger.errors import MissingExtra, ModelError, SourceError, first_line
from tagger.images import Preprocessing

if TYPE_CHECKING:
    import onnx

log = logging.getLogger(__name__)

SUFFIXES = (onnx_files.SUFFIX, ".zip")
LABELS, PROPERTIES = "labels.txt", "metadata_properties.json"
VERSION = 1
"""Part of the name in the cache: increment it when the same model is converted differently."""
MAX_FILE = 2 << 30
_OTHERS = {
    "model.pb": "TensorFlow", ".tflite": "TensorFlow Lite", "weights.bin": "TensorFlow.js", ".mlmodel": "Core ML",
    "app.py": "Docker",
}  # fmt: skip
_ALIKE = 10.0
"""Scores vary so many times less on wrongly scaled pixels."""


@dataclass(frozen=True)
class Foreign:
    """A model of another program."""

    name: str
    content: bytes
    labels: tuple[str, ...]
    properties: Json
    """metadata_properties.json, {} without."""

    @property
    def squashes(self) -> bool:
        """Return whether images are squashed to the input; else their centre is cropped."""
        crop, resize = (
            self.properties.get(f"CustomVision.Preprocess.{name}") for name in ("CropMethod", "ResizeMethod")
        )
        return crop == "NoCrop" or resize == "Stretch"


def describe(model: str) -> ModelInfo:
    """Describe an ONNX file of ours, or one of another program with its labels; raises ModelError, MissingExtra."""
    uri = storage.absolute(model)
    found = _read_zip(model, uri) if uri.lower().endswith(".zip") else _read_beside(uri)
    if found is None:
        return onnx_files.describe(model)
    facts = [found.content, "\n".join(found.labels).encode(), json.dumps(found.properties, sort_keys=True).encode()]
    digest = hashlib.sha256(b"\0".join([str(VERSION).encode(), *facts])).hexdigest()[:24]
    cached = str(storage.cache_folder() / "onnx" / f"{digest}{onnx_files.SUFFIX}")
    if not storage.exists(storage.absolute(cached)):
        storage.write_atomic(storage.absolute(cached), _adopted(found))
    return replace(onnx_files.describe(cached), name=found.name)


def _read_beside(uri: str) -> Foreign | None:
    """Return a model with a labels.txt in its folder; None for a file of ours, or without labels."""
    try:
        content = storage.read_bytes(uri)
        labels = b"" if b"tagger.schema" in content else storage.read_bytes(storage.join(storage.parent(uri), LABELS))
    except SourceError:
        return None  # whatever is wrong with the file itself, describing it says so
    if not labels:
        return None
    try:
        properties = storage.read_bytes(storage.join(storage.parent(uri), PROPERTIES))
    except SourceError:
        properties = b"{}"
    return _foreign(uri, content, labels, properties)


def _read_zip(model: str, uri: str) -> Foreign:
    try:
        with zipfile.ZipFile(io.BytesIO(storage.read_bytes(uri))) as archive:
            sizes = {each.filename.rpartition("/")[2].lower(): each for each in archive.infolist() if not each.is_dir()}
            if large := [name for name, each in sizes.items() if each.file_size > MAX_FILE]:
                raise ModelError(f"{model}: {large[0]} is larger than {MAX_FILE >> 30} GB")
            network = next((name for name in sizes if name.endswith(onnx_files.SUFFIX)), None)
            if network is None:
                raise ModelError(f"{model}: {_what_else(list(sizes))}")
            if LABELS not in sizes:
                raise ModelError(f"{model}: has no {LABELS}; expected an ONNX export of Azure Custom Vision")
            files = [archive.read(sizes[name]) if name in sizes else b"{}" for name in (network, LABELS, PROPERTIES)]
    except SourceError as error:
        raise ModelError(str(error)) from error
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError) as error:
        raise ModelError(f"{model}: a damaged or encrypted zip file ({first_line(error)})") from error
    return _foreign(uri, *files)


def _what_else(names: list[str]) -> str:
    kind = next((kind for suffix, kind in _OTHERS.items() if any(name.endswith(suffix) for name in names)), None)
    if kind is None:
        return "holds no .onnx file; expected an ONNX export of Azure Custom Vision"
    return f"an export of Azure Custom Vision for {kind}, which does not run here; export the iteration for ONNX"


def _foreign(uri: str, content: bytes, labels: bytes, properties: bytes) -> Foreign:
    name = uri.rpartition("/")[2]
    lines = labels.decode("utf-8-sig", "replace").splitlines()
    names = tuple(line.strip() for line in lines if line.strip())
    if len(set(names)) != len(names) or not names:
        raise ModelError(f"{name}: {LABELS} must have a different label on every line")
    try:
        facts = json.loads(properties)
    except ValueError as error:
        raise ModelError(f"{name}: {PROPERTIES} is not valid JSON") from error
    return Foreign(name, content, names, facts if isinstance(facts, dict) else {})


def _adopted(found: Foreign) -> bytes:
    """Return the model as a file of ours; raises ModelError."""
    try:
        import onnx
        from onnx import compose
    except ImportError as error:
        raise MissingExtra(found.name, "onnx", "onnx") from error
    try:
        model = onnx.load_model_from_string(found.content)
        own = {prop.key: prop.value for prop in model.metadata_props}
        model = compose.add_prefix(model, "foreign/")
        scale = _scale(model, found, own)
        bgr = (own.get("Image.BitmapPixelFormat") or found.properties.get("Image.BitmapPixelFormat")) == "Bgr8"
        whole = _wrapped(model, found, scale, bgr)
        scores = _scores(whole, found, _probes(_size(model, found)))
        task = _task(found, scores)
        if task == "logits":
            whole = _wrapped(model, found, scale, bgr, softmax=True)
    except ModelError:
        raise
    except Exception as error:  # of protobuf, onnx and NumPy, about a file that may be anything
        raise ModelError(f"{found.name}: not an ONNX model that can be run ({first_line(error)})") from error
    info = ModelInfo(
        name=found.name, model_id="", architecture="onnx", model_args={}, weights="", label_names=found.labels,
        task="multilabel" if task == "multilabel" else "multiclass",
        preprocessing=Preprocessing(
            _size(model, found), "bilinear", 1.0, "squash" if found.squashes else "center", (0.0,) * 3, (1.0,) * 3
        ),
    )  # fmt: skip
    return onnx_files.with_metadata(whole, info, {})


def _input(model: onnx.ModelProto) -> onnx.ValueInfoProto:
    """Return the input for images; old files list their weights among the inputs."""
    weights = {each.name for each in model.graph.initializer}
    images: list[onnx.ValueInfoProto] = [each for each in model.graph.input if each.name not in weights]
    if len(images) != 1:
        raise ValueError(f"it has {len(images)} inputs; expected one, the images")
    return images[0]


def _dims(model: onnx.ModelProto) -> list[int]:
    return [each.dim_value for each in _input(model).type.tensor_type.shape.dim]


def _channels_last(model: onnx.ModelProto) -> bool:
    dims = _dims(model)
    if len(dims) != 4 or 3 not in (dims[1], dims[3]):
        raise ValueError(f"its input is {dims}; expected images with three channels")
    return dims[1] != 3


def _size(model: onnx.ModelProto, found: Foreign) -> tuple[int, int]:
    """Return height and width of the input, of the properties where the model leaves them open."""
    dims = _dims(model)
    sides = dims[1:3] if _channels_last(model) else dims[2:]
    named = [found.properties.get(f"CustomVision.Preprocess.Target{name}") for name in ("Height", "Width")]
    height, width = (side or int(given or 224) for side, given in zip(sides, named, strict=True))
    return height, width


def _wrapped(model: onnx.ModelProto, found: Foreign, scale: float, bgr: bool, softmax: bool = False) -> bytes:
    """Return the model between uint8 images (N, H, W, 3) and scores (N, classes)."""
    from onnx import TensorProto, helper

    (height, width), images = _size(model, found), _input(model)
    steps: list[tuple[str, list[str], dict[str, Any]]] = [
        ("Cast", [], {"to": TensorProto.FLOAT}),
        ("Mul", ["scale"], {}),
        *([("Gather", ["bgr"], {"axis": 3})] if bgr else []),
        *([] if _channels_last(model) else [("Transpose", [], {"perm": [0, 3, 1, 2]})]),
        ("Cast", [], {"to": images.type.tensor_type.elem_type}),
    ]
    names = [onnx_files.INPUT, *(f"step{number}" for number in range(1, len(steps))), images.name]
    before = [
        helper.make_node(kind, [names[at], *more], [names[at + 1]], **options)
        for at, (kind, more, options) in enumerate(steps)
    ]
    given, nodes = _output(model)
    after = [
        helper.make_node("Cast", [given], ["float_scores"], to=TensorProto.FLOAT),
        helper.make_node("Softmax" if softmax else "Identity", ["float_scores"], [onnx_files.SCORES]),
        helper.make_node("Identity", [onnx_files.SCORES], [onnx_files.EMBEDDINGS]),
    ]
    constants = [
        helper.make_tensor("scale", TensorProto.FLOAT, [], [scale]),
        *([helper.make_tensor("bgr", TensorProto.INT64, [3], [2, 1, 0])] if bgr else []),
    ]
    count = len(found.labels)
    graph = helper.make_graph(
        [*before, *nodes, *after],
        "foreign",
        [helper.make_tensor_value_info(onnx_files.INPUT, TensorProto.UINT8, ["batch", height, width, 3])],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", count])
            for name in (onnx_files.SCORES, onnx_files.EMBEDDINGS)
        ],
        [*model.graph.initializer, *constants],
    )
    whole = helper.make_model(
        graph, opset_imports=model.opset_import, ir_version=max(model.ir_version, 4), functions=model.functions
    )
    content: bytes = whole.SerializeToString()
    return content


def _output(model: onnx.ModelProto) -> tuple[str, list[onnx.NodeProto]]:
    """Return the name of the scores, and the nodes: without a ZipMap, which makes a map of labels of them."""
    for node in model.graph.node:
        if node.op_type == "ZipMap":
            return node.input[0], [each for each in model.graph.node if each is not node]
    tensors = [each.name for each in model.graph.output if each.type.tensor_type.elem_type in (1, 10)]  # float, float16
    if len(tensors) != 1:
        raise ValueError(f"it has {len(tensors)} outputs of numbers; expected one, the scores")
    return tensors[0], list(model.graph.node)


def _scale(model: onnx.ModelProto, found: Foreign, own: Mapping[str, str]) -> float:
    """Return the factor of pixels from 0 to 255.

    The model's own metadata decides. metadata_properties.json was seen to be wrong: the other scale is used where the
    one that it names scores all images alike.
    """
    scales = {"NominalRange_0_255": 1.0, "Normalized_0_1": 1 / 255}
    if (stated := own.get("Image.NominalPixelRange")) in scales:
        return scales[stated]
    named = scales.get(str(found.properties.get("Image.NominalPixelRange")), 1 / 255)
    other = 1.0 if named < 1 else 1 / 255
    probes = _probes(_size(model, found))
    spread = [
        float(_scores(_wrapped(model, found, each, False), found, probes).std(axis=0).mean()) for each in (named, other)
    ]
    if spread[1] <= _ALIKE * spread[0]:
        return named
    log.warning(
        "%s: pixels are taken as 0 to %g, because it scores all images alike otherwise", found.name, other * 255
    )
    return other


def _scores(content: bytes, found: Foreign, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Return the scores of images; raises ModelError unless there is one per label, for a batch as for one image."""
    session = onnx_files.session(content, found.name)

    def run(batch: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        return np.asarray(session.run([onnx_files.SCORES], {onnx_files.INPUT: batch})[0], np.float32)

    one, every = run(images[:1]), run(images)
    if every.shape != (len(images), len(found.labels)):
        raise ModelError(f"{found.name}: gives scores {every.shape[1:]} for {len(found.labels)} labels in {LABELS}")
    if not np.allclose(one, every[:1], atol=1e-4):
        raise ModelError(f"{found.name}: gives other scores for several images than for one")
    return every


def _task(found: Foreign, scores: npt.NDArray[np.float32]) -> str:
    """Return multiclass, multilabel, or logits, which softmax is to make scores of."""
    if scores.min() < 0 or scores.max() > 1 + 1e-3:
        return "logits"
    if found.properties.get("CustomVision.Postprocess.Method") == "ClassificationMultiLabel":
        return "multilabel"
    return "multiclass" if np.allclose(scores.sum(axis=1), 1, atol=1e-2) else "multilabel"


def _probes(size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """Return (8, H, W, 3) images of smooth random colours."""
    coarse = np.random.default_rng(0).integers(0, 256, (8, 4, 4, 3))
    rows, columns = (np.arange(side) * 4 // side for side in size)
    return coarse[:, rows][:, :, columns].astype(np.uint8)
