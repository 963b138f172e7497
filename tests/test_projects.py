"""The training calls, with the unmodified Azure client against a real server: quickstart, uploads, kills, bad input."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pictures import bomb, without_root_powers
from PIL import Image
from processes import TIMEOUT, wait_until
from test_serve import Server, encoded, jpeg, multipart, serving, site  # noqa: F401  site is a fixture
from test_train import COLOURS, image_of

import tagger
from tagger.errors import TableError, WriteError

azure = pytest.importorskip("azure.cognitiveservices.vision.customvision.training")
models = pytest.importorskip("azure.cognitiveservices.vision.customvision.training.models")
prediction = pytest.importorskip("azure.cognitiveservices.vision.customvision.prediction")
credentials = pytest.importorskip("msrest.authentication").ApiKeyCredentials

from tagger.serving.projects.journal import Journal  # noqa: E402
from tagger.serving.projects.journal import encoded as line_of  # noqa: E402

KEY = {"Training-Key": "any"}
RESOURCE = "/subscriptions/x/resourceGroups/y/providers/Microsoft.CognitiveServices/accounts/z"
TRAINING = "/customvision/v3.3/Training"


def trainer(server: Server) -> Any:
    return azure.CustomVisionTrainingClient(server.url, credentials(in_headers=KEY))


def predictor(server: Server) -> Any:
    return prediction.CustomVisionPredictionClient(server.url, credentials(in_headers={"Prediction-key": "any"}))


def coloured(seed: int, colour: str) -> bytes:
    return encoded(image_of(seed, COLOURS[colour]), "PNG")


def upload(client: Any, project: Any, tags: dict[str, Any], count: int) -> None:
    """Add so many images of each tag in one batch of files, as the quickstart does."""
    entries = [
        models.ImageFileCreateEntry(
            name=f"{name}_{index}.png", contents=coloured(1000 * number + index, name), tag_ids=[tags[name].id]
        )
        for number, name in enumerate(tags)
        for index in range(count)
    ]
    found = client.create_images_from_files(project.id, models.ImageFileCreateBatch(images=entries))
    assert found.is_batch_successful, [image.status for image in found.images]


def wait_for(client: Any, project: Any, iteration: Any) -> Any:
    deadline = time.monotonic() + TIMEOUT
    while iteration.status == "Training":
        assert time.monotonic() < deadline
        time.sleep(0.1)
        iteration = client.get_iteration(project.id, iteration.id)
    return iteration


def options(timm_folder: Path, method: str = "probe") -> list[object]:
    return ["--backbone", f"local-dir:{timm_folder}", "--method", method]


@dataclass
class Trained:
    server: Server
    folder: Path
    client: Any
    project: Any
    tags: dict[str, Any]
    iteration: Any


@pytest.fixture(scope="module")
def trained(timm_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trained]:
    """The quickstart up to the published iteration, with five images of each tag."""
    folder = tmp_path_factory.mktemp("projects")
    with serving("--projects", folder, "--allow-private-urls", *options(timm_folder)) as server:
        client = trainer(server)
        project = client.create_project("colours", classification_type="Multiclass")
        tags = {name: client.create_tag(project.id, name) for name in ("red", "blue")}
        upload(client, project, tags, 5)
        iteration = wait_for(client, project, client.train_project(project.id))
        assert iteration.status == "Completed", iteration.training_error_details
        assert client.publish_iteration(project.id, iteration.id, "classify colours", RESOURCE)
        yield Trained(server, folder, client, project, tags, iteration)


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with projects, and nothing in them."""
    with serving("--projects", tmp_path_factory.mktemp("projects"), "--max-body", 1, "--allow-private-urls") as server:
        yield server


# --- quickstart -------------------------------------------------------------------------------------------------------


def test_the_quickstart_goes_from_create_project_to_classify_image(trained: Trained) -> None:
    for colour, tag in trained.tags.items():
        found = predictor(trained.server).classify_image(trained.project.id, "classify colours", coloured(77, colour))
        assert found.predictions[0].tag_name == colour
        assert {each.tag_name: each.tag_id for each in found.predictions}[colour] == tag.id
        assert (found.iteration, found.project) == (trained.iteration.id, trained.project.id)
    with pytest.raises(Exception, match="Invalid iteration"):
        predictor(trained.server).classify_image(trained.project.id, "unknown", coloured(77, "red"))


def test_projects_tags_images_and_counts_are_listed(trained: Trained) -> None:
    client, project = trained.client, trained.project
    assert [each.name for each in client.get_projects()] == ["colours"]
    assert client.get_project(project.id).settings.classification_type == "Multiclass"
    assert {tag.name: tag.image_count for tag in client.get_tags(project.id)} == {"red": 5, "blue": 5}
    assert client.get_tag(project.id, trained.tags["red"].id).image_count == 5
    assert len({domain.id for domain in client.get_domains()}) == 8
    tagged = client.get_tagged_images(project.id, tag_ids=[trained.tags["red"].id], take=3, skip=1)
    assert [[tag.tag_name for tag in image.tags] for image in tagged] == [["red"]] * 3
    assert client.get_tagged_image_count(project.id) == client.get_image_count(project.id) == 10
    assert (client.get_untagged_images(project.id), client.get_untagged_image_count(project.id)) == ([], 0)
    oldest = client.get_images(project.id, order_by="Oldest", take=256)
    assert [image.id for image in oldest] == [image.id for image in client.get_images(project.id)][::-1]
    assert trained.server.get(oldest[0].original_image_uri.removeprefix(trained.server.url)).content == coloured(
        0, "red"
    )


def test_performance_is_that_of_the_card(trained: Trained) -> None:
    found = trained.client.get_iteration_performance(trained.project.id, trained.iteration.id, threshold=0.5)
    assert {tag.name: tag.id for tag in found.per_tag_performance} == {
        name: tag.id for name, tag in trained.tags.items()
    }
    bundle = trained.folder / trained.project.id / "checkpoints" / trained.iteration.id / "tagger.json"
    expected = {tag["tag"]: tag for tag in json.loads(bundle.read_text())["metrics"]["test"]["tags"]}
    for tag in found.per_tag_performance:
        assert tag.precision == expected[tag.name]["precision"]
        assert tag.average_precision == expected[tag.name]["average_precision"]


def test_suggestions_and_quick_tests_use_any_trained_iteration(trained: Trained) -> None:
    client, project, id = trained.client, trained.project, trained.iteration.id
    images = client.get_tagged_images(project.id, tag_ids=[trained.tags["blue"].id])
    (found,) = client.suggest_tags_and_regions(project.id, id, [images[0].id])
    assert (found.predictions[0].tag_name, 0 <= found.prediction_uncertainty <= 1) == ("blue", True)
    for answer in (
        client.quick_test_image(project.id, coloured(5, "red"), iteration_id=id),
        client.quick_test_image_url(project.id, client.get_images(project.id, order_by="Oldest")[0].original_image_uri),
    ):
        assert answer.predictions[0].tag_name == "red"


def test_images_without_tags_are_suggested_the_most_uncertain_first_until_they_have_one(trained: Trained) -> None:
    client, project, id = trained.client, trained.project, trained.iteration.id
    red, blue = (trained.tags[name].id for name in ("red", "blue"))
    colours = ["red", "blue", "red"]
    added = [client.create_images_from_data(project.id, coloured(700 + n, name)) for n, name in enumerate(colours)]
    ids = [each.images[0].image.id for each in added]
    assert client.query_suggested_image_count(project.id, id, tag_ids=[red, blue], threshold=0.5) == {red: 2, blue: 1}
    token = models.SuggestedTagAndRegionQueryToken(
        tag_ids=[red], threshold=0.5, max_count=1, sort_by="UncertaintyAscending"
    )
    first = client.query_suggested_images(project.id, id, token)
    second = client.query_suggested_images(project.id, id, first.token)
    found = [*first.results, *second.results]
    assert ({each.id for each in found}, second.token.continuation) == ({ids[0], ids[2]}, None)
    assert found[0].prediction_uncertainty <= found[1].prediction_uncertainty
    assert {each.predictions[0].tag_name for each in found} == {"red"}
    client.create_image_tags(project.id, tags=[models.ImageTagCreateEntry(image_id=ids[0], tag_id=red)])
    (left,) = client.query_suggested_images(project.id, id, token).results
    assert left.id == ids[2]
    client.delete_images(project.id, ids)


def test_an_iteration_is_exported_as_a_zip_that_is_a_model(trained: Trained, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="needs the extra `onnx`")
    client, project, id = trained.client, trained.project, trained.iteration.id
    with pytest.raises(models.CustomVisionErrorException, match="iterations are exported to ONNX"):
        client.export_iteration(project.id, id, "CoreML")
    found = client.export_iteration(project.id, id, "ONNX", flavor="ONNX12")
    assert found.status == "Exporting"
    for call in (
        lambda: client.export_iteration(project.id, id, "ONNX"),
        lambda: client.delete_iteration(project.id, id),
    ):
        with pytest.raises(models.CustomVisionErrorException, match="is being exported"):
            call()
    deadline = time.monotonic() + TIMEOUT
    while found.status == "Exporting" and time.monotonic() < deadline:
        time.sleep(0.1)
        (found,) = client.get_exports(project.id, id)
    assert (found.status, found.flavor) == ("Done", "ONNX12")
    content = trained.server.get(found.download_uri.removeprefix(trained.server.url)).content
    (tmp_path / "colours.zip").write_bytes(content)
    rows = tagger.load(tmp_path / "colours.zip", device="cpu").predict([coloured(77, "red"), coloured(77, "blue")])
    assert [row["top_tag"] for row in rows] == ["red", "blue"]


def test_stored_predictions_are_queried_and_become_training_images(trained: Trained) -> None:
    client, project, classify = trained.client, trained.project, predictor(trained.server)
    for number in range(3):
        content = coloured(500 + number, "blue")
        classify.classify_image(project.id, "classify colours", content, application="stored")
        classify.classify_image_with_no_store(project.id, "classify colours", coloured(600, "red"))
    token = models.PredictionQueryToken(order_by="Oldest", max_count=2, application="stored")
    first = client.query_predictions(project.id, token)
    second = client.query_predictions(project.id, first.token)
    found = [*first.results, *second.results]
    assert ([len(page.results) for page in (first, second)], second.token.continuation) == ([2, 1], None)
    link = found[2].original_image_uri.removeprefix(trained.server.url)
    assert trained.server.get(link).content == coloured(502, "blue")
    ids = {tag.tag_name: tag.tag_id for tag in found[0].predictions}
    rare = models.PredictionQueryTag(id=ids["red"], min_threshold=0.99, max_threshold=1)
    assert (
        client.query_predictions(project.id, models.PredictionQueryToken(tags=[rare], application="stored")).results
        == []
    )
    entries = [models.ImageIdCreateEntry(id=each.id, tag_ids=[ids["blue"]]) for each in found[:2]]
    batch = models.ImageIdCreateBatch(images=[*entries, models.ImageIdCreateEntry(id=project.id)])
    made = client.create_images_from_predictions(project.id, batch)
    assert [image.status for image in made.images] == ["OK", "OK", "ErrorImageNotFound"]
    client.delete_images(project.id, [image.image.id for image in made.images[:2]])
    client.delete_prediction(project.id, [found[2].id])
    assert client.query_predictions(project.id, models.PredictionQueryToken(application="stored")).results == []


def test_a_training_without_changes_is_refused_and_a_published_iteration_is_not_deleted(trained: Trained) -> None:
    client, project = trained.client, trained.project
    with pytest.raises(models.CustomVisionErrorException, match="Nothing changed since last training"):
        client.train_project(project.id)
    with pytest.raises(models.CustomVisionErrorException, match="unpublish the iteration first"):
        client.delete_iteration(project.id, trained.iteration.id)
    with pytest.raises(models.CustomVisionErrorException, match="unpublish the iterations"):
        client.delete_project(project.id)
    assert client.update_iteration(project.id, trained.iteration.id, "first").name == "first"
    (iteration,) = client.get_iterations(project.id)
    assert (iteration.name, iteration.publish_name) == ("first", "classify colours")


def test_tagger_train_reads_what_a_project_trained_on(trained: Trained) -> None:
    (path,) = (trained.folder / trained.project.id / "trainings").glob("*.parquet")
    found = tagger.ingest(path, path.parent.parent / "copy.parquet")
    assert len(found) == 10
    assert sorted(label for (label,) in found.table["labels"].to_pylist()) == ["blue"] * 5 + ["red"] * 5


# --- images and tags --------------------------------------------------------------------------------------------------


def test_each_image_of_a_batch_has_its_own_status(empty: Server, site: str) -> None:  # noqa: F811
    client = trainer(empty)
    project = client.create_project("statuses")
    a, b = (client.create_tag(project.id, name) for name in "ab")
    negative = client.create_tag(project.id, "none", type="Negative")

    def files(*entries: tuple[bytes, list[Any]]) -> list[str]:
        made = [
            models.ImageFileCreateEntry(contents=content, tag_ids=[tag.id for tag in tags]) for content, tags in entries
        ]
        return [
            image.status
            for image in client.create_images_from_files(project.id, models.ImageFileCreateBatch(images=made)).images
        ]

    unknown = models.Tag(name="x", description="", type="Regular")
    unknown.id = project.id
    found = files(
        (jpeg(1), [a]), (jpeg(1), [a]), (jpeg(2), []), (b"text", [a]), (b"", [a]), (jpeg(3)[:500], [a]), (bomb(), [a]),
        (bytes(2 << 20), [a]), (jpeg(1), [b]), (jpeg(4), [a, b]), (jpeg(1), [negative]), (jpeg(5), [negative]),
        (jpeg(6), [unknown]),
    )  # fmt: skip
    assert found == [
        "OK", "OKDuplicate", "OK", "ErrorImageFormat", "ErrorSource", "ErrorImageFormat", "ErrorImageDimensions",
        "ErrorImageSize", "ErrorTagLimitExceed", "ErrorTagLimitExceed", "ErrorNegativeAndRegularTagOnSameImage", "OK",
        "ErrorInvalidTag",
    ]  # fmt: skip
    data = client.create_images_from_data(project.id, jpeg(7), [a.id])
    assert (data.is_batch_successful, data.images[0].image.tags[0].tag_name) == (True, "a")
    urls = [f"{site}/cat.jpg", f"{site}/missing", "file:///etc/passwd", f"{site}/endless"]
    entries = [models.ImageUrlCreateEntry(url=url) for url in urls]
    batch = client.create_images_from_urls(project.id, models.ImageUrlCreateBatch(images=entries, tag_ids=[b.id]))
    assert [image.status for image in batch.images] == ["OK", "ErrorSource", "ErrorSource", "ErrorImageSize"]
    assert [image.source_url for image in batch.images] == urls
    assert client.get_tagged_image_count(project.id) == 4
    several = multipart(jpeg(8))["content"].removesuffix(b"--b0--\r\n") + multipart(jpeg(9))["content"]
    answer = empty.post(f"{TRAINING}/projects/{project.id}/images", several, headers=KEY | multipart(b"")["headers"])
    assert [image["status"] for image in answer.json()["images"]] == ["OK", "OK"]


def test_tags_are_given_taken_renamed_and_deleted(empty: Server) -> None:
    client = trainer(empty)
    project = client.create_project("several", classification_type="Multilabel")
    a, b = (client.create_tag(project.id, name) for name in "ab")
    (image,) = (each.image for each in client.create_images_from_data(project.id, jpeg(), [a.id]).images)
    pairs = [models.ImageTagCreateEntry(image_id=image.id, tag_id=tag.id) for tag in (a, b, b)]
    created = client.create_image_tags(project.id, tags=pairs)
    assert [len(found) for found in (created.created, created.duplicated, created.exceeded)] == [1, 2, 0]
    client.delete_image_tags(project.id, [image.id], [a.id])
    client.update_tag(project.id, b.id, models.Tag(name="c", description="d", type="Regular"))
    (found,) = client.get_images_by_ids(project.id, [image.id])
    assert [tag.tag_name for tag in found.tags] == ["c"]
    with pytest.raises(models.CustomVisionErrorException, match="named 'c' already exists"):
        client.create_tag(project.id, "c")
    client.delete_tag(project.id, b.id)
    assert client.get_untagged_image_count(project.id) == 1
    client.delete_images(project.id, [image.id])
    assert client.get_image_count(project.id) == 0
    client.delete_project(project.id)
    assert project.id not in [each.id for each in client.get_projects()]


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("GET", "projects/..%2F..%2Fetc", b"", 400, "BadRequestInvalidIds"),
        ("GET", "projects/00000000-0000-0000-0000-000000000000", b"", 404, "NotFoundProject"),
        ("GET", "PROJECT/tags/00000000-0000-0000-0000-000000000000", b"", 404, "NotFoundTag"),
        ("GET", "PROJECT/images/id?imageIds=..", b"", 400, "BadRequestInvalidIds"),
        ("GET", "PROJECT/images?take=1000", b"", 400, "BadRequest"),
        ("GET", "PROJECT/images?skip=nan", b"", 400, "BadRequest"),
        ("GET", "PROJECT/nothing", b"", 404, "NotFound"),
        ("POST", "projects", b"", 400, "BadRequestRequiredParamIsNull"),
        ("POST", "projects?name=bad", b"", 400, "BadRequestProjectNameNotUnique"),
        ("POST", "projects?name=" + "a" * 300, b"", 400, "BadRequest"),
        ("POST", "projects?name=b&classificationType=Detect", b"", 400, "BadRequestProjectUnknownClassification"),
        ("POST", "projects?name=b&domainId=00000000-0000-0000-0000-000000000000", b"", 404, "NotFoundDomain"),
        ("POST", "PROJECT/images/files", b"[" * 100_000, 400, "BadRequest"),
        ("POST", "PROJECT/images/files", b'{"images": 5}', 400, "BadRequestImageBatch"),
        ("POST", "PROJECT/images/files", b'{"images": [' + b"{}," * 64 + b"{}]}", 400, "BadRequestExceededBatchSize"),
        ("POST", "PROJECT/tags?name=a&type=Strange", b"", 400, "BadRequestTagType"),
        ("POST", "PROJECT/train", b"", 400, "BadRequestTrainingValidationFailed"),
        ("POST", "PROJECT/train", bytes(2 << 20), 400, "BadRequestImageSizeBytes"),
    ],
)  # fmt: skip
def test_bad_calls_are_refused(empty: Server, method: str, path: str, body: bytes, status: int, code: str) -> None:
    import httpx

    client = trainer(empty)
    bad = next((each for each in client.get_projects() if each.name == "bad"), None) or client.create_project("bad")
    url = f"{empty.url}{TRAINING}/{path.replace('PROJECT', f'projects/{bad.id}')}"
    answer = httpx.request(method, url, content=body, headers=KEY, timeout=TIMEOUT)
    assert (answer.status_code, answer.json()["code"]) == (status, code)


def test_training_calls_need_a_header_that_other_web_pages_cannot_send(empty: Server) -> None:
    answer = empty.post(f"{TRAINING}/projects?name=forged")
    assert (answer.status_code, answer.json()["code"]) == (401, "401")
    assert "forged" not in [project.name for project in trainer(empty).get_projects()]


def test_links_to_images_cannot_be_made_up(trained: Trained) -> None:
    image = trained.client.get_images(trained.project.id)[0]
    path = image.original_image_uri.removeprefix(trained.server.url)
    forged = [path[:-1] + ("0" if path[-1] != "0" else "1"), path.replace("se=", "se=9"), path.partition("?")[0]]
    assert [trained.server.get(each).status_code for each in (path, *forged)] == [200, 403, 403, 403]


def test_images_that_are_added_and_deleted_at_the_same_time_are_whole(empty: Server) -> None:
    client = trainer(empty)
    project = client.create_project("hurried")

    def add(_: int) -> None:
        client.create_images_from_data(project.id, jpeg())

    def delete(_: int) -> None:
        for image in client.get_images(project.id):
            with contextlib.suppress(models.CustomVisionErrorException):  # deleted by another thread
                client.delete_images(project.id, [image.id])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: (add, delete)[number % 2](number), range(60)))
    add(0)
    (image,) = client.get_images(project.id)
    assert empty.get(image.original_image_uri.removeprefix(empty.url)).content == jpeg()


# --- kills ------------------------------------------------------------------------------------------------------------


def test_a_killed_server_has_lost_no_image_and_no_tag_that_it_had_answered(tmp_path: Path) -> None:
    answered: dict[str, str] = {}
    for kill in (1, 2):
        with serving("--projects", tmp_path / "projects") as server:
            client = trainer(server)
            project = assert_whole(client, answered) if answered else client.create_project("killed")
            uploading = threading.Thread(target=upload_forever, args=(client, project, 1000 * kill, answered))
            uploading.start()
            wait_until(lambda least=20 * kill: len(answered) > least, server.process)  # type: ignore[misc]
            server.process.kill()
            uploading.join(TIMEOUT)
    with serving("--projects", tmp_path / "projects") as server:
        assert_whole(trainer(server), answered)
        assert not list((tmp_path / "projects").rglob("_tmp-*"))


def test_what_a_full_disk_does_not_take_is_refused_and_what_was_answered_stays(tmp_path: Path) -> None:
    large = encoded(noise(), "PNG")
    assert len(large) > ROOM
    with serving("--projects", tmp_path / "projects", preexec_fn=little_room) as server:
        client = trainer(server)
        project = client.create_project("full")
        statuses = [
            client.create_images_from_data(project.id, content).images[0].status for content in (jpeg(), large, jpeg(1))
        ]
        assert statuses == ["OK", "ErrorStorage", "OK"]
        names: list[str] = []
        with pytest.raises(models.CustomVisionErrorException, match="nothing was changed") as raised:
            create_tags(client, project, names)
        assert raised.value.response.status_code == 507
        assert [tag.name for tag in client.get_tags(project.id)] == names
    with serving("--projects", tmp_path / "projects") as server:
        client = trainer(server)
        assert [tag.name for tag in client.get_tags(project.id)] == names
        assert client.get_image_count(project.id) == 2
        client.create_tag(project.id, "one more")


def create_tags(client: Any, project: Any, names: list[str]) -> None:
    for number in range(1000):
        client.create_tag(project.id, str(number))
        names.append(str(number))


ROOM = 40_000
"""Bytes of a file that a server may write."""


def little_room() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (ROOM, ROOM))


def noise() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (150, 150, 3), dtype=np.uint8))


def upload_forever(client: Any, project: Any, number: int, answered: dict[str, str]) -> None:
    with contextlib.suppress(Exception):  # until the server is gone
        while True:
            number += 1
            tag = client.create_tag(project.id, str(number))
            found = client.create_images_from_data(project.id, jpeg(number), [tag.id])
            answered[found.images[0].image.id] = tag.name


def assert_whole(client: Any, answered: dict[str, str]) -> Any:
    (project,) = client.get_projects()
    images = {image.id: image for image in client.get_images(project.id, take=256)}
    assert {id: images[id].tags[0].tag_name for id in answered} == answered
    return project


def test_a_folder_that_was_renamed_is_one_clear_error(trained: Trained, run_tagger: Any, tmp_path: Path) -> None:
    shutil.copytree(trained.folder / trained.project.id, tmp_path / "projects" / "renamed")
    ran = run_tagger("serve", "--projects", tmp_path / "projects", "--port", 0)
    assert (ran.returncode, "journal.jsonl: belongs to another project" in ran.stderr) == (1, True)


@pytest.mark.slow
def test_a_checkpoint_that_was_deleted_is_the_error_of_its_predictions(trained: Trained, tmp_path: Path) -> None:
    copy = shutil.copytree(trained.folder, tmp_path / "projects")
    shutil.rmtree(next(copy.glob("*/checkpoints")))
    with serving("--projects", copy) as server, pytest.raises(Exception, match="the iteration cannot be loaded: "):
        predictor(server).classify_image(trained.project.id, "classify colours", coloured(0, "red"))


def test_a_training_that_was_killed_with_the_server_goes_on(timm_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "projects"
    arguments = ["--projects", folder, *options(timm_folder, "finetune"), "--epochs", 300]
    with serving(*arguments) as server:
        client = trainer(server)
        project = client.create_project("colours")
        tags = {name: client.create_tag(project.id, name) for name in ("red", "blue")}
        upload(client, project, tags, 12)
        iteration = client.train_project(project.id)
        assert iteration.status == "Training"
        with pytest.raises(models.CustomVisionErrorException, match="a training is in progress") as raised:
            client.train_project(project.id, force_train=True)
        assert raised.value.response.status_code == 409
        state = folder / project.id / "checkpoints" / iteration.id / "_training.pt"
        wait_until(state.exists, server.process)
        (child,) = children(server.process.pid)
        assert os.getpriority(os.PRIO_PROCESS, child) == min(
            19, os.getpriority(os.PRIO_PROCESS, server.process.pid) + 5
        )
        server.process.kill()
        server.process.wait(TIMEOUT)
    deadline = time.monotonic() + TIMEOUT
    while Path(f"/proc/{child}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    with serving(*arguments, start_new_session=True) as server:
        wait_until(lambda: children(server.process.pid), server.process)
        os.kill(children(server.process.pid)[0], signal.SIGSTOP)  # it does not hold up the end of the server
        os.killpg(server.process.pid, signal.SIGINT)  # Ctrl-C
        assert server.process.wait(TIMEOUT) == 0
    with serving(*arguments) as server:
        client = trainer(server)
        found = wait_for(client, project, client.get_iteration(project.id, iteration.id))
        assert found.status == "Completed", found.training_error_details
    log = (folder / project.id / "trainings" / f"{iteration.id}.log").read_text()
    assert log.count("labelled images") >= 2
    curve = json.loads((state.parent / "tagger.json").read_text())["training"]["curve"]
    assert [epoch["epoch"] for epoch in curve] == list(range(1, len(curve) + 1))
    assert f"\nepoch {len(curve)}/300: loss " in log


def children(pid: int) -> list[int]:
    return [
        int(each) for task in Path(f"/proc/{pid}/task").iterdir() for each in (task / "children").read_text().split()
    ]


def test_a_training_that_fails_says_why_once_the_disk_takes_it(tmp_path: Path) -> None:
    arguments = ["--projects", tmp_path / "projects", "--backbone", "local-dir:nowhere"]
    with serving(*arguments, preexec_fn=without_root_powers) as server:
        client = trainer(server)
        project = client.create_project("colours")
        upload(client, project, {name: client.create_tag(project.id, name) for name in ("red", "blue")}, 5)
        begun = client.train_project(project.id)
        folder = tmp_path / "projects" / project.id
        (folder / "journal.jsonl").chmod(0o400)
        log = folder / "trainings" / f"{begun.id}.log"
        wait_until(lambda: log.exists() and "nowhere" in log.read_text(), server.process)
        time.sleep(1)
        assert client.get_iteration(project.id, begun.id).status == "Training"
        (folder / "journal.jsonl").chmod(0o600)
        found = wait_for(client, project, begun)
        assert (found.status, "nowhere" in found.training_error_details) == ("Failed", True)
        client.delete_iteration(project.id, found.id)
        client.delete_project(project.id)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(TIMEOUT) == 0
    assert not list(tmp_path.rglob("*.png"))


# --- the journal ------------------------------------------------------------------------------------------------------


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    path = tmp_path / "journal.jsonl"
    path.write_bytes(line_of(("tags", "1", {"name": "a"})) + line_of(("tags", "2", {"name": "b"}), ("tags", "1", None)))
    return path


@pytest.mark.parametrize("torn", [b'[["tags","3",{"na', b'[["tags","3",{}]]', b"\0" * 100, b'[["tags",3,{}]]\n'])
def test_a_torn_last_line_is_dropped_and_the_next_change_follows_the_whole_ones(journal: Path, torn: bytes) -> None:
    whole = journal.read_bytes()
    journal.write_bytes(whole + torn)
    found = Journal(journal)
    assert found.of("tags") == {"2": {"name": "b"}}
    found.write(("tags", "4", {"name": "d"}))
    assert journal.read_bytes() == whole + line_of(("tags", "4", {"name": "d"}))
    assert Journal(journal).of("tags") == {"2": {"name": "b"}, "4": {"name": "d"}}


def test_a_line_that_is_damaged_in_the_middle_is_an_error_with_its_number(journal: Path) -> None:
    journal.write_bytes(b"damaged\n" + journal.read_bytes())
    with pytest.raises(TableError, match="line 1 is damaged"):
        Journal(journal)


def test_a_change_that_cannot_be_written_is_not_made(journal: Path) -> None:
    found = Journal(journal)
    journal.unlink()
    with pytest.raises(WriteError, match="nothing was changed"):
        found.write(("tags", "4", {"name": "d"}))
    assert found.of("tags") == {"2": {"name": "b"}}


def test_a_journal_of_mostly_replaced_records_is_written_anew(journal: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tagger.serving.projects.journal.COMPACTED", 100)
    found = Journal(journal)
    for number in range(50):
        found.write(("tags", "2", {"name": str(number)}))
    long = journal.stat().st_size
    assert Journal(journal).of("tags") == {"2": {"name": "49"}}
    assert journal.stat().st_size < long / 10
    assert Journal(journal).of("tags") == {"2": {"name": "49"}}


def test_one_server_holds_a_folder_of_projects(empty: Server, run_tagger: Any, tmp_path: Path) -> None:
    with serving("--projects", tmp_path / "held"):
        ran = run_tagger("serve", "--projects", tmp_path / "held", "--port", 0)
        assert (ran.returncode, "another process is writing to this folder" in ran.stderr) == (1, True)
