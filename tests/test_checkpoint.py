"""Models load as their folder says, names stay unique, and what does not fit is refused by name."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from pictures import MODEL
from timm.data import resolve_data_config

from tagger import checkpoint
from tagger.errors import ModelError
from tagger.models import backbone


def copy(folder: Path | str, tmp_path: Path, **changes: Any) -> Path:
    """Copy a model folder, changing keys of its JSON files."""
    target = tmp_path / "model"
    shutil.copytree(folder, target)
    for name in ("config.json", "tagger.json"):
        if (target / name).exists():
            content = json.loads((target / name).read_text())
            content.update({key: value for key, value in changes.items() if key in content})
            (target / name).write_text(json.dumps(content))
    return target


def test_the_shipped_checkpoint_describes_itself() -> None:
    info = checkpoint.describe(MODEL)
    assert info.name == "cifar10-speedrun"
    assert len(info.label_names) == 10
    assert info.preprocessing.size == (32, 32)
    assert info.metrics["test"]["accuracy"]["accuracy"] >= 0.85
    assert Path(MODEL, "model.safetensors").stat().st_size <= 5_000_000
    assert checkpoint.build(info)(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


def test_a_timm_folder_gives_the_network_timm_gives(timm_folder: Path) -> None:
    info = checkpoint.describe(f"local-dir:{timm_folder}")
    ours = checkpoint.build(info)
    theirs = timm.create_model(f"local-dir:{timm_folder}", pretrained=True).eval()
    x = torch.rand(2, 3, 64, 64)
    assert torch.equal(ours(x), theirs(x))
    config = resolve_data_config({}, model=theirs)
    prep = info.preprocessing
    assert [3, *prep.size] == list(config["input_size"])
    for key in ("interpolation", "crop_pct", "crop_mode", "mean", "std"):
        assert np.array_equal(np.array(getattr(prep, key)), np.array(config[key])), key
    assert info.label_names == ("red", "green", "blue")


def test_model_id_follows_everything_that_decides_scores_and_nothing_else(timm_folder: Path, tmp_path: Path) -> None:
    original = checkpoint.describe(f"local-dir:{timm_folder}").model_id
    assert checkpoint.describe(f"local-dir:{copy(timm_folder, tmp_path / 'a')}").model_id == original
    renamed = copy(timm_folder, tmp_path / "b", label_names=["x", "y", "z"])
    assert checkpoint.describe(f"local-dir:{renamed}").model_id != original
    resized = copy(timm_folder, tmp_path / "c", pretrained_cfg={"input_size": [3, 96, 96]})
    assert checkpoint.describe(f"local-dir:{resized}").model_id != original
    weights = copy(timm_folder, tmp_path / "d")
    state = safetensors.torch.load_file(weights / "model.safetensors")
    state["fc.bias"] = state["fc.bias"] + 1e-3
    safetensors.torch.save_file(state, weights / "model.safetensors")
    assert checkpoint.describe(f"local-dir:{weights}").model_id != original


def edit_weights(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        state = safetensors.torch.load_file(folder / "model.safetensors")
        change(state)
        safetensors.torch.save_file(state, folder / "model.safetensors")

    return edit


def edit_config(**changes: Any) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        content = json.loads((folder / "config.json").read_text())
        content.update(changes)
        (folder / "config.json").write_text(json.dumps(content))

    return edit


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda f: (f / "model.safetensors").unlink(),
            "no model.safetensors; weights are loaded from safetensors only",
        ),
        (lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"), "never from a pickle"),
        (lambda f: (f / "model.safetensors").write_bytes(b"junk"), "damaged weights"),
        (lambda f: (f / "config.json").unlink(), "config.json: the file does not exist"),
        (lambda f: (f / "config.json").write_text("{"), "not valid JSON"),
        (edit_config(architecture="resnet5o"), "did you mean resnet50"),
        (edit_config(architecture="resnet18"), "does not fit resnet18"),
        (edit_config(label_names=["red", "green"]), "2 label names for 3 classes"),
        (edit_config(label_names=["red", "green", "red"]), "must be unique"),
        (edit_config(label_names=None), "3 classes without names"),
        (edit_config(num_classes=4, label_names=list("abcd")), r"fc.weight 3x\d+ in the file, 4x\d+ in the network"),
        (edit_weights(lambda s: s.pop("fc.bias")), "fc.bias absent in the file, 3 in the network"),
        (edit_weights(lambda s: s.update(extra=torch.zeros(2))), "extra 2 in the file, absent in the network"),
    ],
)
def test_what_does_not_fit_is_refused_naming_both_sides(
    timm_folder: Path, tmp_path: Path, damage: Callable[[Path], Any], message: str
) -> None:
    folder = copy(timm_folder, tmp_path)
    damage(folder)
    with pytest.raises(ModelError, match=message):
        checkpoint.build(checkpoint.describe(f"local-dir:{folder}"))


def test_a_bundle_with_missing_thresholds_or_an_unknown_task_is_refused(tmp_path: Path) -> None:
    for number, (key, value, message) in enumerate(
        [
            ("thresholds", {"cat": 0.5}, "no threshold for"),
            ("task", "detection", "task: input should be .multiclass. or .multilabel."),
        ]
    ):
        folder = copy(MODEL, tmp_path / str(number))
        bundle = json.loads((folder / "tagger.json").read_text()) | {key: value}
        (folder / "tagger.json").write_text(json.dumps(bundle))
        with pytest.raises(ModelError, match=message):
            checkpoint.describe(str(folder))


def test_models_that_are_not_there_say_what_model_takes(timm_folder: Path) -> None:
    with pytest.raises(ModelError, match="no such checkpoint"):
        checkpoint.describe("checkpoints/none")
    with pytest.raises(ModelError, match="use local-dir:"):
        checkpoint.describe(str(timm_folder))
    with pytest.raises(ModelError, match="did you mean"):
        checkpoint.describe("timm/resnet5o")
    with pytest.raises(ModelError, match="has weights for: "):
        checkpoint.describe("timm/resnet50.nonsense")


@pytest.mark.parametrize("offline", [{"HF_HUB_OFFLINE": "1"}, {"HF_ENDPOINT": "http://127.0.0.1:9"}])
def test_a_hub_model_offline_without_weights_is_one_clear_error(
    tmp_path: Path, run_tagger: Callable[..., Any], photos: Path, offline: dict[str, str]
) -> None:
    environment = os.environ | offline | {"HF_HOME": str(tmp_path / "hub")}
    arguments = ("predict", photos / "0.jpg", "--model", "timm/resnet18.a1_in1k")
    ran = run_tagger(*arguments, env=environment)
    assert ran.returncode == 1
    assert ran.stderr.count("tagger: ") == 1
    assert "local-dir:" in ran.stderr
    assert "hub" in ran.stderr


def test_a_hub_model_in_the_cache_is_used_with_imagenet_names(
    tmp_path: Path, run_tagger: Callable[..., Any], photos: Path
) -> None:
    """The hub's cache layout, with a tiny network of random weights under a published name."""
    torch.manual_seed(0)
    net = timm.create_model("test_resnet", pretrained=False)
    root = tmp_path / "hub" / "hub" / "models--timm--test_resnet.r160_in1k"
    snapshot = root / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text("0" * 40)
    safetensors.torch.save_file(net.state_dict(), snapshot / "model.safetensors")
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hub")}
    arguments = ("predict", photos / "0.jpg", "--model", "timm/test_resnet.r160_in1k", "--engine", "eager", "--json")
    ran = run_tagger(*arguments, env=environment)
    assert ran.returncode == 0, ran.stderr
    (row,) = json.loads(ran.stdout)["images"]
    names = backbone.imagenet_label_names(1000)
    assert names is not None
    assert all(pair["tag"] in names for pair in row["candidates"])


@pytest.mark.parametrize("classes", [1000, 11821, 21841])
def test_imagenet_names_are_unique_and_told_apart(classes: int) -> None:
    names = backbone.imagenet_label_names(classes)
    assert names is not None
    assert len(names) == classes == len({name.casefold() for name in names})
    if classes == 1000:
        clear = {"tench", "tabby cat", "polar bear", "maillot (tights)", "crane (bird)", "crane (machine)", "cardigan"}
        assert clear <= set(names)
        assert not [name for name in names if re.search(r"\(n\d+\)|, ", name)]
    assert backbone.imagenet_label_names(7) is None


def test_checkpoints_are_listed_with_their_numbers(run_tagger: Callable[..., Any]) -> None:
    ran = run_tagger("models", Path(MODEL).parent)
    assert ran.returncode == 0
    assert "cifar10-speedrun" in ran.stdout
    assert "%" in ran.stdout


# --- hostile checkpoints ----------------------------------------------------------------------------------------------

DEEP: Any = []
for _ in range(200):
    DEEP = [DEEP]


@pytest.mark.parametrize(
    ("file", "change", "expected"),
    [
        ("config.json", {"architecture": None}, "config.json: architecture: input should be a valid string"),
        ("config.json", {"architecture": ["a"]}, "config.json: architecture"),
        ("config.json", {"architecture": "../../etc"}, "config.json: architecture"),
        ("config.json", {"num_classes": -3}, "config.json: num_classes"),
        ("config.json", {"pretrained_cfg": {"input_size": [3, 0, 32]}}, "pretrained_cfg.input_size"),
        ("config.json", {"pretrained_cfg": {"input_size": [3, 10**9, 32]}}, "pretrained_cfg.input_size"),
        ("config.json", {"pretrained_cfg": {"input_size": [1, 32, 32]}}, "images are RGB"),
        ("config.json", {"pretrained_cfg": {"crop_pct": -1}}, "pretrained_cfg.crop_pct"),
        ("config.json", {"pretrained_cfg": {"interpolation": "magic"}}, "pretrained_cfg.interpolation"),
        ("config.json", {"pretrained_cfg": {"mean": [float("nan")] * 3}}, "pretrained_cfg.mean"),
        ("config.json", {"pretrained_cfg": {"std": [0, 0, 0]}}, "pretrained_cfg.std"),
        ("config.json", {"model_args": {"in_chans": 1}}, "model_args: 1 channels (in_chans); images are RGB"),
        ("config.json", {"model_args": "none"}, "config.json: model_args"),
        ("config.json", {"pretrained_cfg": DEEP}, "config.json: pretrained_cfg"),
        ("tagger.json", {"label_names": ["\ud800"] * 10}, "as a unicode string"),
        ("tagger.json", {"thresholds": {"cat": "high"}}, "tagger.json: thresholds.cat"),
        ("tagger.json", {"thresholds": {"cat": float("nan")}}, "tagger.json: thresholds.cat"),
        ("tagger.json", {"calibration": {"temperature": 0}}, "tagger.json: calibration.temperature"),
        ("tagger.json", {"task": "magic"}, "tagger.json: task"),
        ("tagger.json", {"schema": 99}, "tagger.json: schema"),
    ],
)
def test_whatever_is_odd_in_a_checkpoint_is_one_clear_line(
    tmp_path: Path, file: str, change: dict[str, Any], expected: str
) -> None:
    shutil.copytree(MODEL, tmp_path / "odd")
    path = tmp_path / "odd" / file
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ModelError, match=re.escape(expected)) as error:
        checkpoint.describe(str(tmp_path / "odd"))
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400


def test_json_that_is_nested_without_end_is_one_clear_line(tmp_path: Path) -> None:
    shutil.copytree(MODEL, tmp_path / "deep")
    (tmp_path / "deep" / "config.json").write_text('{"a":' * 100_000 + "1" + "}" * 100_000)
    with pytest.raises(ModelError, match=r"config\.json: not valid JSON"):
        checkpoint.describe(str(tmp_path / "deep"))


@pytest.mark.parametrize("name", ["checkpoint_path", "pretrained", "pretrained_cfg", "cache_dir", "features_only"])
def test_a_checkpoint_cannot_make_timm_load_or_download(timm_folder: Path, tmp_path: Path, name: str) -> None:
    shutil.copytree(timm_folder, tmp_path / "hostile")
    config = json.loads((tmp_path / "hostile" / "config.json").read_text())
    (tmp_path / "hostile" / "config.json").write_text(json.dumps(config | {"model_args": {name: "/etc/passwd"}}))
    with pytest.raises(ModelError, match=f"may not set {name}"):
        checkpoint.build(checkpoint.describe(f"local-dir:{tmp_path / 'hostile'}"))
