"""The model card says the numbers, with sensible digits, in Markdown that no name can break."""

from __future__ import annotations

import re
from dataclasses import replace

from tagger.checkpoint.card import LONGEST_TABLE, CardFacts, TagFacts, card

TAGS = (
    TagFacts("bees", 83, 20, 21, 0.95238, 0.9, 0.97123, 0.4312),
    TagFacts("ants|wasps", 1200, 3, 4, status="too few", needed=10),
    TagFacts("moths", 70, 30, 31, 0.7, 0.1, 0.52, None, status="not reached"),
)
FACTS = CardFacts(
    name="insects",
    task="multilabel",
    architecture="mobilenetv2_100",
    backbone="timm/mobilenetv2_100.ra_in1k",
    method="probe",
    label_names=("bees", "ants|wasps", "moths"),
    images={"train": 1353, "validation": 53, "test": 56},
    headlines={
        "validation": "mean average precision 0.81 (95% interval 0.74 to 0.87)",
        "test": "mean average precision 0.79 (95% interval 0.71 to 0.86)",
    },
    command="tagger train m.parquet --model timm/mobilenetv2_100.ra_in1k \\\n    --out checkpoints/insects",
    config={"epochs": 20, "pattern": "a|b"},
    fingerprint="0123456789abcdef",
    seconds=754.3,
    device="2 CPU cores",
    versions={"tagger": "0.1.0", "torch": "2.6.0"},
    tags=TAGS,
    calibration_error=(0.08312, 0.02149),
    temperature=1.4567,
    precision_target=0.9,
    warnings=("ants|wasps: 3 validation images",),
    plots={"Confusion matrix": "confusion matrix.png"},
)


def cells(markdown: str) -> list[list[str]]:
    """Return the cells of every table row, split as GitHub does: at pipes without a backslash."""
    rows = [line for line in markdown.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]] for row in rows]


def test_the_card_opens_with_the_test_result() -> None:
    title, _, first = card(FACTS).splitlines()[:3]
    assert title == "# insects"
    assert first == (
        "A linear classifier on the frozen features of `timm/mobilenetv2_100.ra_in1k` that gives each image any of "
        "3 tags: **mean average precision 0.79 (95% interval 0.71 to 0.86)** on 56 images of the test split."
    )


def test_the_card_says_what_its_numbers_count() -> None:
    assert "accuracy counts the best tag whatever its score" in card(replace(FACTS, task="multiclass"))
    assert "whatever its score" not in card(FACTS)
    assert "no better: it was learnt on the validation split" in card(replace(FACTS, calibration_error=(0.02, 0.03)))
    assert "no better" not in card(FACTS)


def test_without_a_test_split_the_headline_is_the_validation_result() -> None:
    text = card(replace(FACTS, headlines={"validation": "accuracy 91%"}, task="multiclass", method="finetune"))
    assert "fine-tuned from `timm/mobilenetv2_100.ra_in1k`, that gives each image one of 3 tags" in text
    assert "**accuracy 91%** on 53 images of the validation split." in text
    assert "the test split was used once" not in text


def test_each_tag_has_its_row_with_three_digits_and_its_status() -> None:
    rows = {row[0]: row[1:] for row in cells(card(FACTS)) if len(row) == 9}
    assert rows["bees"] == ["83", "20", "21", "0.952", "0.900", "0.971", "0.431", "ok"]
    assert rows[r"ants\|wasps"] == ["1,200", "3", "4", *"––––", "too few: 3 of 10 validation images"]
    assert rows["moths"][-2:] == ["–", "not reached"]


def test_calibration_and_the_precision_asked_for_are_said() -> None:
    text = card(FACTS)
    assert "temperature of 1.46" in text
    assert "0.083 before calibration, 0.021 after" in text
    assert "precision of at least 0.9" in text


def test_the_card_says_how_to_use_and_how_it_was_made() -> None:
    text = card(FACTS)
    assert "tagger tag PHOTOS --model insects --out results" in text
    assert "timm.create_model('local-dir:insects', pretrained=True)" in text
    assert (
        "    tagger train m.parquet --model timm/mobilenetv2_100.ra_in1k \\\n        --out checkpoints/insects" in text
    )
    assert "13 min on 2 CPU cores" in text
    assert "`0123456789abcdef`" in text
    assert "tagger 0.1.0, torch 2.6.0" in text
    assert "![Confusion matrix](confusion%20matrix.png)" in text
    assert ["`pattern`", r"`a\|b`"] in cells(text)


def test_warnings_stand_before_everything_else() -> None:
    text = card(FACTS)
    assert text.index("3 validation images") < text.index("## How to use")
    assert "Mind this" not in card(replace(FACTS, warnings=()))


def test_every_table_row_has_as_many_cells_as_its_header() -> None:
    names = ["a|b", "`x`", "$m$", "_u_", "<b>", "two\nlines", "back\\slash|", "猫", ""]
    text = card(replace(FACTS, tags=[TagFacts(name, 1, 2, 3) for name in names], label_names=names))
    assert sum(len(row) == 9 for row in cells(text)) == len(names) + 2
    assert {len(row) for row in cells(text)} == {2, 3, 9}
    assert "<b>" not in text.replace(r"\<b\>", "")


def test_a_long_table_shows_the_tags_with_most_images_and_says_where_the_rest_is() -> None:
    many = [TagFacts(f"tag{i}", i, 0, 0) for i in range(1500)]
    text = card(replace(FACTS, tags=many, label_names=[row.tag for row in many]))
    rows = [row for row in cells(text) if len(row) == 9][2:]
    assert [row[0] for row in rows] == [f"tag{i}" for i in range(1499, 1499 - LONGEST_TABLE, -1)]
    assert "The 60 tags with the most images; the other 1,440 are in `tagger.json`." in text
    assert "and 1,480 more, all of them in `tagger.json`" in text


def test_a_card_of_little_has_no_empty_sections() -> None:
    bare = replace(
        FACTS,
        tags=(),
        calibration_error=None,
        temperature=None,
        precision_target=None,
        warnings=(),
        plots={},
        config={},
    )
    text = card(bare)
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == ["How to use", "How good it is", "How it was made"]
    assert "None" not in text
    assert "\n\n\n" not in text
