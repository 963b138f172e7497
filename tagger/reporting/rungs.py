"""One section per rung: what the model is, how it did, and the picture that makes it understood."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from functools import partial

import numpy as np

from tagger.reporting import judging, plots
from tagger.reporting.blocks import Block, Figure, Section, Text, table
from tagger.reporting.facts import Ladder, Neighbours, Rung, known
from tagger.reporting.wording import count, duration, interval, one_line, percent, quantity

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
"""Rung name, or what it begins with -> what the model is."""


def rung_section(ladder: Ladder, rung: Rung, number: int, judged: bool) -> Section:
    """Return the section of the rung; `judged`: its scores can be drawn."""
    anchor = f"rung-{number}"
    blocks = [
        *_introduction(rung),
        *_no_better_than_guessing(ladder, rung),
        *_neighbours(ladder, rung, anchor),
        *_templates(ladder, rung, anchor),
        *_filters(ladder, rung, anchor),
        *comparisons(ladder, {rung.model}),
        *_curve(rung, anchor),
        *(_confusion(ladder, rung, anchor) if judged else ()),
        *_mistakes(ladder, rung, anchor),
    ]
    return Section(anchor, rung.title, blocks)


def _introduction(rung: Rung) -> Iterator[Block]:
    about = next((words for name, words in ABOUT.items() if rung.model.startswith(name)), "")
    sure = f" ({interval(rung.interval)})" if rung.interval else ""
    accuracy, parameters, seconds, epochs = (
        rung.mean(name) for name in ("accuracy", "parameters", "train_seconds", "epochs")
    )
    told = [
        f"{percent(accuracy)} of the test images right{sure}" if accuracy is not None else "",
        f"{quantity(parameters)} parameters" if parameters else "",
        f"trained in {duration(seconds)}" if seconds else "",
        f"{count(epochs)} epoch{'s' * (epochs != 1)}" if epochs else "",
    ]
    result = ", ".join(filter(None, told))
    notes = dict.fromkeys(f"Cut: {one_line(run.note)}." for run in rung.runs if run.note.strip())
    yield from (Text(words) for words in (about, result and f"{result}.", *notes) if words)


def _no_better_than_guessing(ladder: Ladder, rung: Rung) -> Iterator[Block]:
    if ladder.truth is None or not len(ladder.truth) or not rung.interval:
        return
    images = np.bincount(ladder.truth)
    share = images.max() / len(ladder.truth)
    if rung.interval[0] <= share:
        name = one_line(ladder.label_names[int(images.argmax())])
        yield Text(f"Not shown to be better than calling every image {name}, which is right on {percent(share)}.")


def _of(rung: Rung) -> str:
    """Name the run that is shown where there are several."""
    return f"{rung.title}, seed {rung.shown.seed}" if len(rung.runs) > 1 else rung.title


def _neighbours(ladder: Ladder, rung: Rung, anchor: str) -> Iterator[Block]:
    if rung.model != ladder.neighbours_model:
        return
    if known(value for line in ladder.k_curve.values() for value in line.values()):
        yield Figure(
            f"{anchor}-k", "Validation accuracy for each number of neighbours", partial(plots.k_curve, ladder.k_curve)
        )
    shown = ladder.neighbours
    if shown is not None and len(shown.queries):
        metric = f" by {one_line(shown.metric)}" if shown.metric.strip() else ""
        yield Figure(
            f"{anchor}-neighbours",
            f"{len(shown.queries)} test images, each with its nearest training images",
            partial(_draw_neighbours, shown, list(ladder.label_names)),
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


def _templates(ladder: Ladder, rung: Rung, anchor: str) -> Iterator[Block]:
    if rung.model == ladder.templates_model and ladder.templates is not None and len(ladder.templates):
        yield Figure(
            f"{anchor}-templates",
            f"The weights of {len(ladder.templates)} classes as pictures",
            partial(plots.templates, ladder.templates, list(ladder.label_names)),
            "The weights of each class as a picture, scaled to their own range: bright where a bright pixel speaks for "
            "the class.",
            photographs=True,
        )


def _filters(ladder: Ladder, rung: Rung, anchor: str) -> Iterator[Block]:
    weights = ladder.filters.get(rung.model)
    if weights is not None and len(weights):
        many = len(weights) > plots.FILTERS
        which = f"The {plots.FILTERS} largest of {len(weights):,}" if many else f"All {len(weights)}"
        yield Figure(
            f"{anchor}-filters",
            f"First-layer filters of {rung.title} as pictures",
            partial(plots.filters, weights),
            f"{which} filters of the first layer, {weights.shape[1]} × {weights.shape[2]} pixels, each scaled to its "
            "own range.",
            photographs=True,
        )


def comparisons(ladder: Ladder, models: Collection[str]) -> Iterator[Block]:
    """Yield the tables of the comparisons that belong to these rungs."""
    for comparison in ladder.comparisons:
        if comparison.model in models and comparison.rows:
            names, values, remarks = zip(*comparison.rows, strict=True)
            yield table(
                (
                    (comparison.title, "l", names),
                    ("test accuracy", "r", [percent(value) for value in values]),
                    ("", "l", remarks),
                )
            )


def _curve(rung: Rung, anchor: str) -> Iterator[Block]:
    curve = rung.shown.curve
    if len(curve) > 2 and known(row.get("train_loss") for row in curve):
        alt = f"Loss and validation score of {_of(rung)} after each epoch"
        yield Figure(f"{anchor}-curve", alt, partial(plots.learning_curves, curve), f"Epoch by epoch: {_of(rung)}.")


def _confusion(ladder: Ladder, rung: Rung, anchor: str) -> Iterator[Block]:
    yield Figure(
        f"{anchor}-confusion",
        f"Confusion matrix of {_of(rung)}: label in the row, tag in the column",
        lambda: plots.confusion_matrix(judging.confusion(ladder, rung), list(ladder.label_names)),
        f"What is taken for what: {_of(rung)}.",
    )


def _mistakes(ladder: Ladder, rung: Rung, anchor: str) -> Iterator[Block]:
    shown = ladder.mistakes.get(rung.model)
    if shown is not None and len(shown.images):
        yield Figure(
            f"{anchor}-mistakes",
            f"{len(shown.images)} test images that {rung.title} is surest about and wrong",
            partial(plots.mistakes, list(shown.images), list(shown.captions)),
            "The mistakes it is surest of.",
            photographs=True,
        )
