"""One section per model: what the model is, how it did, and the picture that makes it understood."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from functools import partial

import numpy as np

from tagger.reporting import plots
from tagger.reporting.benchmark_report import statistics
from tagger.reporting.benchmark_report.data import BenchmarkReport, ModelRuns, Neighbours, known
from tagger.reporting.document import Block, Figure, Section, Text, table
from tagger.reporting.formatting import count, duration, interval, one_line, percent, quantity

ABOUT = {
    "knn-features": "A network trained on millions of other photographs turns each image into features; the label is "
    "what most of the k nearest training images have, near in those features. Nothing is learnt.",
    "knn": "Nothing is learnt. A test image gets the label that most of its k nearest training images have, near "
    "meaning little difference from pixel to pixel. Neighbours share colours and composition more than content.",
    "linear": "One weight per class, pixel and colour; the score of a class is the sum of the weighted pixels. The "
    "weights of a class are an image: what the model looks for, one blurred template for all poses and backgrounds.",
    "mlp": "Layers of weighted sums with a non-linearity between them. Every unit still sees the whole image at once, "
    "so what is learnt in one corner is not known in another.",
    "convnet": "The same small filters slide over the whole image, so an edge is learnt once for all places; pooling "
    "makes the answer bear small shifts.",
    "resnet": "Many thin layers of 3 × 3 filters, each adding to what came in instead of replacing it (He et al. "
    "2015): depth that can still be trained.",
    "speedrun": "A small convolutional net made to be trained in as little time as possible: its first filters are "
    "computed from the images, not learnt, and the schedule is short and steep.",
    "probe": "A network trained on millions of other photographs turns each image into features; only a linear "
    "classifier on top is learnt here.",
    "finetune": "The same pretrained network, all of it trained further on these images.",
}
"""ModelRuns name, or what it begins with -> what the model is."""


def model_section(report: BenchmarkReport, model: ModelRuns, number: int, evaluated: bool) -> Section:
    """Return the section of the model; `evaluated`: its scores can be drawn."""
    anchor = f"model-{number}"
    blocks = [
        *_introduction(model),
        *_no_better_than_guessing(report, model),
        *_neighbours(report, model, anchor),
        *_templates(report, model, anchor),
        *_filters(report, model, anchor),
        *comparisons(report, {model.name}),
        *_curve(model, anchor),
        *(_confusion(report, model, anchor) if evaluated else ()),
        *_mistakes(report, model, anchor),
    ]
    return Section(anchor, model.title, blocks)


def _introduction(model: ModelRuns) -> Iterator[Block]:
    about = next((words for name, words in ABOUT.items() if model.name.startswith(name)), "")
    sure = f" ({interval(model.interval)})" if model.interval else ""
    accuracy, parameters, seconds, epochs = (
        model.mean(name) for name in ("accuracy", "parameters", "train_seconds", "epochs")
    )
    told = [
        f"{percent(accuracy)} of the test images right{sure}" if accuracy is not None else "",
        f"{quantity(parameters)} parameters" if parameters else "",
        f"trained in {duration(seconds)}" if seconds else "",
        f"{count(epochs)} epoch{'s' * (epochs != 1)}" if epochs else "",
    ]
    result = ", ".join(filter(None, told))
    notes = dict.fromkeys(f"Cut: {one_line(run.note)}." for run in model.runs if run.note.strip())
    yield from (Text(words) for words in (about, result and f"{result}.", *notes) if words)


def _no_better_than_guessing(report: BenchmarkReport, model: ModelRuns) -> Iterator[Block]:
    if report.truth is None or not len(report.truth) or not model.interval:
        return
    images = np.bincount(report.truth)
    share = images.max() / len(report.truth)
    if model.interval[0] <= share:
        name = one_line(report.label_names[int(images.argmax())])
        yield Text(f"Not shown to be better than calling every image {name}, which is right on {percent(share)}.")


def _of(model: ModelRuns) -> str:
    """Name the run that is shown where there are several."""
    return f"{model.title}, seed {model.shown.seed}" if len(model.runs) > 1 else model.title


def _neighbours(report: BenchmarkReport, model: ModelRuns, anchor: str) -> Iterator[Block]:
    if model.name != report.neighbours_model:
        return
    if known(value for line in report.k_curve.values() for value in line.values()):
        yield Figure(
            f"{anchor}-k", "Validation accuracy for each number of neighbours", partial(plots.k_curve, report.k_curve)
        )
    shown = report.neighbours
    if shown is not None and len(shown.queries):
        metric = f" by {one_line(shown.metric)}" if shown.metric.strip() else ""
        yield Figure(
            f"{anchor}-neighbours",
            f"{len(shown.queries)} test images, each with its nearest training images",
            partial(_draw_neighbours, shown, list(report.label_names)),
            f"Test images (left) and their nearest training images{metric}, with the distance. Framed in green with a "
            "tick: the same label as the test image.",
            photographs=True,
        )


def _draw_neighbours(shown: Neighbours, names: list[str]) -> bytes:
    captions = [
        f"{names[label]}, right" if label == said else f"{names[label]}, taken for {names[said]}"
        for label, said in zip(shown.labels, shown.predicted, strict=True)
    ]
    return plots.neighbours(
        list(shown.queries),
        captions,
        list(shown.images),
        [[names[label] for label in row] for row in shown.neighbour_labels],
        [list(row == label) for row, label in zip(shown.neighbour_labels, shown.labels, strict=True)],
        [list(row) for row in shown.distances],
    )


def _templates(report: BenchmarkReport, model: ModelRuns, anchor: str) -> Iterator[Block]:
    if model.name == report.templates_model and report.templates is not None and len(report.templates):
        yield Figure(
            f"{anchor}-templates",
            f"The weights of {len(report.templates)} classes as pictures",
            partial(plots.templates, report.templates, list(report.label_names)),
            "The weights of each class as a picture, scaled to their own range: bright where a bright pixel speaks for "
            "the class.",
            photographs=True,
        )


def _filters(report: BenchmarkReport, model: ModelRuns, anchor: str) -> Iterator[Block]:
    weights = report.filters.get(model.name)
    if weights is not None and len(weights):
        many = len(weights) > plots.FILTERS
        which = f"The {plots.FILTERS} largest of {len(weights):,}" if many else f"All {len(weights)}"
        yield Figure(
            f"{anchor}-filters",
            f"First-layer filters of {model.title} as pictures",
            partial(plots.filters, weights),
            f"{which} filters of the first layer, {weights.shape[1]} × {weights.shape[2]} pixels, each scaled to its "
            "own range.",
            photographs=True,
        )


def comparisons(report: BenchmarkReport, models: Collection[str]) -> Iterator[Block]:
    """Yield the tables of the comparisons that belong to these models."""
    for comparison in report.comparisons:
        if comparison.model in models and comparison.rows:
            names, values, remarks = zip(*comparison.rows, strict=True)
            yield table(
                (
                    (comparison.title, "l", names),
                    ("test accuracy", "r", [percent(value) for value in values]),
                    ("", "l", remarks),
                )
            )


def _curve(model: ModelRuns, anchor: str) -> Iterator[Block]:
    curve = model.shown.curve
    if len(curve) > 2 and known(row.get("train_loss") for row in curve):
        alt = f"Loss and validation score of {_of(model)} after each epoch"
        yield Figure(f"{anchor}-curve", alt, partial(plots.learning_curves, curve), f"Epoch by epoch: {_of(model)}.")


def _confusion(report: BenchmarkReport, model: ModelRuns, anchor: str) -> Iterator[Block]:
    yield Figure(
        f"{anchor}-confusion",
        f"Confusion matrix of {_of(model)}: label in the row, tag in the column",
        lambda: plots.confusion_matrix(statistics.confusion(report, model), list(report.label_names)),
        f"What is taken for what: {_of(model)}.",
    )


def _mistakes(report: BenchmarkReport, model: ModelRuns, anchor: str) -> Iterator[Block]:
    shown = report.mistakes.get(model.name)
    if shown is not None and len(shown.images):
        yield Figure(
            f"{anchor}-mistakes",
            f"{len(shown.images)} test images that {model.title} is surest about and wrong",
            partial(plots.mistakes, list(shown.images), list(shown.captions)),
            "The mistakes it is surest of.",
            photographs=True,
        )
