"""A network trained from scratch learns, is reproducible, and becomes a checkpoint that tags."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import write_stripes

import tagger
from tagger import checkpoint
from tagger.data import normalisation
from tagger.data.arrays import LabelledImages
from tagger.errors import TableError
from tagger.models.linear import Linear
from tagger.models.speedrun import Speedrun
from tagger.training import scratch
from tagger.training.config import TrainConfig
from tagger.training.data import Callbacks
from tagger.training.loaders import TensorLoader
from tagger.training.recipe import SPEEDRUN, Recipe
from tagger.training.resume import State
from tagger.training.scratch import Network
from tagger.training.train import train
from tagger.training.trainer import Epoch, Trainer

CONFIG = TrainConfig(method="scratch", epochs=3, batch_size=32, device="cpu")


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes a net can tell apart: stripes across and stripes down."""
    folder = tmp_path_factory.mktemp("shapes")
    write_stripes(folder / "train", 150, labels=("across", "down"))
    write_stripes(folder / "test", 40, 1, ("across", "down"))
    return folder


@pytest.mark.slow
def test_training_gives_a_checkpoint_that_knows_its_classes_and_tags(shapes: Path, tmp_path: Path) -> None:
    out = tmp_path / "checkpoints" / "stripes"
    epochs: list[int] = []
    callbacks = Callbacks(on_epoch=lambda epoch: epochs.append(epoch.epoch))
    info = train(str(shapes), str(out), CONFIG, callbacks=callbacks)
    assert epochs == [1, 2, 3]
    assert info.label_names == ("across", "down")
    assert info.metrics["test"]["accuracy"]["accuracy"] > 0.9
    assert info.thresholds is not None
    card = (out / "README.md").read_text()
    assert f"tagger train {shapes} --out {out} --method scratch --epochs 3" in card
    assert "parameters), trained from scratch, that gives each image one of 2 tags" in card
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
    torch.testing.assert_close(scratch.Views(Corner())(image), expected)


@pytest.mark.slow
def test_the_same_seed_gives_the_same_net_and_another_seed_another(shapes: Path, tmp_path: Path) -> None:
    ids = []
    for number, seed in enumerate((1, 1, 2)):
        config = replace(CONFIG, epochs=1, batch_size=64, seed=seed)
        ids.append(train(str(shapes), str(tmp_path / str(number)), config).model_id)
    assert ids[0] == ids[1] != ids[2]


@pytest.mark.parametrize(
    ("architecture", "recipe"),
    [
        ("tagger_speedrun", replace(SPEEDRUN, epochs=4, batch_size=40, freeze_after=(("whiten.bias", 1),))),
        ("tagger_mlp", Recipe(epochs=6, lr=0.2, batch_size=40, patience=2, flip="random")),
        ("tagger_convnet", Recipe(epochs=4, batch_size=40, momentum="0x2,0.9x2", unit_gain=True, translate=2)),
    ],
)
def test_a_training_that_was_stopped_goes_on_and_ends_with_the_same_network(
    architecture: str, recipe: Recipe, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(120) % 2
    pixels = (rng.integers(0, 200, (120, 32, 32, 3)) + 20 * labels[:, None, None, None]).astype(np.uint8)
    images = LabelledImages(pixels, np.eye(2, dtype=np.float32)[labels])
    model_args = {"tagger_mlp": {"batch_norm": True}}.get(architecture, {})
    network = Network(architecture, model_args, 2, normalisation.compute("standardise", pixels))
    seen: list[int] = []

    def run(state: State | None, stop_after: int = 99) -> tuple[torch.nn.Module, list[Epoch]]:
        def on_epoch(epoch: Epoch) -> None:
            seen.append(epoch.epoch)
            if epoch.epoch == stop_after:
                raise KeyboardInterrupt

        trainer = scratch.make_trainer(network, images, recipe, 3, "cpu", images)
        return scratch.train_net(trainer, state, on_epoch)

    whole, curve = run(None)
    state = State(str(tmp_path / "state.pt"), {"key": "a"})
    for stop in (1, 3):
        with pytest.raises(KeyboardInterrupt):
            run(state, stop)
    seen.clear()
    resumed, again = run(state)
    assert seen[0] == 4
    assert [replace(entry, seconds=0) for entry in again] == [replace(entry, seconds=0) for entry in curve]
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


@pytest.mark.parametrize("content", [b"damaged", b"", b"PK\x03\x04 not a training"])
def test_a_damaged_state_is_one_clear_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "state.pt").write_bytes(content)
    with pytest.raises(TableError, match=r"state\.pt: damaged training state .*delete it to start over"):
        State(str(tmp_path / "state.pt"), {}).load()


def test_a_state_that_holds_code_is_refused_without_running_it(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, (f"touch {tmp_path}/ran",)

    torch.save({"version": 1, "identity": {}, "trainer": Evil()}, tmp_path / "state.pt")
    with pytest.raises(TableError, match="damaged training state"):
        State(str(tmp_path / "state.pt"), {}).load()
    assert not (tmp_path / "ran").exists()


def test_translation_brings_in_zeros_or_the_mean_image_or_a_reflection() -> None:
    mean = torch.rand(3, 8, 8) + 0.5

    class Spy(Linear):
        """Keeps the input after the offset is subtracted."""

        def without_offset(self, x: torch.Tensor) -> torch.Tensor:
            self.seen = super().without_offset(x).detach()
            return self.seen

    def seen(fill: str) -> torch.Tensor:
        net = Spy(2, 8, offset=True)
        net.set_offset(mean)
        recipe = Recipe(epochs=1, batch_size=50, translate=2, fill=fill)
        targets = torch.eye(2)[torch.zeros(50, dtype=torch.int64)]
        Trainer(net, TensorLoader(mean.expand(50, 3, 8, 8) + 1, targets, recipe, 0, mean), recipe, 0, "cpu").fit()
        return net.seen

    moved_by_two_rows = seen("mean")[:, :, 0].eq(0).flatten(1).all(1)
    assert moved_by_two_rows.any(), "some of 50 images were moved down"
    assert set(seen("mean").round(decimals=4).unique().tolist()) == {0.0, 1.0}, "zeros, or the image as it was"
    assert seen("zeros").min() < -0.5, "black is far below the mean image"


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


def test_images_that_do_not_decode_are_left_out_of_training_from_scratch_too(shapes: Path, tmp_path: Path) -> None:
    shutil.copytree(shapes, tmp_path / "broken")
    (tmp_path / "broken" / "train" / "down" / "0.png").write_bytes(b"junk")
    train(str(tmp_path / "broken"), str(tmp_path / "out"), replace(CONFIG, epochs=1))
    assert "left out: 1 of 380 images" in (tmp_path / "out" / "README.md").read_text()


def test_the_card_and_the_bundle_of_the_shipped_checkpoint_agree() -> None:
    from pictures import MODEL

    bundle = json.loads(Path(MODEL, "tagger.json").read_text())
    card = Path(MODEL, "README.md").read_text()
    assert f"Accuracy {bundle['metrics']['test']['accuracy']['accuracy']:.1%}" in card
    assert checkpoint.describe(MODEL).metrics == bundle["metrics"]
