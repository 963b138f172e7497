"""A net trained from scratch learns, is reproducible, and becomes a checkpoint that tags."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import tagger
from tagger import checkpoint
from tagger.data import normalisation
from tagger.data.arrays import LabelledImages
from tagger.errors import SourceError, UsageError
from tagger.evaluation.metrics import wilson_interval
from tagger.models.linear import Linear
from tagger.models.speedrun import Speedrun
from tagger.training import ScratchConfig, fitting, own, train_folder, unfinished
from tagger.training.fitting import Recipe
from tagger.training.from_folders import SPEEDRUN

CONFIG = ScratchConfig(epochs=3, batch_size=32)


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes a net can tell apart: stripes across and stripes down."""
    folder = tmp_path_factory.mktemp("shapes")
    rng = np.random.default_rng(0)
    for split, count in (("train", 150), ("test", 40)):
        for label in ("across", "down"):
            (folder / split / label).mkdir(parents=True)
            for index in range(count):
                wave = 128 + 90 * np.sin(np.arange(32) * rng.uniform(0.8, 1.6) + rng.uniform(0, 6))
                picture = np.tile(
                    wave[:, None] if label == "across" else wave, (1, 32) if label == "across" else (32, 1)
                )
                noisy = np.clip(picture[..., None] + rng.normal(0, 30, (32, 32, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(noisy).save(folder / split / label / f"{index}.png")
    return folder


def test_training_gives_a_checkpoint_that_knows_its_classes_and_tags(shapes: Path, tmp_path: Path) -> None:
    out = tmp_path / "checkpoints" / "stripes"
    epochs: list[int] = []
    info = train_folder(str(shapes), str(out), CONFIG, "cpu", lambda report: epochs.append(report.epoch))
    assert epochs == [1, 2, 3]
    assert info.label_names == ("across", "down")
    assert info.metrics["test"]["accuracy"]["accuracy"] > 0.9
    card = (out / "README.md").read_text()
    assert f"tagger train DATA --method scratch --out {out}" in card
    assert f"{info.metrics['test']['accuracy']['accuracy']:.2%}" in card
    assert f"{info.metrics['test_accuracy_tta']:.2%} with it" in card
    tagger.tag(str(shapes / "test"), str(out), str(tmp_path / "results"))
    frame = tagger.read_results(str(tmp_path / "results"))
    right = frame["top_tag"] == frame["uri"].str.split("/").str[-2]
    assert right.mean() == pytest.approx(info.metrics["test"]["accuracy"]["accuracy"], abs=0.02)


def test_test_time_augmentation_is_the_mean_over_shifted_and_mirrored_views() -> None:
    image = torch.randn(1, 3, 6, 6)

    class Corner(torch.nn.Module):
        """Says what is in the second row and column, so that every view says something else."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x[:, :, 1, 1]

    at = {place: image[:, :, place[0], place[1]] for place in ((1, 1), (1, 4), (0, 0), (0, 3), (2, 2), (2, 5))}
    expected = (at[1, 1] + at[1, 4]) / 4 + (at[0, 0] + at[0, 3] + at[2, 2] + at[2, 5]) / 8
    torch.testing.assert_close(fitting.logits_of(Corner(), image, tta=True), expected)
    torch.testing.assert_close(fitting.logits_of(Corner(), image), at[1, 1])


def test_the_same_seed_gives_the_same_net_and_another_seed_another(shapes: Path, tmp_path: Path) -> None:
    ids = []
    for number, seed in enumerate((1, 1, 2)):
        config = ScratchConfig(epochs=1, batch_size=64, seed=seed)
        ids.append(train_folder(str(shapes), str(tmp_path / str(number)), config, "cpu").model_id)
    assert ids[0] == ids[1] != ids[2]


@pytest.mark.parametrize(
    ("architecture", "recipe"),
    [
        ("tagger_speedrun", replace(SPEEDRUN, epochs=4, batch_size=40, learnt_until=(("whiten.bias", 1),))),
        ("tagger_mlp", Recipe(epochs=6, lr=0.2, batch_size=40, patience=2, mirror="random")),
        ("tagger_convnet", Recipe(epochs=4, batch_size=40, momentum="0x2,0.9x2", unit_gain=True, shift=2)),
    ],
)
def test_a_training_that_was_stopped_goes_on_and_ends_with_the_same_net(
    architecture: str, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unfinished, "EVERY", 0.0)
    rng = np.random.default_rng(0)
    labels = np.arange(120) % 2
    pictures = rng.integers(0, 200, (120, 32, 32, 3)) + 20 * labels[:, None, None, None]
    images = LabelledImages(pictures.astype(np.uint8), labels.astype(np.int64), ("dark", "light"))
    arguments = {"tagger_mlp": {"batch_norm": True}}.get(architecture, {})
    seen: list[int] = []

    def train(kept: unfinished.Unfinished | None, stop_after: int = 99) -> own.Fitted:
        def on_epoch(entry: fitting.Epoch) -> None:
            seen.append(entry.epoch)
            if entry.epoch == stop_after:
                raise KeyboardInterrupt

        preparation = normalisation.prepare("standardise", images.images)
        return own.train_net(architecture, arguments, images, images, preparation, recipe, 3, "cpu", on_epoch, kept)

    whole = train(None)
    uri = str(tmp_path / "state.safetensors")
    for stop in (1, 3):
        with pytest.raises(KeyboardInterrupt):
            train(unfinished.Unfinished(uri, "key"), stop)
    seen.clear()
    resumed = train(unfinished.Unfinished(uri, "key"))
    assert seen[0] == 4
    assert [replace(entry, seconds=0) for entry in resumed.curve] == [
        replace(entry, seconds=0) for entry in whole.curve
    ]
    for name, value in whole.net.state_dict().items():
        assert torch.equal(value, resumed.net.state_dict()[name]), name
    seen.clear()
    train(unfinished.Unfinished(uri, "other options"))
    assert seen[0] == 1
    (tmp_path / "state.safetensors").write_bytes(b"damaged")
    seen.clear()
    train(unfinished.Unfinished(uri, "key"))
    assert seen[0] == 1


def test_what_is_shifted_in_is_black_or_the_mean_image_or_a_reflection() -> None:
    mean = torch.rand(3, 8, 8) + 0.5

    class Spy(Linear):
        """Keeps what is left of the images once the offset is subtracted."""

        def without_offset(self, x: torch.Tensor) -> torch.Tensor:
            self.left = super().without_offset(x).detach()
            return self.left

    def left(fill: str) -> torch.Tensor:
        net = Spy(2, 8, offset=True)
        net.set_offset(mean)
        images = fitting.Pixels(mean.expand(50, 3, 8, 8) + 1, torch.zeros(50, dtype=torch.int64))
        fitting.fit(net, images, None, Recipe(epochs=1, batch_size=50, shift=2, fill=fill))
        return net.left

    moved_by_two_rows = left("mean")[:, :, 0].eq(0).flatten(1).all(1)
    assert moved_by_two_rows.any(), "some of 50 images were shifted down"
    assert set(left("mean").round(decimals=4).unique().tolist()) == {0.0, 1.0}, "zeros, or the image as it was"
    assert left("constant").min() < -0.5, "black is far under the mean image"
    with pytest.raises(UsageError, match="expected one of constant, mean, reflect"):
        Recipe(epochs=1, fill="grey")


def test_the_whitening_layer_whitens() -> None:
    torch.manual_seed(0)
    images = torch.randn(500, 3, 16, 16).cumsum(2).cumsum(3)
    images = (images - images.mean()) / images.std()
    net = Speedrun()
    net.set_whitening(images, eps=1e-6)
    with torch.no_grad():
        net.whiten.bias.zero_()  # type: ignore[union-attr]
        response = net.whiten(images)[:, :12].permute(1, 0, 2, 3).reshape(12, -1)
    covariance = response @ response.T / response.shape[1]
    assert torch.allclose(covariance, torch.eye(12), atol=0.05)


def test_bad_training_folders_are_refused_before_training(shapes: Path, tmp_path: Path) -> None:
    import shutil

    with pytest.raises(UsageError, match="not empty"):
        train_folder(str(shapes), str(shapes), CONFIG)
    with pytest.raises(SourceError, match="not found"):
        train_folder(str(tmp_path), str(tmp_path / "out"), CONFIG)
    shutil.copytree(shapes, tmp_path / "extra")
    (tmp_path / "extra" / "test" / "down").rename(tmp_path / "extra" / "test" / "sideways")
    with pytest.raises(SourceError, match=r"classes \['sideways'\] are not among the training classes"):
        train_folder(str(tmp_path / "extra"), str(tmp_path / "out"), CONFIG)
    shutil.copytree(shapes, tmp_path / "broken")
    (tmp_path / "broken" / "train" / "down" / "0.png").write_bytes(b"junk")
    with pytest.raises(SourceError, match=r"down/0\.png.*remove it"):
        train_folder(str(tmp_path / "broken"), str(tmp_path / "out"), CONFIG)
    with pytest.raises(UsageError, match="at least"):
        train_folder(str(shapes), str(tmp_path / "out"), ScratchConfig(epochs=0))
    assert not (tmp_path / "out").exists()


def test_the_card_and_the_bundle_of_the_shipped_checkpoint_agree() -> None:
    from pictures import MODEL

    bundle = json.loads(Path(MODEL, "tagger.json").read_text())
    card = Path(MODEL, "README.md").read_text()
    assert f"{bundle['metrics']['test']['accuracy']['accuracy']:.2%}" in card
    assert checkpoint.describe(MODEL).metrics == bundle["metrics"]


def test_the_wilson_interval_matches_known_values() -> None:
    low, high = wilson_interval(95, 100)
    assert (low, high) == (pytest.approx(0.8882, abs=1e-3), pytest.approx(0.9785, abs=1e-3))
    assert wilson_interval(0, 0) == (0.0, 1.0)
