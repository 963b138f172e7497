"""Custom Vision's ONNX zips: ours as its readers take them, and its own, and those of others, as models."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pictures import MODEL, photo
from PIL import Image

import tagger
from tagger import checkpoint
from tagger.errors import ModelError, TaggerError

onnx = pytest.importorskip("onnx", reason="needs the extra `onnx`")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra `onnx`")

from onnx import TensorProto, helper  # noqa: E402

LABELS = ["red", "green", "blue"]
RANGE_255 = {"Image.NominalPixelRange": "NominalRange_0_255"}


def network(
    *, takes: float = 1.0, bgr: bool = False, end: str = "Softmax", zipmap: bool = False, kind: int = TensorProto.FLOAT,
    last: bool = False, batch: object = None, channels: int = 3, **metadata: str,
) -> bytes:  # fmt: skip
    """A network that names the strongest of three colours; `takes` is the value of a white pixel."""
    dims: list[Any] = [batch, 16, 16, 3] if last else [batch, channels, 16, 16]
    weights = np.eye(3, dtype=np.float32)[:: -1 if bgr else 1] * (12 / takes)
    nodes = [
        *([helper.make_node("Transpose", ["data"], ["nchw"], perm=[0, 3, 1, 2])] if last else []),
        helper.make_node("Cast", ["nchw" if last else "data"], ["scores"], to=TensorProto.FLOAT),
        helper.make_node("GlobalAveragePool", ["scores"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["flat"]),
        helper.make_node("MatMul", ["flat", "images"], ["logits"]),
        helper.make_node(end, ["logits"], ["model_output"]),
    ]
    outputs = [helper.make_tensor_value_info("model_output", TensorProto.FLOAT, [None, 3])]
    if zipmap:
        nodes.append(
            helper.make_node("ZipMap", ["model_output"], ["loss"], domain="ai.onnx.ml", classlabels_strings=LABELS)
        )
        pairs = helper.make_map_type_proto(TensorProto.STRING, helper.make_tensor_type_proto(TensorProto.FLOAT, []))
        outputs = [helper.make_value_info("loss", helper.make_sequence_type_proto(pairs))]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("data", kind, dims)], outputs,
        [onnx.numpy_helper.from_array(np.ascontiguousarray(weights), "images")],  # a name that we use as well
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 12), helper.make_opsetid("ai.onnx.ml", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=7)
    helper.set_model_props(model, metadata)
    content: bytes = model.SerializeToString()
    return content


def zipped(path: Path, content: bytes, labels: str = "red\r\ngreen\r\nblue\r\n", **properties: str) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model.onnx", content)
        archive.writestr("labels.txt", labels)
        archive.writestr("cvexport.manifest", "{}")
        archive.writestr("metadata_properties.json", json.dumps(properties))
    return path


def colours() -> list[Image.Image]:
    return [Image.new("RGB", (40, 30), colour) for colour in ((200, 30, 40), (40, 190, 30), (20, 50, 180))]


@pytest.mark.parametrize(
    ("options", "properties"),
    [
        ({}, {}),
        ({"takes": 255.0, **RANGE_255}, {}),
        ({"takes": 255.0, **RANGE_255}, {"Image.NominalPixelRange": "Normalized_0_1"}),
        ({"takes": 255.0}, RANGE_255),
        ({"takes": 255.0}, {"Image.NominalPixelRange": "Normalized_0_1"}),  # seen in the wild
        ({"bgr": True, "Image.BitmapPixelFormat": "Bgr8"}, {}),
        ({"bgr": True}, {"Image.BitmapPixelFormat": "Bgr8"}),
        ({"zipmap": True}, {}),
        ({"kind": TensorProto.FLOAT16}, {}),
        ({"last": True}, {}),
        ({"batch": 1}, {}),
        ({"end": "Identity"}, {}),
        ({"end": "Sigmoid"}, {"CustomVision.Postprocess.Method": "ClassificationMultiLabel"}),
    ],
    ids=lambda each: ",".join(f"{name.rpartition('.')[2]}={value}" for name, value in each.items()),
)
def test_exports_of_custom_vision_name_the_colours(tmp_path: Path, options: dict[str, Any], properties: Any) -> None:
    model = tagger.load(zipped(tmp_path / "colours.zip", network(**options), **properties), device="cpu")
    rows = model.predict(colours())
    assert [row["top_tag"] for row in rows] == LABELS
    assert {row["model"] for row in rows} == {"colours.zip"}
    multilabel = options.get("end") == "Sigmoid"
    assert model.info.task == ("multilabel" if multilabel else "multiclass")
    for row in rows:
        assert 0.5 < row["top_score"] <= 1
        assert multilabel or sum(each["score"] for each in row["candidates"]) == pytest.approx(1, abs=1e-3)


def test_an_onnx_file_with_labels_beside_it_is_a_model(tmp_path: Path, run_tagger: Any) -> None:
    (tmp_path / "model.onnx").write_bytes(network())
    (tmp_path / "labels.txt").write_text("red\ngreen\nblue\n")
    colours()[1].save(tmp_path / "green.png")
    ran = run_tagger("predict", tmp_path / "green.png", "--model", tmp_path / "model.onnx", "--json")
    assert ran.returncode == 0, ran.stderr
    assert '"green"' in ran.stdout


def test_other_labels_are_another_model(tmp_path: Path) -> None:
    one = checkpoint.describe(str(zipped(tmp_path / "one.zip", network())))
    again = checkpoint.describe(str(zipped(tmp_path / "again.zip", network())))
    other = checkpoint.describe(str(zipped(tmp_path / "other.zip", network(), "a\nb\nc")))
    assert one.model_id == again.model_id != other.model_id


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            {"model.pb": b"", "labels.txt": b"a"},
            "for TensorFlow, which does not run here; export the iteration for ONNX",
        ),
        ({"model.tflite": b""}, "for TensorFlow Lite,"),
        ({"model.json": b"", "weights.bin": b""}, r"for TensorFlow\.js,"),
        ({"app/app.py": b"", "app/model.tflite": b""}, "for TensorFlow Lite,"),
        ({"photo.jpg": b""}, "holds no .onnx file"),
        ({"model.onnx": network()}, "has no labels.txt"),
        ({"model.onnx": network(), "labels.txt": b"a\na\nb"}, "a different label on every line"),
        ({"model.onnx": network(), "labels.txt": b"a\nb"}, r"gives scores \(3,\) for 2 labels"),
        ({"model.onnx": b"junk" * 99, "labels.txt": b"a\nb"}, "not an ONNX model that can be run"),
        (
            {"model.onnx": network(channels=5), "labels.txt": b"a\nb\nc"},
            r"its input is \[0, 5, 16, 16\]; expected images",
        ),
        ({"model.onnx": network(), "labels.txt": b"a\nb\nc", "metadata_properties.json": b"{"}, "is not valid JSON"),
    ],
    ids=lambda each: "+".join(each) if isinstance(each, dict) else "",
)
def test_what_cannot_be_run_is_one_clear_error(tmp_path: Path, files: dict[str, bytes], message: str) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    with pytest.raises(ModelError, match=message) as raised:
        checkpoint.describe(str(tmp_path / "a.zip"))
    assert "a.zip" in str(raised.value)


def test_a_damaged_zip_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(b"PK" * 50)
    for name, message in (("a.zip", "the zip file is damaged or encrypted"), ("none.zip", "does not exist")):
        with pytest.raises(TaggerError, match=message):
            checkpoint.describe(str(tmp_path / name))


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tagger.evaluation.customvision import export_customvision

    out = tmp_path_factory.mktemp("exported") / "mine.zip"
    export_customvision(MODEL, out)
    return out


def test_microsofts_way_to_run_an_export_runs_ours(exported: Path) -> None:
    with zipfile.ZipFile(exported) as archive:
        assert {"model.onnx", "labels.txt", "cvexport.manifest", "metadata_properties.json"} == set(archive.namelist())
        content, labels = archive.read("model.onnx"), archive.read("labels.txt").decode().split("\n")
    session = onnxruntime.InferenceSession(content)
    (given,) = session.get_inputs()
    properties = {each.key: each.value for each in onnx.load_model_from_string(content).metadata_props}
    images = [photo(seed, (32, 32)) for seed in range(4)]
    for image, row in zip(images, tagger.load(MODEL, device="cpu").predict(images), strict=True):
        pixels = np.array(image.resize(given.shape[2:]), dtype=np.float32)[np.newaxis].transpose(0, 3, 1, 2)
        if properties["Image.BitmapPixelFormat"] == "Bgr8":
            pixels = pixels[:, (2, 1, 0)]
        if properties["Image.NominalPixelRange"] != "NominalRange_0_255":
            pixels = pixels / 255
        (scores,) = session.run(None, {given.name: pixels})
        assert labels[scores[0].argmax()] == row["top_tag"]
        assert scores[0].max() == pytest.approx(row["top_score"], abs=1e-3)


def test_our_export_is_a_model_again(exported: Path) -> None:
    images = [photo(seed, (32, 32)) for seed in range(4)]
    one, other = (tagger.load(model, device="cpu").predict(images) for model in (MODEL, exported))
    assert [row["top_tag"] for row in one] == [row["top_tag"] for row in other]


def test_the_command_writes_the_zip_and_checks_its_options(run_tagger: Any, tmp_path: Path) -> None:
    for more, message in ((["--out", "a.onnx"], "ends in .zip"), (["--out", "a.zip", "--model", "x"], "has no effect")):
        ran = run_tagger("export", MODEL, "--format", "customvision", *more, cwd=tmp_path)
        assert (ran.returncode, message in ran.stderr) == (1, True), ran.stderr
    ran = run_tagger("export", MODEL, "--format", "customvision", "--out", tmp_path / "a.zip", "--json")
    assert json.loads(ran.stdout)["agreement"]["top1"] == 1.0
    assert zipfile.ZipFile(io.BytesIO((tmp_path / "a.zip").read_bytes())).testzip() is None
