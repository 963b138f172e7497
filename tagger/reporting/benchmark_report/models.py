"""One section per model: its description, its results and the figures that explain it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from functools import partial

import numpy as np

from tagger.reporting import plots
from tagger.reporting.benchmark_report import statistics
from tagger.reporting.benchmark_report.data import BenchmarkReport, ModelRuns, Neighbours
from tagger.reporting.document import Figure, Section, Table, Text, table
from tagger.reporting.formatting import count, duration, interval, joined, known, one_line, percent, quantity, sentence

DESCRIPTIONS = {
    "knn-features": "A network pretrained on millions of other photographs turns each image into features. The tag is "
    "the most frequent label among the k nearest training images in feature space. Nothing is trained.",
    "knn": "The tag is the most frequent label among the k training images with the smallest pixel-by-pixel distance. "
    "Nothing is trained. Such neighbours share colours and composition more often than content.",
    "linear": "One weight per class, pixel and colour channel; the score of a class is the weighted sum of the pixels. "
    "The weights of a class form an image: a single blurred template for all poses and backgrounds.",
    "mlp": "Weighted sums in several layers, with a non-linearity between them. Each unit sees the whole image, so "
    "that a pattern learnt in one corner is unknown in the others.",
    "convnet": "Small filters slide over the whole image, so that an edge learnt once is known everywhere; pooling "
    "makes the network tolerate small shifts.",
    "resnet": "Many layers of 3 × 3 filters, each of which adds to its input instead of replacing it (He et al. 2015). "
    "This makes deep networks trainable.",
    "speedrun": "A small convolutional network designed for short training. Its first filters are computed from the "
    "images, not learnt, and the learning rate rises and falls steeply.",
    "probe": "A network pretrained on millions of other photographs turns each image into features. Only a linear "
    "classifier on top is trained.",
    "finetune": "The same pretrained network, with all its weights trained further on these images.",
}
"""Model name or its prefix -> description; the first that fits counts."""


def model_section(report: BenchmarkReport, model: ModelRuns, anchor: str, scored: bool) -> Section:
    """Return the section of a model; `scored`: it has scores for every test image."""
    blocks = [
        *_introduction(model),
        *_no_better_than_guessing(report, model),
        *_neighbours(report, model, anchor),
        *_templates(report, model, anchor),
        *_filters(report, model, anchor),
        *comparisons(report, {model.name}),
        *_curve(model, anchor),
        *(_confusion(report, model, anchor) if scored else ()),
        *_mistakes(report, model, anchor),
    ]
    return Section(anchor, model.title, blocks)


def _introduction(model: ModelRuns) -> Iterator[Text]:
    if model.cut:
        yield Text(f"Cut by the budget: {model.cut}. These are not the results of the model trained in full.")
    if description := next((text for name, text in DESCRIPTIONS.items() if model.name.startswith(name)), ""):
        yield Text(description)
    accuracy, parameters, seconds, epochs = map(model.mean, ("accuracy", "parameters", "train_seconds", "epochs"))
    interval_95 = f" (95% interval {interval(model.interval)})" if model.interval else ""
    results = joined(
        f"{percent(accuracy)} of the test images right{interval_95}" if accuracy is not None else "",
        f"{quantity(parameters)} parameters" if parameters else "",
        f"trained in {duration(seconds)}" if seconds else "",
        f"{count(epochs)} epoch{'s' * (epochs != 1)}" if epochs else "",
        by=", ",
    )
    yield from (Text(sentence(text)) for text in (results, *model.texts("note")) if text)


def _no_better_than_guessing(report: BenchmarkReport, model: ModelRuns) -> Iterator[Text]:
    if report.truth is None or not len(report.truth) or not model.interval:
        return
    images = np.bincount(report.truth)
    share = images.max() / len(report.truth)
    if model.interval[0] <= share:
        name = one_line(report.label_names[int(images.argmax())])
        yield Text(f"Not significantly better than tagging every image {name}, which is right on {percent(share)}.")


def _shown(model: ModelRuns) -> str:
    """Return the title, with the seed of the shown run where there are several."""
    return f"{model.title}, seed {model.shown.seed}" if len(model.runs) > 1 else model.title


def _neighbours(report: BenchmarkReport, model: ModelRuns, anchor: str) -> Iterator[Figure]:
    curves, found = report.k_curves.get(model.name, {}), report.neighbours.get(model.name)
    if known(value for curve in curves.values() for value in curve.values()):
        yield Figure(f"{anchor}-k", "Validation accuracy for each number of neighbours", partial(plots.k_curve, curves))
    if found is not None and len(found.queries):
        metric = f" by {one_line(found.metric)} distance" if found.metric.strip() else ""
        yield Figure(
            f"{anchor}-neighbours",
            f"{len(found.queries)} test images, each with its nearest training images",
            partial(_draw_neighbours, found, report.label_names),
            f"Test images (left) and their nearest training images{metric}, with the distance. A green frame and a "
            "tick mark those with the label of the test image.",
            photographs=True,
        )


def _draw_neighbours(found: Neighbours, names: Sequence[str]) -> bytes:
    names = [one_line(name) for name in names]
    captions = [
        f"{names[label]}\ntagged {names[tag]}" for label, tag in zip(found.labels, found.predicted, strict=True)
    ]
    return plots.neighbours(
        found.queries,
        captions,
        found.images,
        [[names[label] for label in row] for row in found.neighbour_labels],
        found.neighbour_labels == found.labels[:, None],
        found.distances,
    )


def _templates(report: BenchmarkReport, model: ModelRuns, anchor: str) -> Iterator[Figure]:
    weights = report.templates.get(model.name)
    if weights is not None and len(weights):
        yield Figure(
            f"{anchor}-templates",
            f"Weights of {len(weights)} classes as images",
            partial(plots.templates, weights, report.label_names),
            "The weights of each class as an image, scaled to their own range: bright where a bright pixel raises the "
            "score.",
            photographs=True,
        )


def _filters(report: BenchmarkReport, model: ModelRuns, anchor: str) -> Iterator[Figure]:
    weights = report.filters.get(model.name)
    if weights is not None and len(weights):
        many = len(weights) > plots.FILTERS
        which = f"The {plots.FILTERS} largest of {len(weights):,}" if many else f"All {len(weights)}"
        yield Figure(
            f"{anchor}-filters",
            f"First-layer filters of {model.title} as images",
            partial(plots.filters, weights),
            f"{which} filters of the first layer, {weights.shape[1]} × {weights.shape[2]} pixels, each scaled to its "
            "own range.",
            photographs=True,
        )


def comparisons(report: BenchmarkReport, models: Collection[str]) -> Iterator[Table]:
    """Yield the tables of the comparisons that belong to these models."""
    for comparison in report.comparisons:
        if comparison.model in models and comparison.rows:
            names, shares, remarks = zip(*comparison.rows, strict=True)
            accuracies = [percent(share) for share in shares]
            yield table(((comparison.title, "l", names), ("test accuracy", "r", accuracies), ("", "l", remarks)))


def _curve(model: ModelRuns, anchor: str) -> Iterator[Figure]:
    curve = model.shown.curve
    if len(curve) > 2 and known(row.get("train_loss") for row in curve):
        alt = f"Loss and validation score of {_shown(model)} after each epoch"
        yield Figure(f"{anchor}-curve", alt, partial(plots.learning_curves, curve), sentence(alt))


def _confusion(report: BenchmarkReport, model: ModelRuns, anchor: str) -> Iterator[Figure]:
    yield Figure(
        f"{anchor}-confusion",
        f"Confusion matrix of {_shown(model)}: label in the row, tag in the column",
        lambda: plots.confusion_matrix(statistics.confusion(report, model), report.label_names),
        f"Number of test images with each label and tag: {_shown(model)}.",
    )


def _mistakes(report: BenchmarkReport, model: ModelRuns, anchor: str) -> Iterator[Figure]:
    found = report.mistakes.get(model.name)
    if found is not None and len(found.images):
        yield Figure(
            f"{anchor}-mistakes",
            f"The {len(found.images)} most confident mistakes of {model.title}",
            partial(plots.mistakes, found.images, found.captions),
            "The most confident mistakes: tag and score above the true label.",
            photographs=True,
        )
