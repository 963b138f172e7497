"""Drift: silent on halves of the same images, loud on other ones, from the results table alone."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from pictures import MODEL
from PIL import Image, ImageFilter

import tagger
from tagger import schema
from tagger.errors import DriftFound
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
    """Rows of tagged images by kind: the same scenes blurred, darkened and recompressed, and pages of text."""
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
    values = {"run_id": f"{run:08d}-aa", "tagged_at": datetime(2026, 10 + run, 1, tzinfo=UTC), **columns}
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


def test_twenty_random_halves_of_the_same_images_raise_no_alarm(pool: dict[str, pa.Table], tmp_path: Path) -> None:
    for seed in range(20):
        one, other = halves(pool["same"], seed)
        found = compared(tmp_path / str(seed), [one], [other])
        found.check()
        assert len(found.figures) >= 7
        assert not found.drifted


def odd(rows: pa.Table, wanted: int) -> pa.Table:
    """The scenes of odd or of even numbers."""
    return rows.filter(pa.array([int(Path(uri).stem) % 2 == wanted for uri in rows["uri"].to_pylist()]))


FOUND = {
    "pages": {"unlike the reference"},
    "blurred": {"tags", "embeddings", "bytes per pixel"},
    "darkened": {"tags", "embeddings", "bytes per pixel"},
    "recompressed": {"embeddings", "bytes per pixel"},
}


@pytest.mark.parametrize("kind", FOUND)
def test_other_and_changed_images_raise_an_alarm(pool: dict[str, pa.Table], tmp_path: Path, kind: str) -> None:
    reference, current = odd(pool["same"], 0), odd(pool["same"], 1)
    pages = pool["pages"].slice(0, len(current) // 10)
    found = compared(tmp_path, [reference], [current.slice(len(pages)), pages] if kind == "pages" else [pool[kind]])
    print([(each.figure, each.tag, round(each.effect, 3), each.p_value, each.drifted) for each in found.figures])
    assert {each.figure for each in found.drifted} >= FOUND[kind]
    with pytest.raises(DriftFound, match=r"drift of \d\.\d+ in .* over the limit of 0.05"):
        found.check()
    if kind == "pages":
        assert sum("/pages/" in row["uri"] for row in found.telling["novel"]) >= 10
