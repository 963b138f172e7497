"""One training of a project, in a separate process: `python -m tagger.serving.projects.process DATASET OUT OPTIONS`.

It ends with the server, however the server ends, because its stdin is a pipe from it. When started again with the same
arguments, it continues where it stopped.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import threading
from collections import Counter
from dataclasses import replace
from pathlib import Path

from filelock import FileLock

from tagger import checkpoint, storage
from tagger.data import dataset as datasets
from tagger.data.dataset import Dataset
from tagger.errors import TaggerError
from tagger.training.config import TrainConfig
from tagger.training.data import Callbacks
from tagger.training.train import UNFINISHED, train

SMALL = 20
"""Number of images of a label below which some seeds may put none of them into val."""
SEEDS = 50
NICE = 5
"""Niceness of a training: predictions have priority. On busy processors a training gets a quarter of the time; at 10 it
got a tenth, and an epoch took minutes."""
LOCK_SECONDS = 120.0
"""Maximum time to wait for the previous process to end."""


def main() -> None:
    """Train with the options in the arguments; an error is the last line on stderr."""
    threading.Thread(target=_end_with_server, daemon=True).start()
    dataset, out, options = sys.argv[1:]
    if hasattr(os, "nice"):
        os.nice(NICE)
    try:
        with FileLock(Path(out).parent / storage.LOCK, timeout=LOCK_SECONDS):
            run(dataset, out, TrainConfig(**json.loads(options)))
    except TaggerError as error:
        sys.exit(" ".join(str(error).split()))


def run(dataset: str, out: str, config: TrainConfig) -> None:
    """Train, or continue a training that was killed."""
    unfinished = os.path.exists(os.path.join(out, UNFINISHED))
    if os.path.exists(os.path.join(out, checkpoint.BUNDLE)) and not unfinished:
        return
    if not unfinished:
        shutil.rmtree(out, ignore_errors=True)
    config = replace(config, seed=seed_for(dataset, config))
    train(dataset, out, config, unfinished, Callbacks(say=_log, on_epoch=lambda epoch: _log(epoch.text())))


def _log(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def seed_for(dataset: str, config: TrainConfig) -> int:
    """Return the first seed whose splits have all labels, or the most: a label with few images may have none in val."""
    found = datasets.read_dataset(dataset, config.multilabel)
    if min(found.truth.sum(axis=0)) >= SMALL:
        return config.seed
    images, scanned = datasets.scan(dataset, found)
    return max(
        range(config.seed, config.seed + SEEDS), key=lambda seed: _labels_held(datasets.split(images, scanned, seed)[0])
    )


def _labels_held(images: Dataset) -> tuple[int, int, int]:
    held = Counter(split for split, counts in images.counts().items() for count in counts.values() if count)
    return held["train"], held["val"], held["test"]


def _end_with_server() -> None:
    os.read(0, 1)  # sys.stdin has a lock, which this thread would hold when the interpreter ends
    os._exit(1)


if __name__ == "__main__":
    main()
