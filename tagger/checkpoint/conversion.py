"""Conversion of an ONNX model of another program to tagger's ONNX format.

The graph is wrapped with tagger's input and outputs; labels and preprocessing become metadata, scores the embeddings.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tagger.checkpoint import onnx as onnx_files
from tagger.checkpoint.info import Json, ModelInfo
from tagger.errors import MissingExtra, ModelError, first_line
from tagger.images import Preprocessing

if TYPE_CHECKING:
    import onnx

log = logging.getLogger(__name__)

LABELS = "labels.txt"
_ALIKE = 10.0
"""Factor by which scores vary less if the pixels are scaled incorrectly."""


@dataclass(frozen=True)
class Foreign:
    """A model of another program."""

    name: str
    content: bytes
    labels: tuple[str, ...]
    properties: Json
    """Content of metadata_properties.json; {} without it."""

    @property
    def squashes(self) -> bool:
        """Return whether images are squashed to the input size; otherwise their centre is cropped."""
        crop, resize = (
            self.properties.get(f"CustomVision.Preprocess.{name}") for name in ("CropMethod", "ResizeMethod")
        )
        return crop == "NoCrop" or resize == "Stretch"


def converted(found: Foreign) -> bytes:
    """Convert a foreign model to tagger's ONNX format; raises ModelError, or MissingExtra without onnx."""
    try:
        import onnx
        from onnx import compose
    except ImportError as error:
        raise MissingExtra(found.name, "onnx", "onnx") from error
    try:
        model = onnx.load_model_from_string(found.content)
        own = {prop.key: prop.value for prop in model.metadata_props}
        model = compose.add_prefix(model, "foreign/")
        size = _images(model, found.properties).size
        scale = _scale(model, found, own, size)
        bgr = (own.get("Image.BitmapPixelFormat") or found.properties.get("Image.BitmapPixelFormat")) == "Bgr8"
        whole = _wrapped(model, found, scale, bgr)
        task = _task(found, _scores(whole, found, _probes(size)))
        if task == "logits":
            whole = _wrapped(model, found, scale, bgr, softmax=True)
    except ModelError:
        raise
    except Exception as error:  # protobuf, onnx and NumPy raise any type on a damaged file
        raise ModelError(f"{found.name}: not an ONNX model that can be run ({first_line(error)})") from error
    info = ModelInfo(
        name=found.name, model_id="", architecture="onnx", model_args={}, weights="", label_names=found.labels,
        task="multilabel" if task == "multilabel" else "multiclass",
        preprocessing=Preprocessing(
            size, "bilinear", 1.0, "squash" if found.squashes else "center", (0.0,) * 3, (1.0,) * 3
        ),
    )  # fmt: skip
    return onnx_files.with_metadata(whole, info, {})


class _Images(NamedTuple):
    """The image input of a foreign model."""

    name: str
    elem_type: int
    channels_last: bool
    size: tuple[int, int]
    """height, width"""


def _images(model: onnx.ModelProto, properties: Json) -> _Images:
    """Return the image input; dynamic sides are taken from the properties."""
    weights = {each.name for each in model.graph.initializer}  # old files list them among the inputs
    inputs = [each for each in model.graph.input if each.name not in weights]
    if len(inputs) != 1:
        raise ValueError(f"it has {len(inputs)} inputs; expected one, the images")
    tensor = inputs[0].type.tensor_type
    dims = [each.dim_value for each in tensor.shape.dim]
    if len(dims) != 4 or 3 not in (dims[1], dims[3]):
        raise ValueError(f"its input is {dims}; expected images with three channels")
    channels_last = dims[1] != 3
    named = (properties.get(f"CustomVision.Preprocess.Target{name}") for name in ("Height", "Width"))
    sides = zip(dims[1:3] if channels_last else dims[2:], named, strict=True)
    height, width = (side or int(given or 224) for side, given in sides)
    return _Images(inputs[0].name, tensor.elem_type, channels_last, (height, width))


def _wrapped(model: onnx.ModelProto, found: Foreign, scale: float, bgr: bool, softmax: bool = False) -> bytes:
    """Wrap the model, so that it maps uint8 images (N, H, W, 3) to scores (N, classes)."""
    from onnx import TensorProto, helper

    images = _images(model, found.properties)
    steps: list[tuple[str, list[str], dict[str, Any]]] = [
        ("Cast", [], {"to": TensorProto.FLOAT}),
        ("Mul", ["scale"], {}),
        *([("Gather", ["bgr"], {"axis": 3})] if bgr else []),
        *([] if images.channels_last else [("Transpose", [], {"perm": [0, 3, 1, 2]})]),
        ("Cast", [], {"to": images.elem_type}),
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
        [helper.make_tensor_value_info(onnx_files.INPUT, TensorProto.UINT8, ["batch", *images.size, 3])],
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
    """Return the name of the scores, and the nodes without a ZipMap, which converts scores to a map of labels."""
    for node in model.graph.node:
        if node.op_type == "ZipMap":
            return node.input[0], [each for each in model.graph.node if each is not node]
    tensors = [each.name for each in model.graph.output if each.type.tensor_type.elem_type in (1, 10)]  # float, float16
    if len(tensors) != 1:
        raise ValueError(f"it has {len(tensors)} numeric outputs; expected one, the scores")
    return tensors[0], list(model.graph.node)


def _scale(model: onnx.ModelProto, found: Foreign, own: Mapping[str, str], size: tuple[int, int]) -> float:
    """Return the factor that scales pixels from 0 to 255 to the model's range.

    The model's own metadata takes precedence. metadata_properties.json may be wrong: if all images have the same scores
    with its scale, the other one is used.
    """
    scales = {"NominalRange_0_255": 1.0, "Normalized_0_1": 1 / 255}
    if (stated := own.get("Image.NominalPixelRange")) in scales:
        return scales[stated]
    named = scales.get(str(found.properties.get("Image.NominalPixelRange")), 1 / 255)
    other = 1.0 if named < 1 else 1 / 255
    probes = _probes(size)

    def spread(scale: float) -> float:
        return float(_scores(_wrapped(model, found, scale, bgr=False), found, probes).std(axis=0).mean())

    if spread(other) <= _ALIKE * spread(named):
        return named
    log.warning(
        "%s: scaling pixels to 0 to %g, because otherwise all images have the same scores", found.name, other * 255
    )
    return other


def _scores(content: bytes, found: Foreign, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Return the scores of images; raises ModelError unless there is one per label, and batches do not change them."""
    session = onnx_files.session(content, found.name)

    def run(batch: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        return np.asarray(session.run([onnx_files.SCORES], {onnx_files.INPUT: batch})[0], np.float32)

    one, every = run(images[:1]), run(images)
    if every.shape != (len(images), len(found.labels)):
        raise ModelError(f"{found.name}: gives scores {every.shape[1:]} for {len(found.labels)} labels in {LABELS}")
    if not np.allclose(one, every[:1], atol=1e-4):
        raise ModelError(f"{found.name}: its scores for a batch differ from those for a single image")
    return every


def _task(found: Foreign, scores: npt.NDArray[np.float32]) -> str:
    """Return multiclass, multilabel, or logits, which need a softmax."""
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
