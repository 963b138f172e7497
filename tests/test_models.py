"""The networks follow timm's protocol, are rebuilt from their arguments, and score the same from a checkpoint."""

from __future__ import annotations

import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import tagger
from tagger import checkpoint, models
from tagger.checkpoint.info import ModelInfo
from tagger.errors import ModelError, UsageError
from tagger.evaluation import metrics
from tagger.images.transforms import Preprocessing
from tagger.inference import engines
from tagger.inference.engines import Choice
from tagger.models.convnet import ConvNet
from tagger.models.knn import Knn
from tagger.models.linear import Linear
from tagger.models.mlp import Mlp
from tagger.models.resnet import ResNet
from tagger.models.scorer import Scorer
from tagger.models.small import SmallNet

NAMES = ["red", "green", "blue", "white"]
SIZE = 12

NETS: dict[str, tuple[str, dict[str, Any]]] = {
    "knn": ("tagger_knn", {"examples": 40, "k": 5, "metric": "l2", "dtype": "uint8"}),
    "knn of prepared values": ("tagger_knn", {"examples": 40, "k": 3, "metric": "cosine", "offset": True}),
    "linear": ("tagger_linear", {"offset": True}),
    "mlp": ("tagger_mlp", {"depth": 2, "width": 16, "activation": "relu", "dropout": 0.3, "batch_norm": True}),
    "mlp of sigmoids": ("tagger_mlp", {"depth": 3, "width": 16, "activation": "sigmoid", "offset": True}),
    "convnet": ("tagger_convnet", {"offset": True}),
    "convnet with lrn": ("tagger_convnet", {"lrn": True}),
    "resnet": ("tagger_resnet", {"depth": 8, "offset": True}),
}
TRAINED = [name for name in NETS if not name.startswith("knn")]


def pixels(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, SIZE, SIZE, 3), dtype=np.uint8)


def normalisation(name: str) -> dict[str, list[float]]:
    raw = name == "knn"  # pixels as they are
    return {"mean": [0.0 if raw else 0.45] * 3, "std": [1 / 255 if raw else 0.25] * 3}


def normalised(images: np.ndarray, name: str) -> Tensor:
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in normalisation(name).values())
    return (torch.from_numpy(images).permute(0, 3, 1, 2) - 255 * mean) / (255 * std)


def make(name: str) -> SmallNet:
    """A network that differs from a fresh one as if trained."""
    torch.manual_seed(0)
    architecture, arguments = NETS[name]
    net = models.build(architecture, len(NAMES), arguments | {"input_size": SIZE})
    assert isinstance(net, SmallNet)
    if net.offset is not None:
        net.set_offset(torch.rand(3, SIZE, SIZE))
    if isinstance(net, Knn):
        net.remember(normalised(pixels(40, 1), name), torch.arange(40) % 4)
    for key, value in net.state_dict().items():
        if key.startswith("head") or "running" in key:
            value.add_(torch.rand_like(value) * 0.1)
    return net.eval()


@pytest.fixture(scope="module", params=list(NETS))
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, SmallNet, ModelInfo]:
    name, net = request.param, make(request.param)
    architecture, arguments = NETS[name]
    folder = tmp_path_factory.mktemp("checkpoints") / "net"
    truth = np.eye(len(NAMES), dtype=np.float32)
    preprocessing = Preprocessing(size=(SIZE, SIZE), crop_pct=1.0, **normalisation(name))
    info = checkpoint.save(
        str(folder),
        checkpoint.Built(net, architecture, arguments | {"input_size": SIZE}, preprocessing),
        label_names=NAMES,
        task="multiclass",
        metrics={"test": asdict(metrics.evaluate(truth, truth, "multiclass", NAMES, None))},
        training={
            "command": "", "dataset": "made up", "method": "scratch", "backbone": None, "hyperparameters": {},
            "images": {"test": 4}, "labels": {}, "fingerprint": "", "warnings": [], "seconds": 0, "device": "cpu",
            "versions": {},
        },
    )  # fmt: skip
    return name, net, info


Saved = tuple[str, SmallNet, ModelInfo]


def scores_of(net: nn.Module, name: str, images: np.ndarray) -> Tensor:
    mean, std = (tuple(values) for values in normalisation(name).values())
    with torch.inference_mode():
        scores: Tensor = Scorer(net, mean, std, "multiclass", 1.0)(torch.from_numpy(images))[0]
    return scores


def test_a_checkpoint_gives_the_scores_of_the_net_that_was_saved(saved: Saved) -> None:
    name, net, info = saved
    images = pixels(6, 2)
    expected = scores_of(net, name, images)
    assert torch.equal(scores_of(checkpoint.build(info), name, images), expected)
    assert expected.shape == (6, len(NAMES))
    assert (expected.std(dim=0) > 0).all()  # scores depend on the image
    torch.testing.assert_close(net(normalised(images, name)).softmax(1), expected)
    fresh = models.build(info.architecture, len(NAMES), info.model_args)
    assert not torch.equal(scores_of(fresh.eval(), name, images), expected)


def test_networks_follow_timms_protocol(saved: Saved) -> None:
    name, net, _ = saved
    features = net.forward_features(normalised(pixels(3), name))
    assert net.forward_head(features, pre_logits=True).shape == (3, net.num_features)
    assert net.forward_head(features).shape == (3, net.num_classes) == (3, len(NAMES))


def test_openvino_gives_torchs_scores_and_knn_runs_in_torch(saved: Saved) -> None:
    level = logging.root.level
    name, net, info = saved
    images = pixels(6, 2)
    engine = engines.load(info, checkpoint.build, Choice(device="cpu"))
    scores, embeddings = engine(images)
    np.testing.assert_allclose(scores, scores_of(net, name, images).numpy(), atol=1e-3)
    assert embeddings.shape == (6, net.num_features)
    assert ("openvino" in engine.name) == (not isinstance(net, Knn)), engine.name
    assert logging.root.level == level, "a converter that fails leaves it at ERROR"
    if isinstance(net, Knn):
        with pytest.raises(UsageError, match="choose another --engine"):
            engines.load(info, checkpoint.build, Choice(device="cpu", engine="openvino"))


@pytest.mark.parametrize("name", TRAINED)
def test_gradient_descent_lowers_the_loss(name: str) -> None:
    net, x, labels = make(name), normalised(pixels(8), name), torch.arange(8) % 4
    optimizer = torch.optim.SGD(net.parameters(), lr=0.02, momentum=0.9)
    torch.manual_seed(0)
    losses = []
    for _ in range(15):
        loss = nn.functional.cross_entropy(net.train()(x), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert np.mean(losses[-3:]) < 0.97 * np.mean(losses[:3]), losses
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in net.parameters())


@pytest.mark.parametrize("name", [name for name, (_, arguments) in NETS.items() if arguments.get("offset")])
def test_the_offset_is_subtracted_first(name: str) -> None:
    net, x = make(name), normalised(pixels(5), name)
    assert net.offset is not None
    expected = net(x)
    offset = net.offset.clone()
    net.set_offset(torch.zeros_like(offset))
    torch.testing.assert_close(net(x - offset), expected)
    assert not torch.allclose(net(x), expected)


def test_an_offset_that_does_not_fit_is_refused() -> None:
    with pytest.raises(UsageError, match=r"offset must have the shape None, got \(3, 8, 8\)"):
        Linear(4).set_offset(torch.zeros(3, 8, 8))
    with pytest.raises(UsageError, match=r"offset must have the shape \(3, 12, 12\), got \(3, 8, 8\)"):
        Linear(4, 12, offset=True).set_offset(torch.zeros(3, 8, 8))


def parameters(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


@pytest.mark.parametrize(
    ("depth", "published"), [(20, 269_722), (32, 464_154), (44, 658_586), (56, 853_018), (110, 1_727_962)]
)
def test_resnets_have_the_published_layers_and_parameters(depth: int, published: int) -> None:
    net = ResNet(depth=depth)
    assert parameters(net) == published
    assert sum(isinstance(module, nn.Conv2d | nn.Linear) for module in net.modules()) == depth
    assert net.forward_features(torch.zeros(1, 3, 32, 32)).shape == (1, 64, 8, 8)


def test_a_residual_block_passes_its_input_where_it_adds_nothing() -> None:
    net = ResNet(depth=8)
    block = net.blocks[1]  # halves the resolution, doubles the channels
    nn.init.zeros_(block.norm2.weight)  # type: ignore[arg-type, union-attr]
    x = torch.rand(2, 16, 6, 6)
    out = block.eval()(x)
    assert torch.equal(out[:, :16], x[:, :, ::2, ::2])
    assert not out[:, 16:].any()


def test_the_convnet_is_cntks() -> None:
    for net in (ConvNet(), ConvNet(lrn=True)):
        assert parameters(net) == 1_195_594
        assert net.forward_features(torch.zeros(1, 3, 32, 32)).shape == (1, 64, 8, 8)
    x = torch.rand(1, 64, 2, 2, dtype=torch.float64)
    (lrn,) = (module for module in ConvNet(lrn=True).blocks[:6] if isinstance(module, nn.LocalResponseNorm))
    around = x[:, 6:15].square().sum(dim=1)  # channel 10 and 4 to each side
    torch.testing.assert_close(lrn(x)[:, 10], x[:, 10] / (1 + 0.001 / 9 * around) ** 0.75)


def test_the_linear_net_is_one_template_per_class() -> None:
    net = Linear(3, 4)
    assert not net(torch.rand(2, 3, 4, 4)).any()
    nn.init.normal_(net.head.weight)
    x = torch.rand(2, 3, 4, 4)
    torch.testing.assert_close(net(x), torch.einsum("nchw,kchw->nk", x, net.templates()))
    assert parameters(Linear()) == 30_730


def test_the_mlp_has_its_depth_and_width() -> None:
    net = Mlp(depth=3, width=64, activation="sigmoid", dropout=0.5, batch_norm=True)
    kinds = [type(module).__name__ for module in net.hidden]
    assert kinds == ["Linear", "BatchNorm1d", "Sigmoid", "Dropout"] * 3
    assert [type(module).__name__ for module in Mlp(depth=1).hidden] == ["Linear", "ReLU"]
    assert parameters(Mlp(depth=2, width=100)) == 3072 * 100 + 100 + 100 * 100 + 100 + 100 * 10 + 10


@pytest.mark.parametrize(
    ("architecture", "arguments", "message"),
    [
        ("tagger_mlp", {"activation": "tanh"}, "activation must be one of relu, sigmoid, got 'tanh'"),
        ("tagger_mlp", {"depth": 0}, "depth and width must be at least 1, got 0 and 512"),
        ("tagger_resnet", {"depth": 18}, r"depth must be 6n \+ 2 .*, got 18"),
        ("tagger_knn", {"examples": 5, "k": 6}, "k must be between 1 and the 5 training images, got 6"),
        ("tagger_knn", {"examples": 5, "k": 1, "metric": "l3"}, "metric must be one of l1, l2, cosine, got 'l3'"),
        ("tagger_knn", {"examples": 5, "k": 1, "dtype": "uint8", "offset": True}, "raw pixels without an offset"),
        ("tagger_linear", {"colour": 1}, r"tagger_linear: cannot be built with \{'colour': 1\}"),
    ],
)
def test_invalid_arguments_are_named(architecture: str, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        models.build(architecture, 10, arguments)


def test_a_checkpoint_of_each_family_tags_images(tmp_path: Path, photos: Path, saved: Saved) -> None:
    _, _, info = saved
    summary = tagger.tag(str(photos), str(Path(info.weights).parent), str(tmp_path / "results"))
    assert summary.models[0].tagged == 6
