"""The model card states the numbers in Markdown that no name can break, with front matter that the Hub reads."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest
from huggingface_hub import ModelCard

from tagger.checkpoint.card import MAX_ROWS, render


def tag(name: str, precision: float | None = 0.95238, recall: float | None = 0.9) -> dict[str, Any]:
    return {"tag": name, "precision": precision, "recall": recall, "average_precision": 0.97123}


CONFIG = {
    "architecture": "mobilenetv2_100",
    "pretrained_cfg": {"input_size": [3, 224, 192], "interpolation": "bicubic", "crop_mode": "center", "crop_pct": 0.9},
}
EVALUATION = {
    "images": 56,
    "accuracy": None,
    "mean_average_precision": 0.79,
    "mean_average_precision_interval": [0.71, 0.86],
    "tags": [tag("bees"), tag("ants|wasps"), tag("moths", None)],
}
BUNDLE: dict[str, Any] = {
    "task": "multilabel",
    "label_names": ["bees", "ants|wasps", "moths"],
    "thresholds": {"bees": 0.4312, "ants|wasps": 0.5, "moths": 0.9},
    "calibration": {
        "temperature": 1.4567, "measured_on": "test", "error_before": 0.08312, "error_after": 0.02149,
        "precision_target": 0.9,
        "tags": [
            {"tag": "bees", "status": "ok", "images": 40, "needed": 0},
            {"tag": "ants|wasps", "status": "too few", "images": 3, "needed": 7},
            {"tag": "moths", "status": "not reached", "images": 30, "needed": None},
        ],
    },
    "metrics": {"val": {**EVALUATION, "images": 53, "mean_average_precision": 0.81}, "test": EVALUATION},
    "training": {
        "command": "tagger train m.parquet --backbone timm/mobilenetv2_100.ra_in1k \\\n    --out checkpoints/insects",
        "dataset": "m.parquet", "method": "probe", "backbone": "timm/mobilenetv2_100.ra_in1k",
        "hyperparameters": {"strength": 0.1, "pattern": "a|b"},
        "images": {"train": 1353, "val": 53, "test": 56},
        "labels": {"train": {"bees": 83, "ants|wasps": 1200, "moths": 70}, "val": {"bees": 20}, "test": {"bees": 21}},
        "fingerprint": "0123456789abcdef", "warnings": ["ants|wasps: 3 validation images"], "seconds": 754.3,
        "device": "cpu", "versions": {"tagger": "0.1.0", "torch": "2.6.0"},
    },
}  # fmt: skip


def card(**changes: Any) -> str:
    """Return the card of BUNDLE, its parts changed: training__method="knn" changes one entry of a part."""
    bundle = copy.deepcopy(BUNDLE)
    for name, value in changes.items():
        part, _, entry = name.partition("__")
        if entry:
            bundle[part][entry] = value
        else:
            bundle[part] = value
    return render("insects", CONFIG, bundle, {"Confusion matrix": "confusion matrix.png"}, 2_000_000)


def cells(markdown: str) -> list[list[str]]:
    """Return the cells of every table row, split as GitHub does: at pipes without a backslash."""
    rows = [line for line in markdown.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]] for row in rows]


def section(markdown: str, title: str) -> str:
    return markdown.split(f"## {title}\n", 1)[1].split("\n## ", 1)[0]


def test_the_front_matter_is_what_the_hub_reads() -> None:
    found = ModelCard(card()).data
    assert found.library_name == "timm"
    assert found.base_model == "timm/mobilenetv2_100.ra_in1k"
    assert found.eval_results is not None
    assert (found.eval_results[0].metric_type, found.eval_results[0].metric_value) == ("mean_average_precision", 0.79)
    local = ModelCard(card(training__backbone="local-dir:/home/me/weights")).data
    assert local.base_model is None


def test_the_sections_stand_in_the_order_of_the_hub() -> None:
    titles = re.findall(r"^## (.*)$", card(), re.MULTILINE)
    assert titles == ["Model", "Usage", "Evaluation", "Limitations", "Training"]


def test_the_card_opens_with_the_model_and_its_test_result() -> None:
    first = section(card(), "Model").strip().splitlines()[0]
    assert first == (
        "A linear classifier on the frozen features of `timm/mobilenetv2_100.ra_in1k` that gives each image any of "
        "3 tags. **Mean average precision 79.0% (95% interval 71.0% to 86.0%)** on 56 test images."
    )


@pytest.mark.parametrize(
    ("method", "backbone", "start"),
    [
        ("finetune", "timm/a", "`mobilenetv2_100`, fine-tuned from `timm/a`, that gives"),
        ("scratch", None, "`mobilenetv2_100` (2,000,000 parameters), trained from scratch, that gives"),
    ],
)
def test_the_method_is_named(method: str, backbone: str | None, start: str) -> None:
    assert section(card(training__method=method, training__backbone=backbone), "Model").strip().startswith(start)


def test_without_a_test_split_the_numbers_are_those_of_validation_and_called_optimistic() -> None:
    text = card(metrics={"val": BUNDLE["metrics"]["val"]})
    assert "81.0% (95% interval 71.0% to 86.0%)** on 53 validation images" in text
    assert "There is no test split" in text
    assert "optimistic" in text


def test_each_tag_has_its_row_with_three_digits_and_the_proof_of_its_threshold() -> None:
    rows = {row[0]: row for row in cells(section(card(), "Evaluation"))}
    assert rows["bees"][1:] == ["83", "20", "21", "0.952", "0.900", "0.971", "0.431", "ok"]
    assert rows["ants\\|wasps"][-1] == "too few: 3 of 10 validation images"
    assert rows["moths"][4:] == ["–", "0.900", "0.971", "0.900", "not reached"]


def test_calibration_and_the_target_precision_are_stated() -> None:
    text = section(card(), "Evaluation")
    assert "divided by a temperature of 1.46" in text
    assert "(test): 0.083 before, 0.021 after" in text
    assert "a precision of at least 0.9" in text
    assert "not calibrated" in section(card(calibration={}, thresholds=None), "Evaluation")


def test_the_command_and_the_hyperparameters_are_stated() -> None:
    text = section(card(), "Training")
    assert (
        "    tagger train m.parquet --backbone timm/mobilenetv2_100.ra_in1k \\\n        --out checkpoints/insects"
        in text
    )
    assert "- Time: 13 min on cpu" in text
    assert "| `pattern` | `a\\|b` |" in text


def test_every_table_row_has_as_many_cells_as_its_header() -> None:
    widths: list[int] = []
    for line in card().splitlines():
        if not line.startswith("|"):
            widths = []
            continue
        widths.append(len(cells(line)[0]))
        assert len(set(widths)) == 1, line


def test_a_long_table_shows_the_tags_with_most_images_and_says_where_the_others_are() -> None:
    names = [f"tag{index}" for index in range(MAX_ROWS + 40)]
    text = card(
        label_names=names,
        metrics={"test": {**EVALUATION, "tags": [tag(name) for name in names]}},
        training__labels={"train": {name: index for index, name in enumerate(names)}},
    )
    shown = [row[0] for row in cells(section(text, "Evaluation")) if row[0].startswith("tag") and row[0] != "tag"]
    assert len(shown) == MAX_ROWS
    assert shown[0] == names[-1]
    assert f"The table has the {MAX_ROWS} tags with the most images; the others are in `tagger.json`" in text


def test_names_cannot_break_the_card() -> None:
    name = "<script>alert(1)</script>\n# heading | `code` \x1b[31m"
    text = card(
        label_names=[name], metrics={"test": {**EVALUATION, "tags": [tag(name)]}}, training__warnings=[name],
        training__dataset=name, thresholds={name: 0.5},
    )  # fmt: skip
    assert "<script>" not in text.split("\n---\n", 1)[1].replace("\\<script\\>", "")
    assert "\x1b" not in text
    assert "\n# heading" not in text
    ModelCard(text)
