"""A model that is loaded once gives the rows of `tagger tag`, whatever its inputs are."""

from __future__ import annotations

import io
import re
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pictures import MODEL, ROOT, photo
from PIL import Image

import tagger

NAMELESS = ["uri", "modified_at", "etag"]
"""Columns that bytes without a name do not have."""


@pytest.fixture(scope="module")
def model() -> tagger.Model:
    return tagger.load(Path(MODEL), device="cpu", batch_size=4)


def close(one: Any, other: Any) -> bool:
    """Compare as the design defines equal tables."""
    if isinstance(one, list):
        return [p["tag"] for p in one] == [p["tag"] for p in other] and np.allclose(
            [p["score"] for p in one], [p["score"] for p in other], atol=1e-4
        )
    return bool(one == other or abs(one - other) < 1e-4)


def without(row: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in names}


def assert_same(one: dict[str, Any], other: dict[str, Any], *ignore: str) -> None:
    one, other = without(one, *ignore), without(other, *ignore)
    assert one.keys() == other.keys()
    assert not [name for name, value in one.items() if not close(value, other[name])], (one, other)


def plant(photos: Path) -> list[Path]:
    """Add a large JPEG, a turned one, grey and transparent images, and files that are no good."""
    big = photo(7, (700, 500))
    exif = Image.Exif()
    exif[0x0112] = 6
    big.save(photos / "big.jpg", quality=92)
    big.save(photos / "turned.jpg", exif=exif)
    big.convert("L").save(photos / "grey.png")
    big.convert("RGBA").resize((90, 80)).rotate(30).save(photos / "clear.webp", lossless=True)
    (photos / "text.jpg").write_text("no image")
    (photos / "zero.jpg").write_bytes(b"")
    (photos / "cut.jpg").write_bytes((photos / "big.jpg").read_bytes()[:3000])
    return sorted(path for path in photos.rglob("*.*") if path.is_file())


def test_paths_and_bytes_give_the_rows_of_a_tagging_run(model: tagger.Model, photos: Path, tmp_path: Path) -> None:
    paths = plant(photos)
    tagger.tag(photos, Path(MODEL), tmp_path / "out", tagger.TagConfig(device="cpu", batch_size=4))
    table = tagger.query(tmp_path / "out", "SELECT * EXCLUDE (run_id, tagged_at, present) FROM images").to_pylist()
    expected = {row["uri"]: row for row in table}
    by_path, by_bytes = model.predict(paths), model.predict([path.read_bytes() for path in paths])
    for path, row, nameless in zip(paths, by_path, by_bytes, strict=True):
        assert_same(row, expected[str(path)])
        assert_same(nameless, expected[str(path)], *NAMELESS)
    assert {row["status"] for row in by_path} >= {"ok", "corrupt", "unsupported"}


def test_images_and_arrays_are_tagged_as_the_files_they_came_from(model: tagger.Model, tmp_path: Path) -> None:
    image = photo(3, (90, 70))
    image.save(tmp_path / "a.png")
    (of_file, of_image, of_array) = model.predict([str(tmp_path / "a.png"), image, np.asarray(image)])
    for row in (of_image, of_array):
        assert_same(row, of_file, *NAMELESS, "bytes", "image_id", "format")
        assert (row["uri"], row["image_id"]) == (None, None)
    assert_same(model.predict(np.asarray(image))[0], of_array)


def test_mixed_inputs_keep_their_order_and_bad_ones_are_rows(model: tagger.Model, photos: Path) -> None:
    content = io.BytesIO()
    photo(1).save(content, "PNG")
    cut = Image.open(io.BytesIO(content.getvalue()[:200]))
    inputs: list[Any] = [
        photos / "0.jpg", b"junk", None, "nowhere.jpg", content.getvalue(), np.zeros((4, 4)), "a\0b", cut,
        np.zeros((0, 4, 3), np.uint8), "nothing://x", "http://[bad", photo(2).convert("CMYK"),
    ]  # fmt: skip
    rows = model.predict(inputs)
    statuses = [row["status"] for row in rows]
    assert statuses == [
        "ok", "unsupported", "unsupported", "unreadable", "ok", "unsupported", "unreadable", "corrupt",
        "unsupported", "unreadable", "unreadable", "ok",
    ]  # fmt: skip
    assert all((row["error"] is None) == (row["status"] == "ok") for row in rows)
    assert "got an array (4, 4) of float64" in rows[5]["error"]
    assert "got NoneType" in rows[2]["error"]
    assert {tuple(row) for row in rows} == {tuple(rows[0])}, "every row has the same columns"


def test_inputs_are_scored_in_batches_and_options_are_those_of_tag(photos: Path) -> None:
    model = tagger.load(MODEL, device="cpu", engine="eager", top_k=2, threshold=0.0, batch_size=3, embeddings=True)
    sizes: list[int] = []
    engine = model.engine

    class Counting:
        name, batch_size, concurrency = engine.name, engine.batch_size, engine.concurrency
        shares_cores, images_per_second = engine.shares_cores, None

        def __call__(self, images: Any) -> Any:
            sizes.append(len(images))
            return engine(images)

    counted = tagger.Model(model.info, Counting(), model.selector, model.config)
    several: Iterator[Path] = iter(sorted(photos.rglob("*.jpg")))
    rows = counted.predict(several)
    assert sizes == [6], "one call for several batches"
    assert [(len(row["candidates"]), len(row["tags"]), len(row["embedding"])) for row in rows] == [(2, 10, 192)] * 6
    assert counted.predict([]) == []


def test_a_store_that_refuses_the_credentials_is_a_row(model: tagger.Model, photos: Path) -> None:
    pytest.importorskip("s3fs")
    denied, good = model.predict(["s3://a-bucket/a.jpg", photos / "0.jpg"])
    assert (denied["status"], good["status"]) == ("unreadable", "ok")


def test_the_examples_of_the_python_page_run(
    tmp_path: Path, timm_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "photos").mkdir()
    photo(0).save(tmp_path / "photos" / "cat.jpg")
    photo(1).save(tmp_path / "photos" / "horse.png")
    for number, name in enumerate(("left", "right")):
        (tmp_path / "labelled" / name).mkdir(parents=True)
        for index in range(12):
            photo(100 * number + index).save(tmp_path / "labelled" / name / f"{index}.png")
    shutil.copytree(MODEL, tmp_path / "checkpoints" / "cifar10-speedrun")
    page = (ROOT / "docs" / "python.md").read_text()
    code = "\n".join(re.findall(r"```python\n(.*?)```", page, re.DOTALL))
    local = code.replace('method="probe"', f'method="probe", backbone="local-dir:{timm_folder}"')
    local = local.replace("port=8000", "port=0").replace("on_start=print", "on_start=stop")
    monkeypatch.chdir(tmp_path)
    urls: list[str] = []
    found: dict[str, Any] = {"stop": lambda url: (urls.append(url), signal.raise_signal(signal.SIGTERM))}
    exec(local, found)
    assert len(urls) == 2, "the review page and the server were up"
    assert found["model"].info.label_names == ("left", "right")
    assert "2 tagged, 0 failed" in capsys.readouterr().out
