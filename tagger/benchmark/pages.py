"""Collect the contents of a benchmark's report from runs and checkpoints, and write it as Markdown and HTML."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np
import torch
from torch import nn

from tagger import checkpoint, hardware, storage
from tagger.benchmark.data import ALL, CIFAR10, BenchmarkData
from tagger.benchmark.published import PUBLISHED
from tagger.checkpoint.info import Json
from tagger.evaluation import metrics
from tagger.evaluation.metrics import Array
from tagger.inference.engines import Float32Array
from tagger.models.convnet import ConvNet
from tagger.models.knn import Knn, nearest
from tagger.models.linear import Linear
from tagger.models.mlp import Mlp
from tagger.models.resnet import ResNet
from tagger.models.speedrun import Speedrun
from tagger.reporting import benchmark_report
from tagger.reporting.formatting import joined
from tagger.training.result import MISTAKES

PLOTS, MODELS = "plots", "models"
FolderOf = Callable[[str, int], str]
SHOWN_RIGHT, SHOWN_WRONG, NEIGHBOURS = 5, 5, 10
INLINE = 1_000_000
"""Maximum bytes of figures in a Markdown artifact, which is stored in a database; report.md has all figures."""
VARIANTS = {
    "mlp": ("Sigmoid or ReLU", {"mlp-sigmoid": "sigmoid", "mlp": "ReLU, batch norm"}),
    "linear": (
        "Losses",
        {
            "linear": "cross-entropy, L2",
            "linear-l1": "cross-entropy, L1",
            "linear-sigmoid": "sigmoid, each class separately",
            "linear-squared": "squared error",
        },
    ),
}
"""Model -> title of a comparison, and its variants by name."""


def write(out: str, report: benchmark_report.BenchmarkReport) -> None:
    """Write report.md with its plots, and report.html."""
    drawn = dict(benchmark_report.plot_files(report))
    for name in set(storage.names_in(storage.join(out, PLOTS)) or ()) - set(drawn):
        storage.remove(storage.join(out, f"{PLOTS}/{name}"))  # a model that is no longer in the report
    for name, content in drawn.items():
        storage.write_atomic(storage.join(out, f"{PLOTS}/{name}"), content)
    storage.write_atomic(storage.join(out, "report.md"), benchmark_report.markdown(report, PLOTS).encode())
    storage.write_atomic(storage.join(out, "report.html"), benchmark_report.html(report, drawn).encode())


def gather(
    data: BenchmarkData,
    rows: Sequence[Json],
    scores: Sequence[Float32Array],
    folder: FolderOf,
    command: str,
) -> benchmark_report.BenchmarkReport:
    """Return the contents of the report; `folder` returns the checkpoint of a model and seed."""
    runs = [_run(row, each) for row, each in zip(rows, scores, strict=True)]
    shown = {model.name: model.shown for model in benchmark_report.by_model(runs)}
    nets = {model: checkpoint.build(checkpoint.describe(folder(model, run.seed))) for model, run in shown.items()}
    of_model = {model: run.scores for model, run in shown.items() if run.scores is not None}
    filters = {model: kernels for model, net in nets.items() if (kernels := _filters(net)) is not None}
    return benchmark_report.BenchmarkReport(
        dataset=data.name,
        runs=runs,
        label_names=data.dataset.label_names,
        truth=data.test.labels,
        note=data.note,
        published=_published(data, of_model),
        neighbours={
            model: _neighbours(net, data, of_model[model]) for model, net in nets.items() if isinstance(net, Knn)
        },
        k_curves={row["model"]: _curves(row["k_curve"]) for row in rows if row.get("k_curve")},
        templates={model: _channels_last(net.templates()) for model, net in nets.items() if isinstance(net, Linear)},
        filters=filters,
        mistakes={model: _mistakes(data, each) for model, each in of_model.items()},
        comparisons=[found for model in VARIANTS if (found := _comparison(model, runs))],
        command=command,
        checkpoints=MODELS,
        machine=f"{hardware.cores()} cores of {hardware.processor()}",
        data=data.describe(),
    )


def _run(row: Json, scores: Float32Array) -> benchmark_report.Run:
    known = {name: row[name] for name in benchmark_report.Run.__dataclass_fields__ if name in row}
    return benchmark_report.Run(**known | {"interval": tuple(row["interval"]), "scores": scores})


def _published(data: BenchmarkData, models: Collection[str]) -> list[benchmark_report.Published]:
    """Return the published accuracies of these models on CIFAR-10; none for other images or a part of CIFAR-10."""
    same = data.name.lower().replace("-", "") == CIFAR10 and len(data.train) == ALL["training"]
    return [each for each in PUBLISHED if same and each.model in models]


def _curves(curves: Mapping[str, Mapping[str, float]]) -> dict[str, dict[int, float]]:
    """Return metric -> k -> accuracy, with k converted back from JSON, whose keys are strings."""
    return {metric: {int(k): value for k, value in curve.items()} for metric, curve in curves.items()}


def _channels_last(images: torch.Tensor) -> Array:
    """Transpose (N, C, H, W) to (N, H, W, C)."""
    return np.asarray(images.detach().permute(0, 2, 3, 1))


def _filters(net: nn.Module) -> Array | None:
    """Return the filters of the first layer as images (n, h, w, 3), the largest norm first; None for other networks."""
    if isinstance(net, Mlp):
        first = net.hidden[0]
        assert isinstance(first, nn.Linear)
        found = first.weight.unflatten(1, (3, net.input_size, net.input_size))
    elif isinstance(net, ConvNet):
        found = net.blocks[0].weight
    elif isinstance(net, ResNet):
        found = net.conv.weight
    elif isinstance(net, Speedrun):
        found = net.whiten.weight
    else:
        return None
    strongest = found.flatten(1).norm(dim=1).argsort(descending=True)
    return _channels_last(found[strongest])


def _neighbours(net: Knn, data: BenchmarkData, scores: Float32Array) -> benchmark_report.Neighbours:
    """Return correctly and wrongly classified test images, each with its nearest training images."""
    truth, tags = data.test.labels, scores.argmax(axis=1)
    rng = np.random.default_rng(0)
    order = rng.permutation(len(truth))
    right, wrong = order[(tags == truth)[order]], order[(tags != truth)[order]]
    shown = np.concatenate((right[:SHOWN_RIGHT], wrong[:SHOWN_WRONG]))
    queries = torch.from_numpy(data.test.images[shown]).permute(0, 3, 1, 2).flatten(1)
    count = min(NEIGHBOURS, len(net.examples))
    distances, indices = (np.asarray(each) for each in nearest(queries, net.examples, count, net.metric))
    return benchmark_report.Neighbours(
        queries=data.test.images[shown],
        labels=truth[shown],
        predicted=tags[shown],
        images=data.train.images[indices],
        neighbour_labels=data.train.labels[indices],
        distances=distances,
        metric=net.metric,
    )


def _mistakes(data: BenchmarkData, scores: Float32Array) -> benchmark_report.Mistakes:
    """Return the most confident mistakes."""
    truth, tags, names = data.test.labels, scores.argmax(axis=1), data.dataset.label_names
    surest = metrics.confident_mistakes(scores, data.test.truth, MISTAKES)
    captions = [f"{names[tags[row]]} {scores[row].max():.2f}\nis {names[truth[row]]}" for row in surest]
    return benchmark_report.Mistakes(list(data.test.images[surest]), captions)


def _comparison(model: str, runs: Sequence[benchmark_report.Run]) -> benchmark_report.Comparison | None:
    """Return the comparison of a model's variants; None if fewer than two were trained."""
    title, variants = VARIANTS[model]
    first = {run.model: run for run in reversed(runs)}
    rows = [(words, run.accuracy, _remark(run)) for name, words in variants.items() if (run := first.get(name))]
    return benchmark_report.Comparison(title, rows, model) if len(rows) > 1 else None


def _remark(run: benchmark_report.Run) -> str:
    return joined(f"cut: {run.cut}" if run.cut else "", run.note, by=", ")


def markdown(out: str) -> str:
    """Return a written report.md with its first figures embedded, up to INLINE bytes, and without the others."""
    folder, left = storage.absolute(out), INLINE
    text = storage.read_bytes(storage.join(folder, "report.md")).decode()

    def inline(figure: re.Match[str]) -> str:
        nonlocal left
        png = base64.b64encode(storage.read_bytes(storage.join(folder, figure[2]))).decode()
        left -= len(png)
        return f"{figure[1]}(data:image/png;base64,{png})" if left >= 0 else ""

    return re.sub(rf"^(!\[.*\])\(({PLOTS}/[^)]+)\)$", inline, text, flags=re.MULTILINE)
