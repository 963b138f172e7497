"""The report says what was measured, whatever the names, the number of models, seeds and classes."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from benchmark_reports import report
from PIL import Image

from tagger.reporting import formatting
from tagger.reporting.benchmark_report import (
    BenchmarkReport,
    Comparison,
    Run,
    html,
    markdown,
    plot_files,
)
from tagger.reporting.benchmark_report.summary import summary

HOSTILE = ["<script>alert(1)</script>", "two\nlines | \"quoted\" & 'so'", "🐸 жаба 猫 " + "long" * 40, "{{ 7 * 7 }}"]
VOID = {"meta", "link", "img", "br"}
BARE = {"neighbours": {}, "k_curves": {}, "templates": {}, "filters": {}, "mistakes": {}, "comparisons": ()}


class Page(HTMLParser):
    """Text of a page; fails on an element that is not closed or closed twice."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def images(page: Page) -> list[Image.Image]:
    """Decode all images of the page."""
    found = []
    for image in page.all("img"):
        head, _, body = (image["src"] or "").partition(",")
        assert head == "data:image/png;base64"
        assert (image["alt"] or "").strip()
        found.append(Image.open(io.BytesIO(base64.b64decode(body, validate=True))))
        found[-1].load()
        assert (str(found[-1].width), str(found[-1].height)) == (image["width"], image["height"])
    return found


def tables(text: str) -> list[list[list[str]]]:
    """Return the cells of the Markdown tables; fails on rows of unlike length."""
    found = []
    for block in re.findall(r"(?:^\|.*\|$\n?)+", text, re.MULTILINE):
        rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in block.strip().splitlines()]
        assert {len(row) for row in rows} == {len(rows[0])}
        assert all(re.fullmatch(r" (:--|--:) ", cell) for cell in rows[1])
        found.append([[cell.strip() for cell in row] for row in (rows[0], *rows[2:])])
    return found


@pytest.fixture(scope="module")
def whole() -> Page:
    return Page(html(report(seeds=2)))


def test_the_page_shows_every_figure_in_order(whole: Page) -> None:
    alts = " ".join(image["alt"] or "" for image in whole.all("img"))
    order = [
        *(
            "against cost",
            "after each epoch",
            "on each of 3 classes",
            "Accuracy against score",
            "nearest training",
        ),
        *("Weights of 3 classes", "filters of MLP", "filters of CNTK ConvNet", "most confident mistakes"),
    ]
    assert [alts.index(words) for words in order] == sorted(alts.index(words) for words in order)
    assert alts.count("Confusion matrix") == 5
    assert len(images(whole)) == 19


def test_every_entry_of_the_contents_leads_to_a_heading(whole: Page) -> None:
    sections_of_page = [section["id"] for section in whole.all("section")]
    assert [(link["href"] or "")[1:] for link in whole.all("a")] == sections_of_page
    assert len(set(sections_of_page)) == len(sections_of_page) == 11


def test_the_page_needs_nothing_but_itself(whole: Page) -> None:
    assert not whole.all("script")
    sources = [value for _, attributes in whole.tags for name, value in attributes.items() if name in ("src", "href")]
    assert all((value or "").startswith(("data:", "#")) for value in sources)


def test_the_page_says_what_markdown_says(whole: Page) -> None:
    for text in (whole.text, markdown(report(seeds=2))):
        for words in (
            *("A JPEG copy.", "mean over 2 seeds", "Early stopping.", "tagger benchmark cifar10 --out report"),
            *("ResNet-110", "93.6%", "sigmoid", "48.0%", "torch 2.9"),
        ):
            assert words in text


@pytest.mark.parametrize("seeds", [1, 5])
def test_the_table_stands_beside_published_numbers(seeds: int) -> None:
    header, *rows = tables(markdown(report(seeds=seeds)))[0]
    assert ("spread" in header) == (seeds > 1)
    published = {row[0].strip("*"): row[header.index("published")] for row in rows}
    assert {name for name, share in published.items() if not share} == {
        "Nearest neighbours",
        "Linear",
        "MLP",
        "Speed run",
    }
    assert (published["CNTK ConvNet"], published["ResNet-110"]) == ("82.0%", "93.6%")
    assert [row[0] for row in rows if row[0].startswith("**")] == ["**Speed run**"]


def test_several_seeds_give_mean_and_sample_deviation() -> None:
    text = markdown(runs(("mlp", 0.5, 10, 1e6), ("mlp", 0.6, 10, 1e6)))
    assert "right on 55.0% of 100 test images (95% interval 54.0–56.0%; mean of 2 seeds, ± 7.07 points)." in text
    assert [row[0] for row in tables(text)[-1]] == ["model", "mlp", "mlp"]


def run(name: str, right: np.ndarray, seconds: float, flops: float, seed: int = 0) -> Run:
    """Return a run that is right on some of the test images, all of which have the first of two labels."""
    share, scores = float(right.mean()), np.stack([right, 1 - right], axis=1)
    return Run(name, name, share, (share - 0.01, share + 0.01), scores, seconds, flops, seed)


def runs(*figures: tuple[str, float, float, float]) -> BenchmarkReport:
    made = [
        run(name, (np.arange(100) < round(100 * accuracy)).astype(int), seconds, flops, seed)
        for seed, (name, accuracy, seconds, flops) in enumerate(figures)
    ]
    return BenchmarkReport("mine", made, ["a", "b"], np.zeros(100, dtype=int))


def test_the_summary_says_what_the_best_model_costs() -> None:
    text = summary(runs(("linear", 0.4, 10, 1e6), ("slow", 0.39, 30, 1e8), ("cnn", 0.8, 130, 5e7)))
    assert (
        "It gains 40.0 points over linear, the best of those that train faster, for 2 min 0 s more training "
        "(3.0 s per point, 50 times the FLOPs per image)." in text
    )
    assert "chance" not in text


def test_the_summary_doubts_a_difference_that_is_not_significant() -> None:
    truth = np.zeros(200, dtype=int)

    def compared(gained: int, lost: int) -> str:
        """Compare models on 200 images, 100 of them right for both; the others differ by `gained` and `lost`."""
        right = np.repeat([[1, 1], [0, 1], [1, 0], [0, 0]], [100, gained, lost, 100 - gained - lost], axis=0)
        made = [run("linear", right[:, 0], 10, 1e6), run("cnn", right[:, 1], 130, 1e6)]
        return summary(BenchmarkReport("mine", made, ["a", "b"], truth))

    assert "the difference may be chance (McNemar's test, p = 0.50)." in compared(30, 24)
    assert "chance" not in compared(8, 0)  # p = 0.008, though each accuracy alone is good to seven points


def test_the_summary_says_when_no_bigger_model_pays() -> None:
    assert "no larger model pays off" in summary(runs(("linear", 0.9, 10, 1e6), ("cnn", 0.8, 130, 5e7)))


def test_of_equals_the_fastest_to_train_is_the_best() -> None:
    text = summary(runs(("cnn", 0.8, 130, 5e7), ("linear", 0.8, 10, 1e6), ("mlp", 0.7, 20, 1e6)))
    assert text.startswith("linear is right on 80.0%")
    assert "the best (with cnn) of the 3 models. It is also the fastest" in text


def cut(report: BenchmarkReport, **amounts: str) -> BenchmarkReport:
    """Return the report with these models cut: name -> what the budget cut."""
    return replace(report, runs=[replace(run, cut=amounts.get(run.model, "")) for run in report.runs])


THREE = runs(("linear", 0.4, 10, 1e6), ("mlp", 0.5, 20, 1e7), ("cnn", 0.8, 130, 5e7))


@pytest.mark.parametrize(
    ("amounts", "first"),
    [
        ({}, "cnn is right on 80.0% of 100 test images (95% interval 79.0–81.0%), the best of the 3 models. "),
        (
            {"cnn": "2 of 164 epochs"},
            "mlp is right on 50.0% of 100 test images (95% interval 49.0–51.0%), the best of the 2 models trained in "
            "full; cnn was cut by the budget (2 of 164 epochs) and is not compared. ",
        ),
        (
            {"cnn": "2 of 164 epochs", "linear": "359 of 1,767 training images"},
            "mlp is right on 50.0% of 100 test images (95% interval 49.0–51.0%), the only model trained in full; "
            "linear and cnn were cut by the budget (359 of 1,767 training images; 2 of 164 epochs) and are not "
            "compared. ",
        ),
    ],
)
def test_the_first_sentence_compares_only_models_trained_in_full(amounts: dict[str, str], first: str) -> None:
    assert summary(cut(THREE, **amounts)).startswith(first)


def test_the_summary_says_first_that_all_models_were_cut() -> None:
    amounts = dict.fromkeys(("linear", "mlp", "cnn"), "2 of 9 epochs")
    assert summary(cut(THREE, **amounts)) == (
        "All 3 models were cut by the budget and are not compared: linear (2 of 9 epochs) is right on 40.0% of 100 "
        "test images, mlp (2 of 9 epochs) on 50.0% and cnn (2 of 9 epochs) on 80.0%."
    )
    alone = cut(runs(("cnn", 0.8, 130, 5e7)), cnn="2 of 9 epochs")
    assert summary(alone).startswith("The only model was cut by the budget: cnn (2 of 9 epochs) is right on 80.0%")


def test_a_cut_model_that_is_ahead_is_named_only_as_cut() -> None:
    assert "Even cut (2 of 9 epochs), cnn is right on 80.0%." in summary(cut(THREE, cnn="2 of 9 epochs"))
    assert "Even cut" not in summary(cut(THREE, linear="2 of 9 epochs"))


def test_the_price_of_the_best_model_is_over_models_trained_in_full() -> None:
    assert "10.0 points over linear, " in summary(cut(THREE, cnn="2 of 9 epochs"))
    assert "40.0 points over linear, " in summary(cut(THREE, mlp="2 of 9 epochs"))
    assert "points over" not in summary(cut(THREE, mlp="2 of 9 epochs", linear="1 of 9 epochs"))


def test_cut_models_are_marked_and_never_the_best() -> None:
    text = markdown(cut(THREE, cnn="2 of 9 epochs"))
    header, *rows = tables(text)[0]
    marked = {row[0]: row[header.index("† cut by the budget")] for row in rows}
    assert marked == {"linear": "", "**mlp**": "", "cnn †": "2 of 9 epochs"}
    assert "**cnn" not in text
    assert "><strong>cnn" in html(THREE)
    assert html(cut(THREE, linear="1", mlp="1", cnn="1")).count("<strong>") == 1  # of the summary


def test_the_section_of_a_cut_model_begins_with_what_was_cut() -> None:
    text = markdown(cut(report(), convnet="3 of 30 epochs"))
    assert "## CNTK ConvNet\n\nCut by the budget: 3 of 30 epochs." in text
    assert "## MLP\n\nSeveral layers of weighted sums" in text


def test_one_cut_seed_makes_a_model_cut() -> None:
    made = runs(("mlp", 0.5, 10, 1e6), ("mlp", 0.6, 10, 1e6), ("linear", 0.4, 5, 1e6))
    shorter = replace(made, runs=[replace(made.runs[0], cut="2 of 9 epochs"), *made.runs[1:]])
    assert summary(shorter).startswith("linear is right on 40.0%")


def test_hostile_names_stand_there_as_text() -> None:
    made = report(
        models=("linear", "speedrun"), names=[*HOSTILE, "cat"], dataset=HOSTILE[3], note=HOSTILE[1], command=HOSTILE[0]
    )
    runs = [replace(run, title=HOSTILE[k], device=HOSTILE[0], cut=HOSTILE[k]) for k, run in enumerate(made.runs)]
    titled = replace(made, runs=runs)
    page = Page(html(titled))
    assert not page.all("script")
    assert HOSTILE[0] in page.text
    assert HOSTILE[3] in page.text
    images(page)
    assert [len(table) for table in tables(markdown(titled))] == [5, 3, 3]  # the names break no row
    prose = re.sub(r"(?m)^    .*$", "", markdown(titled))  # without what was typed, which is code
    assert "<script" not in prose.replace("\\<script", "")


def test_control_characters_of_names_are_visible() -> None:
    made = report(models=("linear",), names=["\x1b[31mred", "\u202egreen", "blue"], dataset="\x1b]0;", **BARE)
    for text in (markdown(made, "plots"), html(made)):
        assert "\x1b" not in text
        assert "\u202e" not in text


@pytest.mark.parametrize(("classes", "seeds"), [(2, 1), (2, 3), (200, 2)])
def test_few_and_many_classes(classes: int, seeds: int) -> None:
    made = report(models=("linear",), seeds=seeds, names=[f"class {k}" for k in range(classes)], **BARE)
    page = Page(html(made))
    assert all(100 < image.width < 1400 for image in images(page))
    assert ("lowest accuracy" in page.text) == (classes == 200)


def test_no_run_at_all_is_said() -> None:
    assert (
        "No model has been evaluated yet." in Page(html(BenchmarkReport("mine", [], ["a", "b"], np.array([0, 1])))).text
    )
    assert markdown(BenchmarkReport("mine", [], ["a", "b"], np.array([0, 1]))).count("#") == 1


def test_a_comparison_of_no_known_model_is_not_lost() -> None:
    made = report(models=("linear",), comparisons=[Comparison("losses", [("softmax", 0.4, ""), ("sigmoid", 0.39, "")])])
    assert "losses" in markdown(made)


def test_markdown_shows_the_files_of_the_plots() -> None:
    made = report(models=("linear", "mlp"))
    linked = re.findall(r"!\[.*?\]\(plots/(.*?)\)", markdown(made, "plots"))
    files = dict(plot_files(made))
    assert linked == list(files)
    assert all(png.startswith(b"\x89PNG") for png in files.values())
    assert "![" not in markdown(made)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (formatting.duration(0), "0 s"),
        (formatting.duration(0.0126), "0.013 s"),
        (formatting.duration(119.6), "2 min 0 s"),
        (formatting.duration(140), "2 min 20 s"),
        (formatting.duration(12_000), "3 h 20 min"),
        (formatting.quantity(1_160_000), "1.16 million"),
        (formatting.quantity(30_730), "30,730"),
        (formatting.size(1.24e9), "1.2 GB"),
        (formatting.rate(0.25), "0.25"),
        (formatting.percent(float("nan")), "–"),
        (formatting.interval((0.881, 0.894)), "88.1–89.4%"),
        (formatting.listed(["a", "b", "c"]), "a, b and c"),
        (formatting.listed(["MLP, ReLU", "kNN", "c"]), "MLP, ReLU; kNN and c"),
    ],
)
def test_numbers_are_written_for_readers(text: str, expected: str) -> None:
    assert text == expected


def test_figures_that_were_drawn_for_files_are_not_drawn_again_for_the_page() -> None:
    made = report(models=("linear",))
    drawn = {name: png + name.encode() for name, png in plot_files(made)}
    page = html(made, drawn)
    assert page.count("data:image/png;base64,") == len(drawn) > 3
    assert all(base64.b64encode(content).decode() in page for content in drawn.values())
