"""The model card of a trained checkpoint, as Markdown."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

LONGEST_TABLE = 60
_NAMES_LISTED = 20


@dataclass(frozen=True)
class TagFacts:
    """What is known of one tag; None is written as a dash."""

    tag: str
    train: int
    """Images with this label, per split."""
    validation: int
    test: int
    precision: float | None = None
    recall: float | None = None
    average_precision: float | None = None
    threshold: float | None = None
    status: str = "ok"
    """ok | too few | not reached"""
    needed: int | None = None
    """Validation images with this label that a threshold would need."""

    @property
    def images(self) -> int:
        """Return the number of images with this label in all splits."""
        return self.train + self.validation + self.test


@dataclass(frozen=True)
class CardFacts:
    """Everything the card says; whoever trains fills it in."""

    name: str
    task: str
    """multiclass | multilabel"""
    architecture: str
    backbone: str
    """The weights training started from; empty when there were none."""
    method: str
    """probe | finetune | knn"""
    label_names: Sequence[str]
    images: Mapping[str, int]
    """Split -> images."""
    headlines: Mapping[str, str]
    """Split (validation, test) -> the metric with its interval, as text."""
    command: str
    """Exactly what was typed."""
    config: Mapping[str, Any]
    fingerprint: str
    """Of the training table."""
    seconds: float
    device: str
    versions: Mapping[str, str]
    tags: Sequence[TagFacts] = ()
    tags_measured_on: str = "test"
    """The split of their precision, recall and average precision."""
    calibration_error: tuple[float, float] | None = None
    """Before and after calibration."""
    temperature: float | None = None
    precision_target: float | None = None
    warnings: Sequence[str] = ()
    """Too few examples, classes left out, near-duplicates, files that did not decode."""
    plots: Mapping[str, str] = field(default_factory=dict)
    """Title -> file name beside the card."""


def card(facts: CardFacts) -> str:
    """Return the README.md of a checkpoint folder."""
    sections = (
        f"# {_text(facts.name)}\n\n{_introduction(facts)}",
        _section("Mind this", _bullets(map(_text, facts.warnings))),
        _section("How to use", _usage(facts)),
        _section("How good it is", _quality(facts)),
        _section("Tag by tag", _tag_table(facts)),
        _section("Plots", "\n\n".join(f"![{_text(title)}]({quote(file)})" for title, file in facts.plots.items())),
        _section("How it was made", _making(facts)),
    )
    return "\n\n".join(section for section in sections if section) + "\n"


def _section(title: str, body: str) -> str:
    return f"## {title}\n\n{body}" if body else ""


def _introduction(facts: CardFacts) -> str:
    kind = "gives each image one of" if facts.task == "multiclass" else "gives each image any of"
    split, headline = next(
        ((split, facts.headlines[split]) for split in ("test", "validation") if split in facts.headlines), ("", "")
    )
    tags = f"{len(facts.label_names):,} tag{'s' * (len(facts.label_names) != 1)}"
    result = f": **{_text(headline)}** on {_images(facts.images.get(split))} of the {split} split" if headline else ""
    return f"{_how(facts)} that {kind} {tags}{result}.\n\n{_listed(facts.label_names)}"


def _how(facts: CardFacts) -> str:
    name, start = _code(facts.architecture), _code(facts.backbone)
    if facts.method == "probe":
        return f"A linear classifier on the frozen features of {start or name}"
    if facts.method == "knn":
        k, count = facts.config["k"], facts.config["examples"]
        return f"A vote of the {k} nearest of {count:,} labelled images, by the frozen features of {start or name},"
    if facts.method == "finetune":
        return f"The network {name}, fine-tuned from {start}," if start else f"The network {name}, fine-tuned,"
    return f"The network {name}"


def _listed(names: Sequence[str]) -> str:
    listed = ", ".join(map(_text, names[:_NAMES_LISTED]))
    rest = len(names) - _NAMES_LISTED
    return f"Tags: {listed}" + (f" and {rest:,} more, all of them in `tagger.json`." if rest > 0 else ".")


def _usage(facts: CardFacts) -> str:
    tagging = f"""In the folder that holds {_code(facts.name + "/")}:

    tagger tag PHOTOS --model {shlex.quote(facts.name)} --out results"""
    return tagging if facts.method == "knn" else f"{tagging}\n\n{_with_timm(facts)}"


def _with_timm(facts: CardFacts) -> str:
    return f"""The network alone, with timm:

```python
import timm

net = timm.create_model({f"local-dir:{facts.name}"!r}, pretrained=True).eval()
```

timm gives logits; the temperature and the thresholds are in `tagger.json`, and `tagger` applies them."""


def _quality(facts: CardFacts) -> str:
    rows = [
        (split, _count(facts.images.get(split)), _text(facts.headlines.get(split, "")))
        for split in dict.fromkeys([*facts.images, *facts.headlines])
    ]
    paragraphs = [_table(("split", "images", "result"), "lrl", rows)]
    if "test" in facts.headlines:
        paragraphs.append(
            "Everything was chosen on the validation split; the test split was used once, for this table."
        )
    paragraphs.append(_calibration(facts))
    return "\n\n".join(filter(None, paragraphs))


def _calibration(facts: CardFacts) -> str:
    sentences = []
    if facts.temperature is not None:
        sentences.append(f"Logits are divided by a temperature of {facts.temperature:.3g}.")
    if facts.calibration_error is not None:
        before, after = facts.calibration_error
        worse = ", no better: it was learnt on the validation split" if after >= before else ""
        sentences.append(
            f"Expected calibration error on the {facts.tags_measured_on} split: {before:.3f} before calibration, "
            f"{after:.3f} after{worse}."
        )
    if facts.precision_target is not None:
        sentences.append(
            "A tag's threshold is, of those tried, the one with the most recall among those that the validation split "
            f"shows, with 95% confidence, to have a precision of at least {facts.precision_target:g}."
        )
    return " ".join(sentences)


def _tag_table(facts: CardFacts) -> str:
    if not facts.tags:
        return ""
    rows: Sequence[TagFacts] = facts.tags
    note = ""
    if len(rows) > LONGEST_TABLE:
        rows = sorted(rows, key=lambda row: -row.images)[:LONGEST_TABLE]
        note = (
            f"\n\nThe {LONGEST_TABLE} tags with the most images; the other {len(facts.tags) - LONGEST_TABLE:,} are in "
            "`tagger.json`."
        )
    header = ("tag", "train", "validation", "test", "precision", "recall", "average precision", "threshold", "status")
    measured = (
        f"Precision, recall and average precision are those of the {facts.tags_measured_on} split. A tag counts as "
        "given where its score reaches its threshold"
    )
    if facts.task == "multiclass":
        measured += "; accuracy counts the best tag whatever its score, and so may be well above recall"
    return f"{measured}.\n\n{_table(header, 'lrrrrrrrl', map(_tag_row, rows))}{note}"


def _tag_row(row: TagFacts) -> tuple[str, ...]:
    counts = (_count(count) for count in (row.train, row.validation, row.test))
    shares = (_share(share) for share in (row.precision, row.recall, row.average_precision, row.threshold))
    short = (
        f": {row.validation:,} of {row.needed:,} validation images" if row.needed and row.status == "too few" else ""
    )
    return (_text(row.tag), *counts, *shares, row.status + short)


def _making(facts: CardFacts) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in facts.versions.items())
    command = "\n".join(f"    {line}" for line in facts.command.strip().splitlines())
    facts_of_run = _bullets(
        (
            f"Training table: fingerprint {_code(facts.fingerprint)}",
            f"Time: {_duration(facts.seconds)} on {_text(facts.device)}",
            f"Versions: {_text(versions)}",
        )
    )
    settings = [(_code(str(name)), _code(str(value))) for name, value in facts.config.items()]
    table = f"\n\n{_table(('setting', 'value'), 'll', settings)}" if settings else ""
    return f"{command}\n\n{facts_of_run}{table}"


def _table(header: Sequence[str], sides: str, rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table; `sides` has an l or r per column."""
    rule = [{"l": "---", "r": "--:"}[side] for side in sides]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, rule, *rows))


def _bullets(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _text(text: str) -> str:
    """Return text on one line that Markdown shows as it is, inside a table too."""
    escaped = "".join("\\" + letter if letter in "\\`*_[]<>|$~#" else letter for letter in " ".join(text.split()))
    return escaped.replace("&", "&amp;")


def _code(text: str) -> str:
    """Return text as code; a table takes a pipe for a border even there, hence the backslash."""
    line = " ".join(text.split())
    if not line:
        return ""
    fence = "``" if "`" in line else "`"
    pad = " " if "`" in line else ""
    return f"{fence}{pad}{line}{pad}{fence}".replace("|", "\\|")


def _count(count: int | None) -> str:
    return "–" if count is None else f"{count:,}"


def _images(count: int | None) -> str:
    return "the images" if count is None else f"{count:,} image{'s' * (count != 1)}"


def _share(share: float | None) -> str:
    return "–" if share is None or share != share else f"{share:.3f}"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"
