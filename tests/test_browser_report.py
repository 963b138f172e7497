"""A real browser opens the report: nothing is fetched, nothing is missing, nothing runs off the side."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from benchmark_reports import report
from pictures import MODEL, photo

import tagger
from tagger.reporting import drift_report, results_report
from tagger.reporting.benchmark_report import html

LONG = ["<script>alert(1)</script>", "Lopadotemachoselachogaleokranioleipsanodrimhypotrimmato" * 3, "🐸 frog"]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report with every kind of figure and names that do not fit a line."""
    file = tmp_path_factory.mktemp("report") / "report.html"
    made = report(models=("knn", "linear", "mlp", "speedrun"), names=LONG, dataset=LONG[1], machine=LONG[1])
    file.write_text(html(made), encoding="utf-8")
    return file


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_the_report_opens_whole_and_quietly(browser: Any, page: Path, width: int, scheme: str) -> None:
    tab = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    messages: list[str] = []
    fetched: list[str] = []
    tab.on("console", lambda message: messages.append(message.text))
    tab.on("pageerror", lambda error: messages.append(str(error)))
    tab.on("requestfailed", lambda request: messages.append(f"failed: {request.url[:80]}"))
    tab.on("request", lambda request: fetched.append(request.url[:80]))
    tab.goto(page.as_uri())
    widths = tab.evaluate("Array.from(document.images, image => image.complete && image.naturalWidth)")
    overflow = tab.evaluate("document.documentElement.scrollWidth - window.innerWidth")
    paper = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    tab.close()
    assert messages == []
    assert [url for url in fetched if not url.startswith("data:")] == [page.as_uri()[:80]]
    assert len(widths) >= 14
    assert all(widths)
    assert overflow <= 0
    assert (paper == "rgb(255, 255, 255)") == (scheme == "light")


@pytest.fixture(scope="module")
def pages(page: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The report of a benchmark, and those of a results table with images, failures, copies and a second run."""
    folder = tmp_path_factory.mktemp("results")
    (folder / "photos").mkdir()
    (folder / "photos" / "bad.jpg").write_bytes(b"junk")
    for run in range(2):
        for index in range(20):
            photo(index + 10 * run).save(folder / "photos" / f"{run}-{index}.jpg")
        tagger.tag(folder / "photos", MODEL, folder / "out", tagger.TagConfig(device="cpu"))
    results_report.write(folder / "out", folder / "report.html")
    drift_report.write(folder / "out", folder / "drift.html")
    return [page, folder / "report.html", folder / "drift.html"]


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_the_reports_are_accessible(browser: Any, pages: list[Path], violations: Any, width: int, scheme: str) -> None:
    for each in pages:
        tab = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        tab.goto(each.as_uri())
        assert violations(tab) == "", each.name
        tab.close()


def test_the_contents_lead_to_their_sections(browser: Any, page: Path) -> None:
    tab = browser.new_page(viewport={"width": 1280, "height": 900})
    tab.goto(page.as_uri())
    tab.get_by_role("link", name="Reproducing this report").click()
    assert "#section-" in tab.url
    assert tab.get_by_role("heading", name="Reproducing this report").is_visible()
    tab.close()


def test_the_report_prints_on_pages_of_paper(browser: Any, page: Path) -> None:
    tab = browser.new_page()
    tab.goto(page.as_uri())
    printed = tab.pdf(format="A4")
    tab.close()
    assert printed.startswith(b"%PDF")
    assert printed.count(b"/Type /Page\n") >= 4
