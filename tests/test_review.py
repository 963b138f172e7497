"""The review page as its reader meets it: a real process on loopback, and a real browser."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
import socket
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pytest
from pictures import MODEL, photo, write_stripes
from PIL import Image
from processes import TIMEOUT, started

import tagger
from tagger import schema
from tagger.data import decisions
from tagger.reviewing import thumbnails
from tagger.tagging.config import TagConfig

pytest.importorskip("uvicorn", reason="needs the extra `serve`")

NASTY = "<img src=x onerror=alert(1)> & \u202e.jpg"
TAG = "<script>alert(2)</script>"


@dataclass
class Review:
    """A running review, and a browser's cookie for it."""

    url: str
    client: httpx.Client
    process: Any
    printed: str

    def get(self, path: str, **query: Any) -> Any:
        answer = self.client.get(path, params=query)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def decide(self, labels: dict[int, list[str] | None]) -> httpx.Response:
        rows = [{"id": each, "labels": given} for each, given in labels.items()]
        return self.client.post("/api/decisions", json={"decisions": rows})


@contextlib.contextmanager
def reviewing(results: Path, labels: Path, *arguments: object, port: int = 0) -> Iterator[Review]:
    """Start `tagger review` and open its address."""
    with started("tagger.cli", "review", results, "--labels", labels, "--port", port, *arguments) as process:
        assert process.stdout
        assert process.stderr
        lines = []
        while not (lines and lines[-1].startswith("review: ")):
            lines.append(process.stdout.readline())
            assert lines[-1], process.stderr.read()
        url = lines[-1].split()[-1]
        with httpx.Client(base_url=url.partition("/?")[0], timeout=TIMEOUT) as client:
            assert client.get(url.removeprefix(str(client.base_url))).status_code == 303
            yield Review(url, client, process, "".join(lines))


def scored(tags: dict[str, float]) -> list[dict[str, Any]]:
    return [{"tag": tag, "score": score} for tag, score in tags.items()]


def write_table(out: Path, rows: list[dict[str, Any]]) -> None:
    """Write a results table of these rows; what they do not say is usual."""
    usual = {"status": "ok", "model": "m", "model_id": "1", "run_id": "00000001-a", "tagged_at": datetime.now(UTC)}
    whole = []
    for row in rows:
        pairs = row.get("candidates") or []
        best = {"top_tag": pairs[0]["tag"], "top_score": pairs[0]["score"], "tags": pairs[:1]} if pairs else {}
        whole.append({**usual, **best, **row})
    out.mkdir()
    (out / "part-00000001-a-0.parquet").write_bytes(schema.serialise(schema.from_rows(whole, "results"), "results"))


def all_pages(review: Review, **query: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    while page := review.get("/api/images", **query, **({"after": found[-1]["id"]} if found else {}))["images"]:
        found += page
    return found


@pytest.fixture(scope="module")
def tagged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photographs, one of them in an archive, one damaged, one with a nasty name; tagged by two models."""
    folder = tmp_path_factory.mktemp("review")
    photos = folder / "photos"
    (photos / "sub").mkdir(parents=True)
    for index in range(8):
        photo(index, (400, 300)).save(photos / ("sub" if index % 2 else ".") / f"{index}.jpg")
    shutil.copy(photos / "0.jpg", photos / NASTY)
    (photos / "damaged.jpg").write_bytes(b"no image")
    with zipfile.ZipFile(photos / "a.zip", "w") as archive:
        sink = io.BytesIO()
        photo(50).save(sink, "PNG")
        archive.writestr("inside.png", sink.getvalue())
    tagger.tag(photos, MODEL, folder / "out", TagConfig(device="cpu"))
    return folder


@pytest.fixture(scope="module")
def review(tagged: Path) -> Iterator[Review]:
    with reviewing(tagged / "out", tagged / "labels.parquet", "--by", "ada") as found:
        yield found


# --- the page's queries -----------------------------------------------------------------------------------------------


def test_the_grid_shows_the_least_certain_first_and_names_are_text(review: Review) -> None:
    found = review.get("/api/images", reviewed="all")
    margins = [each["candidates"][0]["score"] - each["candidates"][1]["score"] for each in found["images"]]
    assert margins == sorted(margins)
    assert found["total"] == len(margins) == 10
    names = {each["name"] for each in found["images"]}
    assert NASTY.replace("\u202e", "\\u202e") in names
    assert {"a.zip::inside.png", "7.jpg"} <= names
    assert [each["name"] for each in review.get("/api/images", status="failed")["images"]] == ["damaged.jpg"]
    start = review.get("/api/start")
    assert (start["multilabel"], start["model"], start["others"]) == (False, "cifar10-speedrun", [])


def test_filters_narrow_the_grid(review: Review, tagged: Path) -> None:
    everything = all_pages(review, reviewed="all", status="all")
    assert len(everything) == 11
    tag = everything[0]["tags"][0]["tag"]
    with_tag = {each["id"] for each in all_pages(review, reviewed="all", tag=tag)}
    assert with_tag == {each["id"] for each in everything if tag in [pair["tag"] for pair in each["tags"]]}
    assert {each["name"] for each in all_pages(review, reviewed="all", folder=str(tagged / "photos" / "sub"))} == {
        "1.jpg", "3.jpg", "5.jpg", "7.jpg"
    }  # fmt: skip
    assert all_pages(review, reviewed="all", tag="' OR true --") == []
    assert tag in review.get("/api/tags", q=tag[:2].upper())["tags"]
    assert review.get("/api/folders", q="photos/sub")["folders"] == [str(tagged / "photos" / "sub")]


def test_thumbnails_are_small_made_once_and_missing_gracefully(review: Review, tagged: Path) -> None:
    for image in all_pages(review, reviewed="all"):
        answer = review.client.get(f"/thumbnails/{image['id']}")
        assert max(Image.open(io.BytesIO(answer.content)).size) <= 320
    (damaged,) = all_pages(review, status="failed")
    assert review.client.get(f"/thumbnails/{damaged['id']}").status_code == 404
    image = next(each for each in all_pages(review, reviewed="all") if each["name"] == "2.jpg")
    (tagged / "photos" / "2.jpg").rename(tagged / "photos" / "away")
    photo(77).save(tagged / "photos" / "2.jpg")
    assert review.client.get(f"/thumbnails/{image['id']}").status_code == 200
    answer = review.client.get(f"/full/{image['id']}")
    assert answer.status_code == 404
    assert "the file has changed since it was tagged" in answer.json()["message"]
    (tagged / "photos" / "away").rename(tagged / "photos" / "2.jpg")
    assert Image.open(io.BytesIO(review.client.get(f"/full/{image['id']}").content)).size == (400, 300)


def test_every_order_shows_every_image_once(tmp_path: Path) -> None:
    rows = [
        {"uri": f"/p/{at:03}.jpg", "image_id": f"{at:064}", "candidates": scored({f"t{at % 3}": 0.5 + at % 7 / 20})}
        for at in range(150)
    ]
    rows += [{"uri": f"/p/{at:03}.jpg", "model": "other", "candidates": scored({"t0": 1.0})} for at in range(120)]
    write_table(tmp_path / "out", rows)
    with reviewing(tmp_path / "out", tmp_path / "l.parquet", "--model", "m", "--sort", "disagree") as review:
        for sort in ("uncertain", "disagree", "newest", "tag"):
            found = [each["id"] for each in all_pages(review, sort=sort)]
            assert len(found) == len(set(found)) == 150, sort
        disagree = all_pages(review, disagree="true")
        assert len(disagree) == 80
        first = review.get("/api/images", sort="disagree")["images"]
        assert all(each["disagrees"] for each in first)
        assert first[0]["others"] == [{"model": "other", "tag": "t0", "score": 1.0}]
        assert review.get("/api/start")["sort"] == "disagree"
        assert review.client.get(f"/thumbnails/{first[0]['id']}").status_code == 404  # no such file


def test_odd_tables_are_shown(tmp_path: Path) -> None:
    tags = {f"{TAG} {at}": 1e-5 for at in range(100_000)}
    rows = [{"uri": "/p/x.jpg", "image_id": "../../etc", "candidates": scored({"a": 0.9, "b": float("nan"), **tags})}]
    write_table(tmp_path / "out", rows)
    with reviewing(tmp_path / "out", tmp_path / "l.parquet") as review:
        (image,) = review.get("/api/images")["images"]
        assert image["candidates"][:2] == [{"tag": "a", "score": pytest.approx(0.9)}, {"tag": "b", "score": None}]
        assert len(image["candidates"]) <= 12
        assert len(review.get("/api/tags", q="script")["tags"]) == 20
        assert review.get("/api/start")["palette"] == []
        assert review.decide({image["id"]: [TAG]}).status_code == 200
    assert tagger.read_labels(tmp_path / "l.parquet")["labels"].map(list).tolist() == [[TAG]]


def test_sql_of_the_page_reaches_no_file(tmp_path: Path) -> None:
    import duckdb

    from tagger.reviewing.images import open_images

    write_table(tmp_path / "out", [{"uri": "/p/x.jpg", "candidates": scored({"a": 0.9})}])
    with open_images(tmp_path / "out") as images:
        part = next((tmp_path / "out").iterdir())
        for sql in (
            f"SELECT * FROM '{part}'",
            f"COPY images TO '{tmp_path}/x.csv'",
            "SET enable_external_access = true",
        ):
            with pytest.raises(duckdb.Error, match=r"disabled|Cannot"):
                images.rows(sql)


def write_queue(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_bytes(schema.serialise(schema.from_rows(rows, "suggestions"), "suggestions"))
    return path


def test_a_queue_is_shown_in_its_order_with_its_labels_and_candidates(tmp_path: Path) -> None:
    rows = [{"uri": f"/p/{at}.jpg", "image_id": f"{at:064}", "candidates": scored({"owl": 0.9})} for at in range(9)]
    write_table(tmp_path / "out", rows)
    suspect = {"reason": "label", "labels": ["cat"], "candidates": scored({"dog": 0.8, "cat": 0.2}), "model_id": "2"}
    queue = write_queue(
        tmp_path / "q.parquet",
        [
            {"uri": "/moved.jpg", "image_id": f"{5:064}", **suspect},
            {"uri": "/p/1.jpg", "image_id": f"{1:064}", "reason": "uncertain", "candidates": scored({"owl": 0.9})},
            {"uri": "/gone.jpg", "image_id": f"{77:064}", "reason": "uncertain"},
        ],
    )
    with reviewing(tmp_path / "out", tmp_path / "l.parquet", "--queue", queue) as review:
        assert review.get("/api/start")["sort"] == "queue"
        first, second = all_pages(review, sort="queue")
        assert [first["name"], second["name"]] == ["5.jpg", "1.jpg"]
        assert (first["given"], [pair["tag"] for pair in first["tags"]]) == (["cat"], ["dog"])
        assert (second["given"], [pair["tag"] for pair in second["tags"]]) == (None, ["owl"])
        assert review.get("/api/images", sort="queue")["total"] == 2
        assert len(all_pages(review, sort="uncertain")) == 9
        review.decide({first["id"]: ["dog"]})
        assert [each["name"] for each in all_pages(review, sort="queue")] == ["1.jpg"]
    (decided,) = decisions.read(str(tmp_path / "l.parquet")).to_pylist()
    assert (decided["labels"], decided["previous"], decided["model_id"]) == (["dog"], ["dog"], "2")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"PAR1 junk", "a damaged Parquet file"),
        (schema.serialise(schema.LABELS.empty_table(), "labels"), "expected a suggestions table"),
        (
            schema.serialise(schema.from_rows([{"uri": "/x"}], "suggestions"), "suggestions"),
            "none of its 1 images is in",
        ),
    ],
)
def test_a_queue_that_is_none_is_one_line(tagged: Path, run_tagger: Any, content: bytes, message: str) -> None:
    (tagged / "q.parquet").write_bytes(content)
    ran = run_tagger(
        "review", tagged / "out", "--labels", tagged / "l2.parquet", "--queue", tagged / "q.parquet", "--quiet"
    )
    assert ran.returncode == 1
    assert message in ran.stderr
    assert ran.stderr.count("\n") == 1


def test_the_nearest_labelled_images_are_found_by_their_embeddings(tmp_path: Path) -> None:
    rows = [
        {"uri": f"/p/{at}.jpg", "image_id": f"{at:064}", "embedding": [1.0, at], "candidates": scored({"a": 0.9})}
        for at in range(20)
    ]
    rows += [{"uri": "/p/none.jpg", "candidates": scored({"a": 0.5})}]
    rows += [{"uri": "/p/old.jpg", "embedding": [1.0, 3.0], "model_id": "0", "candidates": scored({"a": 0.5})}]
    rows += [{"uri": "/p/nan.jpg", "embedding": [float("nan"), 3.0], "candidates": scored({"a": 0.5})}]
    write_table(tmp_path / "out", rows)
    with reviewing(tmp_path / "out", tmp_path / "l.parquet") as review:
        ids = {each["name"]: each["id"] for each in all_pages(review)}
        near = f"/api/images/{ids['3.jpg']}/neighbours"
        assert review.get(near)["images"] == []
        review.decide({ids[name]: ["cat"] for name in ("3.jpg", "4.jpg", "19.jpg", "none.jpg", "old.jpg", "nan.jpg")})
        found = review.get(near)["images"]
        assert [(each["name"], each["labels"]) for each in found] == [("4.jpg", ["cat"]), ("19.jpg", ["cat"])]
        assert found[0]["similarity"] == pytest.approx(13 / (10 * 17) ** 0.5)
        assert review.get(f"/api/images/{ids['none.jpg']}/neighbours")["images"] == []
        review.decide({ids["4.jpg"]: None})
        assert [each["name"] for each in review.get(near)["images"]] == ["19.jpg"]


def test_the_thumbnails_that_were_not_used_for_longest_are_deleted(tagged: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("TAGGER_CACHE", str(tagged / "thumbnails-only"))
    ids = {}
    for at in range(4):
        path = tagged / "photos" / ("sub" if at % 2 else ".") / f"{at}.jpg"
        ids[at] = hashlib.sha256(path.read_bytes()).hexdigest()
        thumbnails.thumbnail(str(path), ids[at])
        cached = tagged / "thumbnails-only" / "thumbnails" / ids[at][:2] / f"{ids[at]}-320.jpg"
        os.utime(cached, (at, at))
        size = cached.stat().st_size
    thumbnails.thumbnail(str(tagged / "photos" / "0.jpg"), ids[0])  # used again
    thumbnails.prune(int(2.5 * size))
    left = {path.name[:64] for path in (tagged / "thumbnails-only").glob("thumbnails/*/*.jpg")}
    assert left == {ids[0], ids[3]}


# --- decisions --------------------------------------------------------------------------------------------------------


def test_a_decision_is_on_disk_when_it_is_answered(review: Review, tagged: Path) -> None:
    one, two, three = [each["id"] for each in all_pages(review)][:3]
    before = review.get("/api/images")
    saved = review.decide({one: ["cat"], two: [], three: ["cat", "dog", "cat"]}).json()["images"]
    assert [each["labels"] for each in saved] == [["cat"], [], ["cat", "dog"]]
    assert [each["by"] for each in saved] == ["ada"] * 3
    assert review.get("/api/start")["multilabel"]
    table = decisions.read(str(tagged / "labels.parquet")).to_pylist()
    assert [row["labels"] for row in table] == [["cat"], [], ["cat", "dog"]]
    assert all(row["previous"] and row["model_id"] and len(row["image_id"]) == 64 for row in table)
    copies = sum(each["version"] == saved[0]["version"] for each in before["images"])  # a copy is the same image
    after = review.get("/api/images")
    assert after["done"] >= before["done"] + 3
    assert len(after["images"]) <= len(before["images"]) - 3
    assert copies >= 1
    review.decide({one: None, two: None, three: None})
    assert review.get("/api/images")["done"] == before["done"]
    assert len(decisions.read(str(tagged / "labels.parquet"))) == 6


def test_answers_do_not_wait_for_the_network_to_acknowledge(review: Review) -> None:
    def seconds() -> float:
        began = time.perf_counter()
        assert review.decide({1: None}).status_code == 200
        return time.perf_counter() - began

    assert min(seconds() for _ in range(20)) < 0.035  # 40 ms more where small packets are held back


def test_two_reviews_at_once_see_each_other_and_the_later_decision_counts(review: Review, tagged: Path) -> None:
    image = all_pages(review, reviewed="all")[-1]["id"]
    with reviewing(tagged / "out", tagged / "labels.parquet", "--by", "bob") as other:
        review.decide({image: ["cat"]})
        assert [each["by"] for each in all_pages(other, reviewed="yes") if each["id"] == image] == ["ada"]
        other.decide({image: ["dog"]})
    found = [each for each in all_pages(review, reviewed="yes") if each["id"] == image]
    assert [(each["by"], each["labels"]) for each in found] == [("bob", ["dog"])]
    history = decisions.read(str(tagged / "labels.parquet"))["labels"].to_pylist()
    assert history[-2:] == [["cat"], ["dog"]]
    review.decide({image: None})


def test_a_decision_that_cannot_be_written_is_not_shown(tagged: Path, tmp_path: Path) -> None:
    with reviewing(tagged / "out", tmp_path / "l.parquet") as review:
        (tmp_path / "l.parquet.lock").mkdir()
        answer = review.decide({1: ["cat"]})
        assert answer.status_code == 500
        assert "l.parquet: cannot write (" in answer.json()["message"]
        assert review.get("/api/images")["done"] == 0
        (tmp_path / "l.parquet.lock").rmdir()
        assert review.decide({1: ["cat"]}).status_code == 200


@pytest.mark.parametrize(
    "body",
    [
        b"", b"nonsense", b"[]", b'{"decisions": []}', b'{"decisions": [{"id": "x", "labels": []}]}',
        b'{"decisions": [{"id": 1, "labels": [""]}]}', b'{"decisions": [{"id": 1, "labels": ["\\ud800"]}]}',
        b'{"decisions": [{"id": 999999, "labels": []}]}', b'{"decisions": [{"id": 1, "labels": ["x"], "by": "eve"}]}',
        json.dumps({"decisions": [{"id": 1, "labels": ["x" * 1001]}]}).encode(), b" " * (1 << 21), b"[" * 100_000,
    ],
)  # fmt: skip
def test_nonsense_is_refused_and_changes_nothing(review: Review, tagged: Path, body: bytes) -> None:
    before = sorted(path.stat().st_size for path in tagged.glob("labels*"))
    assert review.client.post("/api/decisions", content=body).status_code in (400, 404, 413)
    assert sorted(path.stat().st_size for path in tagged.glob("labels*")) == before


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/api/images?sort=x", 422), ("/api/images?after=-1", 422), ("/api/images?after=99999999999999999999", 422),
        ("/api/images?status=%00", 200), ("/api/images?tag=%ff%27", 200), ("/api/images/999999", 404),
        ("/thumbnails/0", 404), ("/full/x", 422), ("/../../etc/passwd", 404), ("/review.py", 404), ("/docs", 404),
    ],
)  # fmt: skip
def test_odd_addresses_do_no_harm(review: Review, path: str, status: int) -> None:
    assert review.client.get(path).status_code == status


# --- who gets in ------------------------------------------------------------------------------------------------------


def test_only_the_page_with_the_token_is_answered(review: Review) -> None:
    base = str(review.client.base_url)
    for path in ("/", "/?token=x", "/review.js", "/api/images", "/thumbnails/1", "/?token=%ff"):
        assert httpx.get(base + path).status_code == 403, path
    assert httpx.post(base + "/api/decisions", json={}).status_code == 403
    for headers in (
        {"Origin": "http://evil.example"}, {"Host": "evil.example"}, {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"}, {"Origin": "null"}, {"Host": "[x"},
    ):  # fmt: skip
        assert review.client.get("/api/images", headers=headers).status_code == 403, headers
        assert review.client.post("/api/decisions", json={}, headers=headers).status_code == 403, headers
    page = review.client.get("/", headers={"Sec-Fetch-Site": "cross-site"})
    assert page.status_code == 200
    assert "default-src 'none'; script-src 'self'" in page.headers["content-security-policy"]
    port = int(base.rpartition(":")[2].strip("/"))
    with socket.socket() as probe:
        assert probe.connect_ex((socket.gethostbyname(socket.gethostname()), port)) != 0 or (
            socket.gethostbyname(socket.gethostname()).startswith("127.")
        )


def test_a_port_in_use_is_passed_over(tagged: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with reviewing(tagged / "out", tmp_path / "l.parquet", port=port) as review:
            assert f"port {port} is in use; using " in review.printed
            assert review.get("/api/images")["total"] == 10
    assert list(tmp_path.iterdir()) == []  # looking writes nothing


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--model", "x"), "--model x: not in"),
        (("--against", "x"), "--against x: the results have no other model"),
        (("--labels", "l.csv"), "the name must end in .parquet"),
        (("--by", "a\x1b"), "expected a name"),
    ],
)
def test_wrong_options_are_one_line(tagged: Path, run_tagger: Any, arguments: tuple[str, ...], message: str) -> None:
    ran = run_tagger("review", tagged / "out", *arguments, "--quiet")
    assert ran.returncode == 1
    assert message in ran.stderr
    assert ran.stderr.count("\n") == 1


# --- in a browser -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_the_page_is_quiet_and_whole(browser: Any, review: Review, width: int, scheme: str) -> None:
    tab = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    tab.set_default_timeout(20_000)
    problems: list[str] = []
    fetched: set[str] = set()
    tab.on("console", lambda message: problems.append(message.text))
    tab.on("pageerror", lambda error: problems.append(str(error)))
    tab.on("dialog", lambda dialog: problems.append(f"dialog {dialog.message}"))
    tab.on("request", lambda request: fetched.add(request.url.split("/")[2] if "//" in request.url else "data"))
    tab.goto(review.url)
    tab.locator("#grid img").nth(8).wait_for()
    tab.locator("#grid li").first.click()
    for state in ("grid", "single"):
        if state == "single":
            tab.keyboard.press("Enter")
            tab.get_by_role("table", name="Scores").wait_for()
        assert tab.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0, state
    assert tab.evaluate("document.querySelectorAll('#grid img, #grid script').length") <= 10
    assert len(fetched - {"data"}) == 1
    assert problems == []
    tab.close()


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (1280, "dark"), (390, "light"), (390, "dark")])
def test_the_page_is_accessible(browser: Any, review: Review, violations: Any, width: int, scheme: str) -> None:
    tab = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    tab.set_default_timeout(20_000)
    tab.goto(review.url)
    tab.locator("#grid img").nth(8).wait_for()
    tab.locator("#grid li").first.click()
    assert violations(tab) == ""
    tab.keyboard.press("Enter")
    tab.get_by_role("table", name="Scores").wait_for()
    assert violations(tab) == ""
    tab.keyboard.press("?")
    assert violations(tab) == ""
    tab.close()


def test_keyboard_focus_is_visible_everywhere(browser: Any, review: Review) -> None:
    tab = browser.new_page()
    tab.set_default_timeout(20_000)
    tab.goto(review.url)
    tab.locator("#grid li").first.wait_for()
    reached = set()
    for _ in range(25):
        tab.keyboard.press("Tab")
        name, width = tab.evaluate(
            "[document.activeElement.id || document.activeElement.name,"
            " parseFloat(getComputedStyle(document.activeElement).outlineWidth)]"
        )
        assert width >= 2 or not name, name
        reached.add(name)
    assert {"help", "sort", "tag", "folder", "reviewed", "status", "multilabel", "none", "accept"} <= reached
    tab.close()


def test_a_late_answer_does_not_undo_a_later_filter(browser: Any, review: Review) -> None:
    tab = browser.new_page()
    tab.set_default_timeout(20_000)
    held: list[Any] = []
    tab.route("**/api/images?*tag=nothing*", lambda route: held.append(route))
    tab.goto(review.url)
    tab.locator("#grid li").first.wait_for()
    tag = tab.get_by_label("Tag", exact=True)
    tag.fill("nothing")
    tag.press("Enter")
    tag.fill("")
    with tab.expect_response("**/api/images?*"):
        tag.press("Enter")
    with tab.expect_response("**/api/images?*tag=nothing*"):
        held[0].continue_()
    tab.wait_for_timeout(200)
    assert tab.locator("#grid li").count() > 0
    tab.close()


def test_several_tags_are_chosen_and_then_accepted_and_undone(browser: Any, tmp_path: Path) -> None:
    rows = [
        {"uri": f"/p/{at}.jpg", "image_id": f"{at:064}", "candidates": scored({"cat": 0.9, "dog": 0.8, "owl": 0.1})}
        for at in range(4)
    ]
    write_table(tmp_path / "out", rows)
    with reviewing(tmp_path / "out", tmp_path / "l.parquet") as review:
        tab = browser.new_page()
        tab.set_default_timeout(20_000)
        tab.goto(review.url)
        counts = tab.locator("#counts")
        tab.locator("#grid li").first.wait_for()
        assert tab.locator("#multilabel").is_checked()
        tab.keyboard.press("3")
        tab.keyboard.press("a")  # cat + owl
        tab.get_by_text("1 done, 3 left").wait_for()
        tab.keyboard.press("0")
        tab.get_by_text("2 done, 2 left").wait_for()
        tab.keyboard.press("u")
        tab.get_by_text("1 done, 3 left").wait_for()
        tab.keyboard.press("Control+a")
        tab.keyboard.press("t")
        tab.keyboard.type("eel")
        tab.keyboard.press("Enter")
        tab.keyboard.press("a")
        tab.get_by_text("4 done, 0 left").wait_for()
        assert counts.is_visible()
        tab.close()
    found = tagger.read_labels(tmp_path / "l.parquet").sort_values("uri")["labels"].map(list).tolist()
    assert found == [["cat", "owl", "eel"], *[["cat", "eel"]] * 3]
    assert pa.array(found).null_count == 0


def test_a_tag_that_was_typed_has_a_key_on_the_next_images(browser: Any, tmp_path: Path) -> None:
    rows = [
        {
            "uri": f"/p/{at}.jpg",
            "image_id": f"{at:064}",
            "candidates": scored({f"tag {at} {n}": 0.1 for n in range(12)}),
        }
        for at in range(3)
    ]
    write_table(tmp_path / "out", rows)
    with reviewing(tmp_path / "out", tmp_path / "l.parquet") as review:
        tab = browser.new_page()
        tab.set_default_timeout(20_000)
        tab.goto(review.url)
        tab.locator("#grid li").first.wait_for()
        tab.locator("#multilabel").uncheck()
        tab.locator("#grid li").first.click()
        tab.keyboard.press("t")
        tab.keyboard.type("eel")
        tab.keyboard.press("Enter")
        tab.get_by_text("1 done, 2 left").wait_for()
        tab.keyboard.press("9")
        tab.get_by_text("2 done, 1 left").wait_for()
        tab.close()
    assert tagger.read_labels(tmp_path / "l.parquet")["labels"].map(list).tolist() == [["eel"], ["eel"]]


@pytest.mark.slow
def test_ten_images_reviewed_by_keyboard_survive_a_kill_and_train_a_model(
    browser: Any, tmp_path: Path, run_tagger: Any
) -> None:
    source = tmp_path / "stripes"
    write_stripes(source, 16)
    for path in sorted(source.glob("*/*.png")):
        path.rename(source / f"{path.parent.name}-{path.name}")
    tagger.tag(source, MODEL, tmp_path / "out", TagConfig(device="cpu"))
    labels = tmp_path / "labels.parquet"
    given: dict[str, str] = {}
    with reviewing(tmp_path / "out", labels) as review:
        tab = browser.new_page()
        tab.set_default_timeout(20_000)
        tab.goto(review.url)
        tab.locator("#grid li").first.wait_for()
        for done in range(1, 11):
            name = tab.locator("#grid li:focus .name").inner_text()
            given[name] = name.partition("-")[0]
            tab.keyboard.press("t")
            tab.keyboard.type(given[name])
            tab.keyboard.press("Enter")
            tab.get_by_text(f"{done} done, {48 - done} left").wait_for()
        review.process.kill()
        review.process.wait(TIMEOUT)
        tab.keyboard.press("a")
        tab.get_by_text("Not saved: The server does not respond").wait_for()
        tab.close()
    assert (tmp_path / "labels.parquet.journal").exists()
    with reviewing(tmp_path / "out", labels) as review:
        found = all_pages(review, reviewed="yes")
        assert {each["name"]: each["labels"] for each in found} == {name: [label] for name, label in given.items()}
        rest = all_pages(review)
        assert not review.decide({each["id"]: [each["name"].partition("-")[0]] for each in rest}).is_error
    out = tmp_path / "model"
    ran = run_tagger("train", source, "--out", out, "--labels", labels, "--method", "scratch", "--epochs", 8)
    assert ran.returncode == 0, ran.stderr
    tagger.tag(source, out, tmp_path / "again", TagConfig(device="cpu"))
    rows = tagger.read_results(tmp_path / "again")
    right = sum(os.path.basename(uri).startswith(tag) for uri, tag in zip(rows["uri"], rows["top_tag"], strict=True))
    assert right >= 44
