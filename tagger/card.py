"""The model card: what a checkpoint can do, tag by tag, and how it was made, as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MOST_TAGS = 60
"""A longer table is cut; tagger.json has all of it."""


@dataclass(frozen=True)
class TagRow:
    """A line of the table per tag; None where there was nothing to count."""

    tag: str
    images: Mapping[str, int]
    """Split -> images with the label"""
    precision: float | None
    recall: float | None
    average_precision: float | None
    threshold: float
    status: str
    """ok, too few, or not reached"""
    needed: int | None
    """Validation images that are missing for a threshold that can be trusted"""


@dataclass(frozen=True)
class CardFacts:
    """Everything a card says."""

    name: str
    out: str
    task: str
    architecture: str
    backbone: str
    method: str
    headlines: Mapping[str, str]
    """Split -> its number with interval, the reported one first"""
    images: Mapping[str, int]
    """Split -> images"""
    tags: Sequence[TagRow]
    precision_target: float
    temperature: float
    calibration_error: tuple[float | None, float | None]
    """Before and after the temperature, on the reported split"""
    warnings: Sequence[str]
    plots: Mapping[str, str]
    """Title -> file"""
    command: str
    config: Mapping[str, Any]
    fingerprint: str
    seconds: float
    device: str
    versions: Mapping[str, str]


def card(facts: CardFacts) -> str:
    """Return the card."""
    parts = (
        _head(facts),
        _use(facts),
        _tags(facts),
        _calibration(facts),
        _warnings(facts),
        _plots(facts),
        _made(facts),
    )
    return "\n\n".join(part for part in parts if part) + "\n"


def _head(facts: CardFacts) -> str:
    made = {"probe": "a linear head on the frozen features of", "finetune": "fine-tuned from"}[facts.method]
    kind = "each image may have several" if facts.task == "multilabel" else "each image has one"
    lines = [
        f"**{split}: {text}**" if n == 0 else f"{split}: {text}"
        for n, (split, text) in enumerate(facts.headlines.items())
    ]
    return (
        f"# {facts.name}\n\nTells apart {len(facts.tags):,} tags, of which {kind}: {made} `{facts.backbone}` "
        f"({facts.architecture}).\n\n"
        + "  \n".join(lines)
        + "\n\nIntervals are 95%. The test images were scored once, "
        "after everything had been decided on the validation images."
    )


def _use(facts: CardFacts) -> str:
    return (
        f"## Use it\n\n    tagger tag FOLDER --model {facts.out} --out results\n\n"
        f'or in plain timm: `timm.create_model("local-dir:{facts.out}", pretrained=True)`.'
    )


def _tags(facts: CardFacts) -> str:
    rows = sorted(facts.tags, key=lambda row: -sum(row.images.values())) if len(facts.tags) > MOST_TAGS else facts.tags
    splits = list(facts.images)
    titles = [
        "tag",
        *(f"{split} images" for split in splits),
        "precision",
        "recall",
        "average precision",
        "threshold",
        "",
    ]
    lines = [_line(titles), "|---|" + "--:|" * (len(titles) - 2) + "---|"]
    lines += [_line(_cells(row, splits)) for row in rows[:MOST_TAGS]]
    cut = f"\n\nThe {MOST_TAGS} tags with most images of {len(rows):,}; `tagger.json` has all." * (
        len(rows) > MOST_TAGS
    )
    return (
        f"## Tags\n\nA tag is given where its score reaches its threshold: the lowest from which, with 95% "
        f"confidence, at least {facts.precision_target:.0%} of the images given it have it. Precision and recall "
        f"are those of the {next(iter(facts.headlines))} images at that threshold.\n\n" + "\n".join(lines) + cut
    )


def _cells(row: TagRow, splits: Sequence[str]) -> list[str]:
    said = {
        "ok": "",
        "too few": f"too few examples: {row.needed or 'some'} more for validation",
        "not reached": "precision not reached",
    }[row.status]
    numbers = [_share(row.precision), _share(row.recall), _share(row.average_precision), f"{row.threshold:.3f}"]
    return [row.tag, *(f"{row.images.get(split, 0):,}" for split in splits), *numbers, said]


def _calibration(facts: CardFacts) -> str:
    before, after = (("" if value is None else f"{value:.3f}") for value in facts.calibration_error)
    return (
        f"Scores are divided by a temperature of {facts.temperature:.2f}, which takes the expected calibration "
        f"error from {before} to {after}."
    )


def _warnings(facts: CardFacts) -> str:
    return "## To know\n\n" + "\n".join(f"- {_escaped(line)}" for line in facts.warnings) if facts.warnings else ""


def _plots(facts: CardFacts) -> str:
    return "\n\n".join(f"## {title}\n\n![{title}]({file})" for title, file in facts.plots.items())


def _made(facts: CardFacts) -> str:
    options = ", ".join(f"{name} {value}" for name, value in facts.config.items() if name not in ("backbone", "device"))
    versions = ", ".join(f"{name} {version}" for name, version in facts.versions.items())
    return (
        f"## How it was made\n\n    {facts.command}\n\nin {facts.seconds:.0f} s on {facts.device}. Data fingerprint "
        f"`{facts.fingerprint}`; which image was in which split is in `dataset.parquet`.\n\n{options}.\n\n{versions}."
    )


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(_escaped(cell) for cell in cells) + " |"


def _escaped(text: str) -> str:
    return " ".join(text.replace("\\", "\\\\").replace("|", "\\|").split())


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"
