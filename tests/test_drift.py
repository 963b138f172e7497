"""Drift: silent on halves of the same images, loud on other ones, from the results table alone."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from pictures import MODEL
from PIL import Image, ImageFilter

import tagger
from tagger import schema
from tagger.errors import DriftFound, UsageError
from tagger.evaluation import drift as tests
from tagger.evaluation.metrics import Array
from tagger.reporting import drift_report
from tagger.tagging import drift, results

Run = Callable[..., subprocess.CompletedProcess[str]]
IMAGES, PAGES = 600, 60


def scene(seed: int) -> Image.Image:
    """Discs on a smooth ground."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(60, 220, (3, 3, 3), dtype=np.uint8))
    pixels = np.asarray(coarse.resize((48, 48), Image.Resampling.BICUBIC)).astype(float)
    y, x = np.mgrid[:48, :48]
    for _ in range(3):
        left, top, radius = *rng.uniform(8, 40, 2), rng.uniform(4, 14)
        pixels[(x - left) ** 2 + (y - top) ** 2 < radius**2] = rng.integers(0, 255, 3)
    return Image.fromarray(np.clip(pixels + rng.normal(0, 6, pixels.shape), 0, 255).astype(np.uint8))


def page(seed: int) -> Image.Image:
    """Lines of black words on white paper."""
    rng = np.random.default_rng(seed)
    pixels = np.full((48, 48, 3), 245, dtype=np.uint8)
    for top in range(4 + seed % 4, 44, 6):
        words = np.repeat(rng.random(12) < 0.75, 4)
        pixels[top : top + 3, words] = rng.integers(0, 60)
    return Image.fromarray(pixels)


CHANGES: dict[str, Callable[[Image.Image], tuple[Image.Image, int]]] = {
    "blurred": lambda image: (image.filter(ImageFilter.GaussianBlur(1.5)), 92),
    "darkened": lambda image: (image.point(lambda value: value * 0.35), 92),
    "recompressed": lambda image: (image, 30),
}


def save(image: Image.Image, path: Path, quality: int = 92) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, quality=quality)


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> dict[str, pa.Table]:
    """Rows of tagged images: the same scenes as they are, blurred, darkened and recompressed; pages of text."""
    folder = tmp_path_factory.mktemp("drift")
    for seed in range(IMAGES):
        image = scene(seed)
        save(image, folder / "photos" / "same" / f"{seed}.jpg")
        if seed % 2:
            for name, change in CHANGES.items():
                changed, quality = change(image)
                save(changed, folder / "photos" / name / f"{seed}.jpg", quality)
    for seed in range(PAGES):
        save(page(seed), folder / "photos" / "pages" / f"{seed}.jpg")
    tagger.tag(folder / "photos", MODEL, folder / "out", tagger.TagConfig(embeddings=True))
    rows = results.read_table(folder / "out")
    kinds = pa.array([uri.split("/")[-2] for uri in rows["uri"].to_pylist()])
    return {kind: rows.filter(pc.equal(kinds, kind)) for kind in ("same", "pages", *CHANGES)}


def write_run(out: Path, run: int, rows: pa.Table, **columns: object) -> None:
    """Write rows as the part of a run."""
    values = {"run_id": f"{run:08d}-aa", "tagged_at": datetime(2026, run, 1, tzinfo=UTC), **columns}
    for name, value in values.items():
        place = rows.schema.get_field_index(name)
        rows = rows.set_column(
            place, schema.RESULTS.field(name), pa.array([value] * len(rows), schema.RESULTS.field(name).type)
        )
    out.mkdir(exist_ok=True)
    name = f"part-{run:08d}-aa-{len(list(out.iterdir())):05d}.parquet"
    (out / name).write_bytes(schema.serialise(rows, "results"))


def halves(rows: pa.Table, seed: int) -> tuple[pa.Table, pa.Table]:
    order = np.random.default_rng(seed).permutation(len(rows))
    return rows.take(order[: len(rows) // 2]), rows.take(order[len(rows) // 2 :])


def compared(out: Path, reference: Iterable[pa.Table], current: Iterable[pa.Table]) -> drift.Drift:
    for run, tables in enumerate((reference, current), 1):
        write_run(out, run, pa.concat_tables(tables))
    return drift.compare(out)


@pytest.mark.slow
def test_ten_random_halves_of_the_same_images_raise_no_alarm(pool: dict[str, pa.Table], tmp_path: Path) -> None:
    for seed in range(10):
        one, other = halves(pool["same"], seed)
        found = compared(tmp_path / str(seed), [one], [other])
        found.check()
        assert len(found.figures) >= 7
        assert not found.drifted


def every_second(rows: pa.Table, first: int) -> pa.Table:
    """The scenes of even or of odd numbers."""
    return rows.filter(pa.array([int(Path(uri).stem) % 2 == first for uri in rows["uri"].to_pylist()]))


FOUND = {
    "pages": {"unlike the reference"},
    "blurred": {"tags", "embeddings", "bytes per pixel"},
    "darkened": {"tags", "embeddings", "bytes per pixel"},
    "recompressed": {"embeddings", "bytes per pixel"},
}


@pytest.mark.parametrize("kind", FOUND)
def test_other_and_changed_images_raise_an_alarm(pool: dict[str, pa.Table], tmp_path: Path, kind: str) -> None:
    reference, current = every_second(pool["same"], 0), every_second(pool["same"], 1)
    pages = pool["pages"].slice(0, len(current) // 5)
    found = compared(tmp_path, [reference], [current.slice(len(pages)), pages] if kind == "pages" else [pool[kind]])
    assert {each.figure for each in found.drifted} >= FOUND[kind]
    with pytest.raises(DriftFound, match=r"drift of \d\.\d+ in .* over the limit of 0.05"):
        found.check()
    if kind == "pages":
        assert sum("/pages/" in row["uri"] for row in found.telling["novel"]) >= 6


def rows_of(count: int, seed: int, prefix: str = "", **columns: object) -> pa.Table:
    """Rows without embeddings, all alike but for chance."""
    rng = np.random.default_rng(seed)
    scores, tags = rng.beta(4, 2, count), rng.choice(["cat", "dog", "owl"], count, p=[0.6, 0.3, 0.1])
    made = [
        {"uri": f"/{prefix}{seed}-{number}.jpg", "status": "ok", "format": "JPEG", "width": 100, "height": 100,
         "bytes": int(rng.integers(900, 1100)), "top_tag": tag, "top_score": score, "tags": [], "model": "m",
         "model_id": "v1", "settings_id": "s", **columns}
        for number, (tag, score) in enumerate(zip(tags.tolist(), scores.tolist(), strict=True))
    ]  # fmt: skip
    return schema.from_rows(made, "results")


@pytest.fixture
def months(tmp_path: Path) -> Path:
    """Three runs, of November, December and January; the last has more failures."""
    out = tmp_path / "out"
    for run, at in enumerate((datetime(2026, 11, 2), datetime(2026, 12, 3), datetime(2027, 1, 4)), 1):
        write_run(out, run, rows_of(400, run), tagged_at=at.replace(tzinfo=UTC))
    failed = rows_of(100, 9, status="corrupt", top_tag=None, top_score=None, format=None, width=None, height=None)
    write_run(out, 3, failed, tagged_at=datetime(2027, 1, 4, tzinfo=UTC))
    return out


@pytest.mark.parametrize(
    ("reference", "current", "rows"),
    [
        (None, None, (800, 500)),
        ("2026-11", None, (400, 500)),
        ("2026-11-01..2026-12-03", "2027-01-04", (800, 500)),
        ("2026-11", "2026-12", (400, 400)),
        ("1", "00000002-aa", (400, 400)),
        (None, "2", (400, 400)),
    ],
)
def test_periods_are_runs_or_days(months: Path, reference: str, current: str, rows: tuple[int, int]) -> None:
    found = drift.compare(months, reference, current)
    assert (found.reference_rows, found.current_rows) == rows
    assert {each.figure for each in found.drifted} == ({"status"} if rows[1] == 500 else set())


@pytest.mark.parametrize("text", ["yesterday", "2026", "2026-11..", "00000001-aa' OR 'x", "2026-11-01..x"])
def test_a_period_that_is_none_is_refused(months: Path, text: str) -> None:
    if text == "2026":
        with pytest.raises(UsageError, match="no rows of m in run 2026"):
            drift.compare(months, text)
        return
    with pytest.raises(UsageError, match=r"--reference .*: expected a run_id, the number of a run, or days such as"):
        drift.compare(months, text)


def test_the_command_writes_page_and_figures_and_exits_with_4_over_the_limit(months: Path, run_tagger: Run) -> None:
    page = months.parent / "drift.html"
    assert run_tagger("drift", months, "--out", page).returncode == 0, "no limit was given"
    ran = run_tagger("drift", months, "--out", page, "--fail-over", "0.1", "--json")
    assert ran.returncode == 4
    assert re.match(r"tagger: .*: drift of 0.200 in status, over the limit of 0.1 \(1 of \d+ figures", ran.stderr)
    assert json.loads(ran.stdout)["drifted"] is True
    assert run_tagger("drift", months, "--out", page, "--fail-over", "0.3").returncode == 0
    assert "<script" not in page.read_text()
    figures = pq.read_table(page.with_suffix(".parquet"))
    assert figures.schema.equals(schema.DRIFT)
    assert dict(zip(figures["figure"].to_pylist(), figures["effect"].to_pylist(), strict=True))[
        "status"
    ] == pytest.approx(0.2)
    with page.with_suffix(".parquet").open("rb") as file:
        assert schema.is_whole(file)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--fail-over", "2"], "--fail-over must be between 0 and 1, got 2"),
        (["--out", "drift.pdf"], "--out drift.pdf: must end in .html"),
        (["--current", "1"], "no earlier run of this version of m to compare run 1 with"),
        (["--model", "other"], "--model other: not in"),
    ],
)
def test_options_that_cannot_be_right_are_one_line(
    months: Path, run_tagger: Run, options: list[str], message: str
) -> None:
    ran = run_tagger("drift", months, *options, "--quiet", cwd=months.parent)
    assert (ran.returncode, ran.stderr.count("\n")) == (1, 1)
    assert message in ran.stderr
    assert not list(months.parent.glob("drift*"))


def test_rows_of_another_version_of_the_model_are_not_compared(months: Path) -> None:
    write_run(months, 4, rows_of(200, 4), model_id="v2")
    with pytest.raises(UsageError, match="no earlier run of this version of m"):
        drift.compare(months)
    write_run(months, 5, rows_of(200, 5), model_id="v2")
    assert drift.compare(months).reference_rows == 200


def test_of_too_few_images_nothing_is_claimed(tmp_path: Path) -> None:
    for run, count in ((1, 400), (2, 12)):
        write_run(tmp_path, run, rows_of(count, run, top_score=0.01 * run))
    found = drift.compare(tmp_path)
    found.check()
    assert not found.figures
    assert "Too few images" in drift_report.html(found)


def test_a_tag_with_html_in_its_name_is_harmless(tmp_path: Path) -> None:
    nasty = "<img src=x onerror=alert(1)>|\x1b"
    for run in (1, 2):
        write_run(tmp_path, run, rows_of(100, run, nasty, top_tag=nasty))
    page = drift_report.html(drift.compare(tmp_path))
    assert "<img src=x" not in page
    assert "\x1b" not in page
    assert "&lt;img src=x" in page


def test_more_unknown_images_are_drift(tmp_path: Path) -> None:
    shares = {1: 0.05, 2: 0.25}
    for run, share in shares.items():
        some = round(400 * share)
        write_run(tmp_path, run, rows_of(some, run, unknown=True))
        write_run(tmp_path, run, rows_of(400 - some, run, "known", unknown=False))
    (found,) = drift.compare(tmp_path).drifted
    assert (found.figure, found.reference_mean, found.current_mean) == ("unknown", 0.05, 0.25)
    assert found.effect == pytest.approx(0.2)


def test_a_model_that_does_not_tell_unknown_images_has_no_such_figure(months: Path) -> None:
    assert "unknown" not in {each.figure for each in drift.compare(months).figures}


def test_of_two_models_the_one_tagged_last_is_compared(months: Path) -> None:
    for run in (4, 5):
        write_run(months, run, rows_of(100, run, model="n"))
    assert drift.compare(months).model == "n"
    found = drift.compare(months, model="m")
    assert (found.model, found.reference_rows, found.current_rows) == ("m", 800, 500)


def test_a_first_run_has_nothing_to_compare_with(tmp_path: Path, run_tagger: Run) -> None:
    write_run(tmp_path / "out", 1, rows_of(100, 1))
    ran = run_tagger("drift", tmp_path / "out", "--out", tmp_path / "drift.html", "--quiet")
    assert (ran.returncode, ran.stderr.count("\n")) == (1, 1)
    assert "no earlier run of this version of m to compare run 1 with; name two periods" in ran.stderr


def test_truncated_images_count_as_tagged(tmp_path: Path) -> None:
    for run, status in ((1, "ok"), (2, "truncated")):
        write_run(tmp_path, run, rows_of(200, run, status=status))
    found = drift.compare(tmp_path)
    assert [each.current_images for each in found.figures if each.figure == "best score"] == [200]
    assert {each.figure for each in found.drifted} == {"status"}


def test_a_tiny_difference_in_many_rows_is_significant_but_no_drift() -> None:
    rng = np.random.default_rng(0)
    found = tests.compare_values(rng.normal(0, 1, 400_000), rng.normal(0.03, 1, 400_000))
    assert found is not None
    assert found.p_value < 1e-12
    assert found.effect < drift.LIMIT


def test_effects_are_shares_of_the_images() -> None:
    counts = tests.compare_counts(np.array([500, 500]), np.array([400, 600]))
    values = tests.compare_values(np.arange(1000), np.r_[np.arange(900), np.full(100, 5000)])
    assert counts is not None
    assert values is not None
    assert (counts.effect, values.effect) == (pytest.approx(0.1), pytest.approx(0.1, abs=0.002))
    assert tests.jensen_shannon(np.array([1, 0]), np.array([0, 1])) == 1


def embeddings(rng: np.random.Generator, count: int) -> Array:
    """Embeddings of two kinds of images, some of them odd."""
    centres = np.random.default_rng(0).normal(0, 1, (2, 128))
    spread = rng.uniform(0.5, 2, (count, 1))
    return centres[rng.integers(0, 2, count)] + spread * rng.normal(0, 1, (count, 128))


@pytest.mark.parametrize("seed", range(4))
def test_a_few_foreign_images_that_are_like_each_other_are_found(seed: int) -> None:
    rng = np.random.default_rng(seed)
    foreign = rng.normal(0.7, 0.6, (16, 128))
    found = tests.find_novel(embeddings(rng, 200), np.concatenate([embeddings(rng, 184), foreign]))
    assert found is not None
    difference, distances = found
    assert difference.p_value < 1e-4
    assert 0.05 < difference.effect < 0.13
    assert np.isin(np.argsort(distances)[-16:], np.arange(184, 200)).sum() >= 14


def test_foreign_images_are_found_where_the_reference_is_small_or_large() -> None:
    rng = np.random.default_rng(0)
    for before, now in ((60, 800), (800, 100)):
        foreign = rng.normal(0.7, 0.6, (now // 10, 128))
        current = np.concatenate([embeddings(rng, now - len(foreign)), foreign])
        same, other = (tests.find_novel(embeddings(rng, before), each) for each in (embeddings(rng, now), current))
        assert same is not None
        assert other is not None
        assert other[0].p_value < 0.01 < same[0].p_value


def test_embeddings_that_are_all_the_same_are_no_drift() -> None:
    found = tests.find_novel(np.ones((40, 8)), np.ones((40, 8)))
    assert found is not None
    assert (found[0].effect, found[0].p_value) == (0, 1)


def test_many_rare_tags_of_the_same_mix_are_no_drift() -> None:
    rng = np.random.default_rng(1)
    shares = rng.dirichlet(np.full(1000, 0.3))
    p_values = []
    for _ in range(30):
        found = tests.compare_counts(rng.multinomial(600, shares), rng.multinomial(500, shares))
        assert found is not None
        p_values.append(found.p_value)
    assert min(p_values) > 1e-4


def test_a_family_of_tests_passes_together() -> None:
    assert tests.significant([0.2, 0.0001, 0.03], 0.05) == [False, True, False]
    assert tests.significant([0.01, 0.001], 0.05) == [True, True]
    assert tests.significant([], 0.05) == []
    assert tests.significant([0.02, 1, 0.5, 1], 0.05) == [True, False, False, False]
