"""A checkpoint as an ONNX file: the same scores, all that a user needs inside, agreement measured."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pictures import MODEL, ROOT, backbone, ours, photo
from PIL import Image
from processes import TIMEOUT
from test_predicting import assert_same

import tagger
from tagger import checkpoint
from tagger.errors import ModelError, TaggerError, UsageError
from tagger.evaluation import agreement
from tagger.evaluation.onnx import export_onnx
from tagger.inference import engines
from tagger.inference.engines import Choice, probe_images

onnx = pytest.importorskip("onnx", reason="needs the extra `onnx`")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra `onnx`")

LABELS = tuple(checkpoint.describe(MODEL).label_names)
OURS = {
    "tagger_linear": {"input_size": 12, "offset": True},
    "tagger_mlp": {"input_size": 12, "depth": 2, "width": 16, "batch_norm": True},
    "tagger_convnet": {"input_size": 12, "lrn": True},
    "tagger_resnet": {"input_size": 12, "depth": 8},
    "tagger_speedrun": {"widths": [8, 16, 16]},
}
TIMM = {"test_convnext": 64, "test_efficientnet": 64, "test_nfnet": 64, "test_vit": 160, "mobilenetv3_small_050": 64}


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped checkpoint with a temperature and thresholds."""
    folder = tmp_path_factory.mktemp("checkpoints") / "mine"
    shutil.copytree(MODEL, folder)
    bundle = json.loads((folder / "tagger.json").read_text())
    thresholds = {name: 0.05 + index / 20 for index, name in enumerate(LABELS)}
    bundle |= {"calibration": {"temperature": 1.7}, "thresholds": thresholds}
    (folder / "tagger.json").write_text(json.dumps(bundle))
    return folder


@pytest.fixture(scope="module")
def exported(calibrated: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exported") / "mine.onnx"
    export_onnx(calibrated, out)
    return out


def assert_agrees(model: str, out: Path) -> None:
    """Export, and compare batches of several sizes with eager torch."""
    written = export_onnx(model, out)
    assert (written.agreement.top1, written.agreement.kind) == (1.0, "probe images")
    reference, found = checkpoint.describe(model), checkpoint.describe(str(out))
    eager = engines.load(reference, checkpoint.build, Choice("cpu", "eager"))
    engine = engines.load(found, checkpoint.build)
    for count in (1, 3, 11):
        images = probe_images(found.preprocessing.size, count)
        for given, expected in zip(engine(images), eager(images), strict=True):
            assert given.shape == expected.shape
            assert np.allclose(given, expected, atol=1e-4, rtol=1e-3)


# --- the file ---------------------------------------------------------------------------------------------------------


def test_the_file_tags_as_its_checkpoint(calibrated: Path, exported: Path, photos: Path, tmp_path: Path) -> None:
    (photos / "text.jpg").write_text("no image")
    config = tagger.TagConfig(device="cpu")
    for name, model in (("one", calibrated), ("other", exported)):
        tagger.tag(photos, model, tmp_path / name, config)
    columns = "SELECT * EXCLUDE (run_id, tagged_at, model, model_id, engine) FROM images ORDER BY uri"
    one, other = (tagger.query(tmp_path / name, columns).to_pylist() for name in ("one", "other"))
    assert len(one) == 7
    for expected, row in zip(one, other, strict=True):
        assert_same(row, expected)
    (named,) = tagger.query(tmp_path / "other", "SELECT DISTINCT model, engine FROM images").to_pylist()
    assert named == {"model": "mine.onnx", "engine": f"onnxruntime {onnxruntime.__version__} cpu fp32"}


def test_labels_task_thresholds_and_agreement_are_in_the_file(calibrated: Path, exported: Path) -> None:
    session = onnxruntime.InferenceSession(exported)
    facts = {name: json.loads(value) for name, value in session.get_modelmeta().custom_metadata_map.items()}
    info = checkpoint.describe(str(calibrated))
    assert (facts["label_names"], facts["task"]) == (list(LABELS), "multiclass")
    assert facts["thresholds"] == {name: pytest.approx(0.05 + index / 20) for index, name in enumerate(LABELS)}
    assert (facts["model_id"], facts["temperature"]) == (info.model_id, 1.7)
    assert facts["agreement"]["top1"] == 1.0
    assert facts["agreement"]["images"] == 64
    (images,) = session.get_inputs()
    assert (images.type, images.shape[1:]) == ("tensor(uint8)", [32, 32, 3])


def test_the_file_holds_no_path_of_the_machine_that_made_it(exported: Path) -> None:
    content = exported.read_bytes()
    for folder in (ROOT, sys.prefix, Path(onnx.__file__).parent.parent, Path.home()):
        assert os.fsencode(folder) + b"/" not in content


def test_the_example_of_the_page_runs_in_ten_lines_without_tagger(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(exported, tmp_path / "mine.onnx")
    photo(3, (32, 32)).save(tmp_path / "cat.jpg", quality=95)
    shutil.copytree(MODEL, tmp_path / "checkpoints" / "mine")
    (tmp_path / "photos").mkdir()
    for seed in range(4):
        photo(seed).save(tmp_path / "photos" / f"{seed}.jpg")
    monkeypatch.chdir(tmp_path)
    plain, from_python = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "onnx.md").read_text(), re.DOTALL)
    assert "tagger" not in plain
    assert len([line for line in plain.splitlines() if line]) <= 12
    exec(plain, {})
    tag, score = capsys.readouterr().out.split()
    expected = tagger.predict("cat.jpg", exported)[0]
    assert (tag, float(score)) == (expected["top_tag"], pytest.approx(expected["top_score"], abs=1e-4))
    exec(from_python, {})
    assert capsys.readouterr().out == "1.0\n"


def test_a_multilabel_checkpoint_gives_sigmoids(calibrated: Path, tmp_path: Path) -> None:
    shutil.copytree(calibrated, tmp_path / "many")
    bundle = json.loads((tmp_path / "many" / "tagger.json").read_text())
    (tmp_path / "many" / "tagger.json").write_text(json.dumps(bundle | {"task": "multilabel"}))
    assert_agrees(str(tmp_path / "many"), tmp_path / "many.onnx")
    info = checkpoint.describe(str(tmp_path / "many.onnx"))
    assert (info.task, info.thresholds) == ("multilabel", checkpoint.describe(str(calibrated)).thresholds)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", OURS)
def test_every_family_of_ours_agrees(architecture: str, tmp_path: Path) -> None:
    assert_agrees(ours(tmp_path / "net", architecture, OURS[architecture]), tmp_path / "net.onnx")


@pytest.mark.slow
@pytest.mark.parametrize("architecture", TIMM)
def test_families_of_timm_agree(architecture: str, tmp_path: Path) -> None:
    folder = backbone(tmp_path / "net", architecture, TIMM[architecture])
    assert_agrees(f"local-dir:{folder}", tmp_path / "net.onnx")


# --- agreement --------------------------------------------------------------------------------------------------------


def noise_detector(tmp_path: Path) -> tuple[str, Path]:
    """A network that classifies noise by its finest pattern, and large noise, which is shrunk while it is decoded."""
    import torch

    side = 32
    pattern = torch.from_numpy(np.indices((3, side, side)).sum(0) % 2 * 2.0 - 1).flatten()
    weights = torch.stack([pattern, -pattern, torch.zeros_like(pattern)])
    model = ours(
        tmp_path / "noise", "tagger_linear", {"input_size": side},
        **{"head.weight": weights, "head.bias": torch.zeros(3)},
    )  # fmt: skip
    (tmp_path / "noisy").mkdir()
    for seed in range(30):
        noise = np.random.default_rng(seed).integers(0, 255, (600, 600, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / "noisy" / f"{seed}.jpg", quality=90)
    return model, tmp_path / "noisy"


def test_a_file_that_disagrees_on_photographs_is_written_only_by_force(tmp_path: Path) -> None:
    model, noisy = noise_detector(tmp_path)
    out = tmp_path / "noise.onnx"
    with pytest.raises(
        ModelError, match=r"top tag for [\d.]+% of 30 photographs, under 99\.5%; use --force to write it"
    ):
        export_onnx(model, out, noisy)
    assert not out.exists()
    written = export_onnx(model, out, noisy, force=True)
    assert written.agreement.top1 < 0.995
    facts = onnxruntime.InferenceSession(out).get_modelmeta().custom_metadata_map
    assert json.loads(facts["agreement"])["top1"] == written.agreement.top1


def test_agreement_is_recorded_in_the_checkpoint_for_each_precision(calibrated: Path, tmp_path: Path) -> None:
    mine = shutil.copytree(calibrated, tmp_path / "mine")
    before = checkpoint.describe(str(mine))
    written = export_onnx(mine, tmp_path / "a.onnx").agreement
    (records,) = json.loads((mine / "tagger.json").read_text())["agreement"].values()
    assert records["exported onnx fp32"] == asdict(written)
    assert checkpoint.describe(str(mine)).model_id == before.model_id


def test_agreement_is_measured_on_the_users_photographs(
    run_tagger: Callable[..., Any], photos: Path, tmp_path: Path
) -> None:
    ran = run_tagger("export", MODEL, "--format", "onnx", "--out", tmp_path / "a.onnx", "--check", photos)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert re.search(r"a\.onnx: \d\.\d MB; top-1 agreement 100\.00% on 6 photographs, largest difference", ran.stdout)
    facts = onnxruntime.InferenceSession(tmp_path / "a.onnx").get_modelmeta().custom_metadata_map
    assert json.loads(facts["agreement"])["kind"] == "photographs"
    shown = run_tagger("predict", photos / "0.jpg", "--model", tmp_path / "a.onnx", "--json")
    assert json.loads(shown.stdout)["images"][0]["status"] == "ok"


def test_real_photographs_agree(shared: Path, some_photos: Path, tmp_path: Path) -> None:
    model = f"local-dir:{shared}/backbones/mobilenetv2_100.imagenet"
    written = export_onnx(model, tmp_path / "mnv2.onnx", some_photos)
    assert (written.agreement.images, written.agreement.top1) == (63, 1.0)


def test_int8_has_a_record_of_its_own_on_photographs_that_it_was_not_calibrated_on(
    some_photos: Path, tmp_path: Path, run_tagger: Callable[..., Any]
) -> None:
    written = export_onnx(MODEL, tmp_path / "int8.onnx", some_photos, force=True, precision="int8")
    assert 20 < written.agreement.images < 63
    assert 0.5 < written.agreement.top1 <= 1
    assert written.bytes < 0.4 * export_onnx(MODEL, tmp_path / "fp32.onnx").bytes
    session = onnxruntime.InferenceSession(tmp_path / "int8.onnx")
    facts = {name: json.loads(value) for name, value in session.get_modelmeta().custom_metadata_map.items()}
    assert (facts["precision"], facts["agreement"]["top1"]) == ("int8", written.agreement.top1)
    pixels = probe_images(checkpoint.describe(MODEL).preprocessing.size)
    assert session.run(["scores"], {"images": pixels})[0].shape == (len(pixels), len(LABELS))
    row = tagger.predict(next(some_photos.iterdir()), tmp_path / "int8.onnx")[0]
    assert row["engine"] == f"onnxruntime {onnxruntime.__version__} cpu int8"
    ran = run_tagger("export", MODEL, "--format", "onnx", "--out", tmp_path / "a.onnx", "--precision", "int8")
    assert (ran.returncode, "--precision int8: it is calibrated on photographs" in ran.stderr) == (1, True)


# --- what does not work -----------------------------------------------------------------------------------------------


def test_options_that_have_no_effect_are_refused(
    exported: Path, tmp_path: Path, run_tagger: Callable[..., Any]
) -> None:
    for arguments, message in (
        ([MODEL, "--format", "onnx", "--out", "a.bin"], "--out a.bin: the name of an ONNX file ends in .onnx"),
        ([MODEL, "--format", "onnx", "--out", "a.onnx", "--model", "m"], "--model m: has no effect with --format onnx"),
        (
            ["m.parquet", "--format", "csv", "--out", "a", "--force"],
            "--force and --precision have no effect with --format",
        ),
        ([exported, "--format", "onnx", "--out", "a.onnx"], "is already an ONNX file"),
    ):
        ran = run_tagger("export", *arguments, cwd=tmp_path)
        assert ran.returncode == 1
        assert message in ran.stderr
    assert not (tmp_path / "a.onnx").exists()


def test_k_nn_is_not_exported(tmp_path: Path) -> None:
    model = ours(tmp_path / "knn", "tagger_knn", {"examples": 8, "k": 3, "input_size": 12})
    with pytest.raises(ModelError, match="k-NN ranks its neighbours in float64"):
        export_onnx(model, tmp_path / "a.onnx")


def test_an_onnx_file_runs_in_its_own_engine_only(exported: Path) -> None:
    with pytest.raises(UsageError, match=r"--engine openvino: mine\.onnx is an ONNX file"):
        tagger.load(exported, engine="openvino")
    with pytest.raises(UsageError, match="--precision int8"):
        tagger.load(exported, precision="int8", device="cpu")
    with pytest.raises(UsageError, match=r"--engine onnx runs \.onnx files"):
        tagger.load(MODEL, engine="onnx", device="cpu")
    with pytest.raises(UsageError, match="measured by the export"):
        agreement.measure(str(exported), "photos")


def altered(exported: Path, out: Path, **changed: str) -> Path:
    proto = onnx.load(exported)
    facts = {each.key: each.value for each in proto.metadata_props} | changed
    onnx.helper.set_model_props(proto, facts)
    onnx.save(proto, out)
    return out


@pytest.mark.parametrize(
    "changed",
    [
        {"label_names": '["a", "b"]'},
        {"label_names": json.dumps(["a"] * 10)},
        {"label_names": "[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]"},
        {"label_names": "{"},
        {"task": '"detection"'},
        {"thresholds": '{"cat": 0.5}'},
        {"thresholds": json.dumps(dict.fromkeys(LABELS, float("nan")))},
        {"preprocessing": "{}"},
        {"preprocessing": "null"},
        {"tagger.schema": "99"},
    ],
    ids=lambda each: "{} {}".format(*next(iter(each.items())))[:30],
)
def test_odd_metadata_is_one_clear_error(exported: Path, tmp_path: Path, changed: dict[str, str]) -> None:
    model = altered(exported, tmp_path / "odd.onnx", **changed)
    with pytest.raises(ModelError, match=r"odd\.onnx: its metadata is damaged \(.*\); export it again"):
        checkpoint.describe(str(model))


def test_files_that_are_no_models_of_ours_are_one_clear_error(exported: Path, tmp_path: Path) -> None:
    proto = onnx.load(exported)
    del proto.metadata_props[:]
    onnx.save(proto, tmp_path / "foreign.onnx")
    (tmp_path / "junk.onnx").write_bytes(b"junk" * 100)
    (tmp_path / "cut.onnx").write_bytes(exported.read_bytes()[:100_000])
    (tmp_path / "empty.onnx").write_bytes(b"")
    for name, message in (
        ("foreign", "has no labels: neither a labels.txt next to it nor"),
        ("junk", "onnxruntime cannot load it"),
        ("cut", "onnxruntime cannot load it"),
        ("empty", "onnxruntime cannot load it"),
        ("none", "no such file"),
    ):
        with pytest.raises(TaggerError, match=message) as raised:
            tagger.load(tmp_path / f"{name}.onnx")
        assert f"{name}.onnx" in str(raised.value)


@pytest.mark.parametrize(("package", "verb"), [("onnxruntime", "predict"), ("onnxscript", "export")])
def test_a_missing_package_names_the_extra(exported: Path, tmp_path: Path, package: str, verb: str) -> None:
    code = f"import sys; sys.modules['{package}'] = None; from tagger.cli import main; main()"
    arguments = {
        "predict": ["x.jpg", "--model", str(exported)],
        "export": [MODEL, "--format", "onnx", "--out", "a.onnx"],
    }[verb]
    command = [sys.executable, "-c", code, verb, *arguments]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=TIMEOUT)
    assert ran.returncode == 1
    assert f"needs the package {package}: pip install 'tagger[onnx]'" in ran.stderr
    assert ran.stderr.count("\n") == 1
