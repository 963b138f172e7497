"""The sections of the report, in the order of the climb."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np

from tagger.evaluation.metrics import LEAST_IN_BIN
from tagger.reporting import judging, plots
from tagger.reporting.blocks import Block, Bullets, Figure, Listing, Section, Text, table
from tagger.reporting.facts import Array, Ladder, Number, Published, Rung, known
from tagger.reporting.rungs import comparisons, rung_section
from tagger.reporting.wording import (
    UNKNOWN,
    count,
    decimal,
    duration,
    interval,
    listed,
    one_line,
    percent,
    plural,
    quantity,
    rate,
    size,
    spread,
)

HARDEST = 10
_NAMES_IN_TABLE = 20


def title(ladder: Ladder) -> str:
    """Return the question that the report answers."""
    return f"Does a bigger model pay on {one_line(ladder.dataset)}?"


def answer(ladder: Ladder) -> str:
    """Return the answer: the best model, how good it is, and what the last step up to it cost."""
    best = _best(ladder)
    if best is None:
        return "No model has been judged yet."
    return " ".join(filter(None, (_verdict(ladder, best), _last_step(ladder, best), _sentence(ladder.note))))


def sections(ladder: Ladder) -> list[Section]:
    """Return what there is to say; nothing is drawn yet. Raises ValueError when arrays do not fit each other."""
    judged = judging.judged(ladder)
    made = (
        Section("accuracy", "How good they are", list(_accuracy(ladder))),
        Section("cost", "What they cost", list(_cost(ladder))),
        Section("learning", "How they learn", list(_learning(ladder))),
        Section("classes", "Class by class", list(_classes(ladder, judged))),
        Section("reliability", "Whether their scores can be believed", list(_reliability(ladder, judged))),
        *(rung_section(ladder, rung, number, rung.model in _models(judged)) for number, rung in _numbered(ladder)),
        Section("variants", "Variants", list(comparisons(ladder, _strangers(ladder)))),
        Section("making", "How this was made", list(_making(ladder))),
    )
    return [section for section in made if section.blocks]


def _models(rungs: list[Rung]) -> set[str]:
    return {rung.model for rung in rungs}


def _strangers(ladder: Ladder) -> set[str]:
    """Return what comparisons belong to that is not a rung."""
    return {each.model for each in ladder.comparisons} - _models(ladder.rungs)


def _numbered(ladder: Ladder) -> Iterator[tuple[int, Rung]]:
    return enumerate(ladder.rungs, 1)


def _sentence(text: str) -> str:
    line = one_line(text)
    line = line[:1].upper() + line[1:]
    return line if not line or line[-1] in ".!?" else line + "."


def _best(ladder: Ladder) -> Rung | None:
    rated = [rung for rung in ladder.rungs if rung.values("accuracy")]
    return max(rated, key=_accuracy_of, default=None)


def _accuracy_of(rung: Rung) -> float:
    accuracy = rung.mean("accuracy")
    return -1.0 if accuracy is None else accuracy


def _verdict(ladder: Ladder, best: Rung) -> str:
    images = "the test images" if ladder.truth is None else f"{len(ladder.truth):,} test images"
    sure = f"95% interval {interval(best.interval)}" if best.interval else ""
    seeds = len(best.values("accuracy"))
    several = f"mean of {seeds} seeds, {spread(best.spread)} points" if seeds > 1 else ""
    aside = "; ".join(filter(None, (sure, several)))
    told = f"{one_line(best.title)} is right on {percent(best.mean('accuracy'))} of {images}"
    return f"{told} ({aside})." if aside else f"{told}."


def _last_step(ladder: Ladder, best: Rung) -> str:
    """Say what the best model costs over the best of those that are quicker to train."""
    cost = best.mean("train_seconds")
    if cost is None or len(ladder.rungs) < 2:
        return ""
    timed = [(each, rung) for rung in ladder.rungs if (each := rung.mean("train_seconds")) is not None]
    quicker = [(each, rung) for each, rung in timed if each < cost and rung.values("accuracy")]
    if not quicker:
        return "It is the quickest to train as well: no bigger model pays."
    before_cost, before = max(quicker, key=lambda each: _accuracy_of(each[1]))
    points = 100 * (_accuracy_of(best) - _accuracy_of(before))
    if points <= 0:
        return f"{one_line(before.title)} is as good and quicker to train."
    flops = _flops_ratio(before, best)
    paid = f"{duration(cost - before_cost)} more training ({duration((cost - before_cost) / points)} a point{flops})"
    step = f"The last step up, from {one_line(before.title)}, brought {points:.1f} points for {paid}"
    return step + (f"; {doubt}." if (doubt := _doubt(ladder, before, best)) else ".")


def _flops_ratio(before: Rung, best: Rung) -> str:
    small, large = before.mean("flops"), best.mean("flops")
    ratio = rate(large / small) if small and large else "1"
    return f", {ratio} times the FLOPs per image" if ratio != "1" else ""


def _doubt(ladder: Ladder, before: Rung, best: Rung) -> str:
    chance = judging.probability_by_chance(ladder, before, best)
    return f"it may be chance (McNemar's test: p = {chance:.2f})" if chance is not None and chance > 0.05 else ""


def _accuracy(ladder: Ladder) -> Iterator[Block]:
    rungs, best = ladder.rungs, _best(ladder)
    if not rungs:
        return
    others = [each for each in ladder.published if each.model not in {rung.model for rung in rungs}]
    published = [[each for each in ladder.published if each.model == rung.model] for rung in rungs]
    seeds = {len(rung.runs) for rung in rungs}
    blank, tta = [""] * len(others), any(rung.values("accuracy_tta") for rung in rungs)
    notes = ["; ".join(_notes(rung)) for rung in rungs]
    yield table(
        (
            ("model", "l", [rung.title for rung in rungs] + [each.model for each in others]),
            ("seeds", "r", [count(len(rung.runs)) for rung in rungs] + blank if len(seeds) > 1 else []),
            ("test accuracy", "r", [percent(rung.mean("accuracy")) for rung in rungs] + blank),
            ("spread", "r", [spread(rung.spread) for rung in rungs] + blank),
            ("95% interval", "r", [interval(rung.interval) for rung in rungs] + blank),
            ("with TTA", "r", [percent(rung.mean("accuracy_tta")) for rung in rungs] + blank if tta else []),
            ("note", "l", notes + blank if any(notes) else []),
            ("published", "r", [_share_of(each) for each in (*published, *([other] for other in others))]),
            ("where", "l", [_where(each) for each in (*published, *([other] for other in others))]),
            ("log-loss", "r", [decimal(rung.mean("log_loss")) for rung in rungs] + blank),
            ("calibration error", "r", [decimal(rung.mean("calibration_error")) for rung in rungs] + blank),
        ),
        caption=_accuracy_caption(ladder, seeds),
        best=rungs.index(best) if best else None,
    )


def _accuracy_caption(ladder: Ladder, seeds: set[int]) -> str:
    over = f"{min(seeds)} seeds" if len(seeds) == 1 else "seeds"
    mean = f"Accuracy is the mean over {over}, spread their sample standard deviation in points."
    sure = "The interval is Wilson's: what drawing other test images would change."
    tta = "TTA, test-time augmentation, is the mean over an image mirrored and shifted by a pixel: six looks at each."
    told = any(rung.values("accuracy_tta") for rung in ladder.rungs)
    return " ".join(filter(None, (_sentence(ladder.note), mean if max(seeds) > 1 else "", sure, tta if told else "")))


def _share_of(published: list[Published]) -> str:
    return " / ".join(percent(each.accuracy) for each in published)


def _where(published: list[Published]) -> str:
    return " / ".join("; ".join(filter(None, (one_line(each.conditions), one_line(each.source)))) for each in published)


def _cost(ladder: Ladder) -> Iterator[Block]:
    rungs = ladder.rungs
    if not any(
        rung.values(name) for rung in rungs for name in ("parameters", "flops", "train_seconds", "memory_bytes")
    ):
        return
    devices = {device for rung in rungs for device in _devices(rung)}
    columns: list[tuple[str, str, list[str]]] = [
        ("model", "l", [rung.title for rung in rungs]),
        ("parameters", "r", [quantity(rung.mean("parameters")) for rung in rungs]),
        ("FLOPs per image", "r", [quantity(rung.mean("flops")) for rung in rungs]),
        ("epochs", "r", [count(rung.mean("epochs")) for rung in rungs]),
        ("training time", "r", [duration(rung.mean("train_seconds")) for rung in rungs]),
        ("training images/s", "r", [rate(rung.mean("train_images_per_second")) for rung in rungs]),
        ("images/s, one core", "r", [rate(rung.mean("infer_one_core")) for rung in rungs]),
        ("images/s, all cores", "r", [rate(rung.mean("infer_all_cores")) for rung in rungs]),
        ("memory", "r", [size(rung.mean("memory_bytes")) for rung in rungs]),
        ("device", "l", [listed(_devices(rung)) for rung in rungs] if len(devices) > 1 else []),
    ]
    yield table(columns, f"Measured on {listed(sorted(devices))}." if len(devices) == 1 else "")
    yield from _cost_plot(ladder)


def _devices(rung: Rung) -> list[str]:
    return list(dict.fromkeys(one_line(run.device) for run in rung.runs if run.device.strip()))


def _cost_plot(ladder: Ladder) -> Iterator[Figure]:
    rungs = [rung for rung in ladder.rungs if rung.values("accuracy")]
    names = {"train_seconds": "training time in seconds", "flops": "FLOPs per image, forward"}
    costs = {title: _column(rungs, name) for name, title in names.items()}
    costs = {title: cost for title, cost in costs.items() if (cost > 0).any()}
    if len(rungs) < 2 or not costs:
        return
    intervals = np.array([rung.interval or (np.nan, np.nan) for rung in rungs])
    classes = len(ladder.label_names)
    yield Figure(
        "accuracy-against-cost",
        f"Test accuracy of {listed([rung.title for rung in rungs])} against {listed(list(costs))}",
        partial(
            plots.accuracy_against_cost,
            [rung.title for rung in rungs],
            _column(rungs, "accuracy"),
            intervals,
            costs,
            1 / classes if classes else None,
        ),
        "The line joins the models that nothing as cheap beats; hollow ones are beaten. Bars are 95% intervals, the "
        "dotted line is guessing.",
    )


def _column(rungs: list[Rung], name: str) -> Array:
    return np.array([np.nan if (value := rung.mean(name)) is None else value for rung in rungs])


def _learning(ladder: Ladder) -> Iterator[Block]:
    curves = {_label(rung): rung.shown.curve for rung in ladder.rungs if rung.shown.curve}
    scored = {name: curve for name, curve in curves.items() if known(row.get("val_score") for row in curve)}
    others = [name for name in curves if name not in scored]
    without = f" Not shown, for nothing is held out for them: {listed(others)}." if others else ""
    if scored:
        yield Figure(
            "learning",
            f"Validation accuracy of {listed(list(scored))} after each epoch",
            partial(plots.curves, scored),
            f"Accuracy on validation images, which training does not see, after each epoch.{without}",
        )


def _label(rung: Rung) -> str:
    return one_line(rung.title)


def _classes(ladder: Ladder, judged: list[Rung]) -> Iterator[Block]:
    if not judged:
        return
    shares = np.array([judging.per_class(ladder, rung) for rung in judged])
    models, names = [rung.title for rung in judged], list(ladder.label_names)
    yield Figure(
        "classes",
        f"Accuracy of {listed(models)} on each of {plural(len(names), 'class').replace('classs', 'classes')}",
        partial(plots.per_class, shares, models, names),
        "Percentage of each class's test images that are right." if len(names) <= _NAMES_IN_TABLE else "",
    )
    if len(names) > _NAMES_IN_TABLE:
        yield from _hardest(ladder, judged, shares)


def _hardest(ladder: Ladder, judged: list[Rung], shares: Array) -> Iterator[Block]:
    best = max(range(len(judged)), key=lambda index: _accuracy_of(judged[index]))
    ranked = np.argsort(np.where(np.isfinite(shares[best]), shares[best], np.inf), kind="stable")[:HARDEST]
    columns = [(rung.title, "r", [percent(shares[row, k]) for k in ranked]) for row, rung in enumerate(judged)]
    names = [ladder.label_names[k] for k in ranked]
    yield table(
        (("class", "l", names), *columns), f"The {len(ranked)} classes that {judged[best].title} finds hardest."
    )


def _reliability(ladder: Ladder, judged: list[Rung]) -> Iterator[Block]:
    if not judged or ladder.truth is None or len(ladder.truth) < 2 * LEAST_IN_BIN:
        return
    bins = {_label(rung): judging.reliability(ladder, rung) for rung in judged}
    yield Text(
        "Of the images that a model tags with a score of 0.8, eight in ten should be right: then its points lie on the "
        "dashed line. Below the line it is surer than it should be, above it less sure."
    )
    yield Figure(
        "reliability",
        f"Share that is right against score for {listed(list(bins))}",
        partial(plots.reliabilities, {name: (each.confidence, each.right) for name, each in bins.items()}),
        "Every point stands for about as many test images; equal scores stay together.",
    )


def _making(ladder: Ladder) -> Iterator[Block]:
    if ladder.command.strip():
        yield Listing(ladder.command.strip())
    if ladder.models and (best := _best(ladder)):
        yield Text(
            "Every model is a checkpoint in the report's folder. The best of them tags other images; copy it to where "
            "another call of the command above does not replace it:"
        )
        yield Listing(f"tagger tag FOLDER --model {ladder.models}/{best.model}-{best.shown.seed} --out RESULTS")
    versions = {name: version for run in ladder.runs for name, version in run.versions.items()}
    seeds = sorted({run.seed for run in ladder.runs})
    facts = {
        "Data": ladder.data,
        "Mind": _sentence(ladder.note),
        "Machine": ladder.machine,
        "Devices": listed(sorted({device for rung in ladder.rungs for device in _devices(rung)})),
        "Versions": ", ".join(f"{name} {version}" for name, version in sorted(versions.items())),
        "Seeds": listed([str(seed) for seed in seeds]),
    }
    notes = [(rung.title, note) for rung in ladder.rungs for note in _notes(rung)]
    lines = [(name, one_line(text)) for name, text in (*facts.items(), *notes) if text.strip()]
    if lines:
        yield Bullets(lines)
    if len(ladder.runs) > len(ladder.rungs):
        yield _every_run(ladder)


def _notes(rung: Rung) -> list[str]:
    return list(dict.fromkeys(one_line(run.note) for run in rung.runs if run.note.strip()))


def _every_run(ladder: Ladder) -> Block:
    runs = [run for rung in ladder.rungs for run in rung.runs]
    ends: list[tuple[Number, Number]] = [run.interval for run in runs]
    sure = [interval((low, high)) if low is not None and high is not None else UNKNOWN for low, high in ends]
    return table(
        (
            ("model", "l", [run.title or run.model for run in runs]),
            ("seed", "r", [str(run.seed) for run in runs]),
            ("test accuracy", "r", [percent(run.accuracy) for run in runs]),
            ("95% interval", "r", sure),
            ("epochs", "r", [count(run.epochs) for run in runs]),
            ("training time", "r", [duration(run.train_seconds) for run in runs]),
        ),
        "Every run.",
    )
