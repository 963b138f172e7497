"""`kill -9` of `tagger serve` at random moments of an upload and of a training: are all confirmed uploads there?

    python -m benchmarks.serving_kills LABELLED --backbone MODEL [--kills 10] [--epochs 6] [--seed 0]

LABELLED has one folder of images per tag. Microsoft's client uploads them with their tags, while the server is killed
and restarted `--kills` times; then the project is trained, with as many kills. Prints how many uploads were lost, and
the longest time without a finished epoch after the last kill.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from azure.cognitiveservices.vision.customvision.training import CustomVisionTrainingClient, models
from msrest.authentication import ApiKeyCredentials

from benchmarks import machine
from benchmarks.serving import COMMAND

BATCH = 8
LIMIT = 1800.0
"""Maximum seconds of any step."""


@contextmanager
def server(*options: object) -> Iterator[tuple[Any, subprocess.Popen[str]]]:
    """Start a server; yield a client and the process, which is killed at the end."""
    command = [*COMMAND, "serve", "--port", "0", *map(str, options)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        url = process.stdout.readline().split()[-1]
        credentials = ApiKeyCredentials(in_headers={"Training-key": "any"})
        client = CustomVisionTrainingClient(url, credentials)  # type: ignore[no-untyped-call]
        client.config.retry_policy.retries = 0
        try:
            yield client, process
        finally:
            process.kill()


def upload(client: Any, project: Any, left: list[tuple[Path, str]], answered: dict[str, str]) -> None:
    """Upload images until none is left or the server is killed; record the confirmed ones in `answered`."""
    with suppress(Exception):
        while left:
            some = left[:BATCH]
            entries = [
                models.ImageFileCreateEntry(name=path.name, contents=bytearray(path.read_bytes()), tag_ids=[tag])
                for path, tag in some
            ]
            found = client.create_images_from_files(project.id, models.ImageFileCreateBatch(images=entries))
            answered |= {image.image.id: tag for image, (_, tag) in zip(found.images, some, strict=True)}
            del left[:BATCH]


def lost(client: Any, project: Any, answered: dict[str, str]) -> int:
    """Return how many confirmed images the project lacks, or has with other tags."""
    there: dict[str, list[str]] = {}
    for skip in range(0, client.get_image_count(project.id), 256):
        for image in client.get_images(project.id, take=256, skip=skip):
            there[image.id] = [tag.tag_id for tag in image.tags or ()]
    return sum(there.get(id) != [tag] for id, tag in answered.items())


def upload_with_kills(options: list[object], labelled: Path, kills: int, chance: random.Random) -> tuple[Any, int, int]:
    """Upload the images, with kills; return the project and the numbers of images confirmed and lost."""
    answered: dict[str, str] = {}
    with server(*options) as (client, _):
        project = client.create_project("killed")
        tags = {path.name: client.create_tag(project.id, path.name).id for path in sorted(labelled.iterdir())}
    left = [(path, tags[path.parent.name]) for path in sorted(labelled.glob("*/*.*"))]
    chance.shuffle(left)
    for _ in range(kills):
        with server(*options) as (client, process):
            thread = threading.Thread(target=upload, args=(client, project, left, answered))
            thread.start()
            thread.join(chance.uniform(0, 0.5))
            process.kill()
            thread.join(LIMIT)
    with server(*options) as (client, _):
        upload(client, project, left, answered)
        return project, len(answered), lost(client, project, answered)


def epochs_in(log: Path) -> int:
    """Return the number of finished epochs, including repeated ones."""
    return log.read_text().count("\nepoch ") if log.exists() else 0


def train_with_kills(options: list[object], folder: Path, project: Any, kills: int, chance: random.Random) -> float:
    """Train the project, with kills; return the longest time without progress after the last one."""
    with server(*options) as (client, _):
        iteration = client.train_project(project.id)
        time.sleep(chance.uniform(0, 20))
    log = folder / project.id / "trainings" / f"{iteration.id}.log"
    for number in range(kills - 1):
        with server(*options):
            time.sleep(chance.uniform(0, 40))
        print(f"kill {number + 2} of the training: {epochs_in(log)} epochs so far", file=sys.stderr, flush=True)
    with server(*options) as (client, _):
        started, progressed, longest, seen = time.monotonic(), time.monotonic(), 0.0, log.stat().st_size
        while (found := client.get_iteration(project.id, iteration.id)).status == "Training":
            assert time.monotonic() - started < LIMIT, "the training did not end"
            time.sleep(0.2)
            if log.stat().st_size != seen:
                progressed, seen = time.monotonic(), log.stat().st_size
            longest = max(longest, time.monotonic() - progressed)
        assert found.status == "Completed", found.training_error_details
    return longest


def main() -> None:
    """Parse the arguments, run both tests, print the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("labelled", type=Path)
    parser.add_argument("--backbone", required=True)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    chance = random.Random(given.seed)
    with tempfile.TemporaryDirectory() as folder:
        options = ["--projects", folder, "--backbone", given.backbone, "--method", "finetune", "--epochs", given.epochs]
        project, images, missing = upload_with_kills(options, given.labelled, given.kills, chance)
        print(f"{machine.describe()}; seed {given.seed}", flush=True)
        print(f"upload: {given.kills} kills, {images} images answered, {missing} of them lost", flush=True)
        longest = train_with_kills(options, Path(folder), project, given.kills, chance)
        print(f"training: {given.kills} kills, completed; at most {longest:.0f} s without progress after the last")


if __name__ == "__main__":
    main()
