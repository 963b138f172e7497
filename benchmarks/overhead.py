"""The overhead of the pipeline itself: `tagger tag` with a stub in place of the network, on tiny JPEGs.

    python -m benchmarks.overhead [--files 20000] [--side 32] [--rounds 3] [--workers N]

Prints, for each round, images/s of a run (without listing and planning, with writing the rows) and the CPU time per
image; then the time per image in one thread for reading, hashing and decoding alone, and for the rest of the pipeline:
the Python code that holds the GIL.
"""

from __future__ import annotations

import argparse
import io
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks import machine
from tagger import checkpoint
from tagger.checkpoint.info import ModelInfo
from tagger.images import UInt8Array
from tagger.inference import batch as batches_of
from tagger.inference.batch import Decoding
from tagger.inference.engines import Float32Array
from tagger.inference.model import Model
from tagger.inference.pipeline import infer
from tagger.tagging import rows, run
from tagger.tagging.config import TagConfig
from tagger.tagging.plan import Target


class Stub:
    """An engine that takes no time."""

    name, batch_size, concurrency, shares_cores, images_per_second = "stub", 8, 2, True, None

    def __init__(self, classes: int) -> None:
        self._scores = np.random.default_rng(0).random((64, classes), dtype=np.float32)

    def __call__(self, images: UInt8Array) -> tuple[Float32Array, Float32Array]:
        """Return the same scores for any images."""
        return np.resize(self._scores, (len(images), self._scores.shape[1])), np.zeros((len(images), 8), np.float32)


class Stubs(run.Models):
    """The models of a run, with the stub as their engine."""

    def get(self, target: Target, config: TagConfig) -> Model:
        """Return a model without its network."""
        info = _info(target.model)
        return Model(info, Stub(len(info.label_names)), config.selector(info), config)


def _info(model: str) -> ModelInfo:
    """Return the description of a model, without statistics: these do not fit the stub's embeddings."""
    return replace(checkpoint.describe(model), statistics=None)


def main() -> None:
    """Parse the arguments, create the files, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=20_000)
    parser.add_argument("--side", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int)
    parser.add_argument("--model", default="checkpoints/cifar10-speedrun")
    arguments = parser.parse_args()
    print(machine.describe())
    with tempfile.TemporaryDirectory() as folder:
        photos = _make_files(Path(folder) / "photos", arguments.files, arguments.side)
        rates = [_run(photos, Path(folder) / f"out{index}", arguments) for index in range(arguments.rounds)]
        print(f"pipeline: median {statistics.median(rates):,.0f} images/s")
        _alone(photos, arguments.model)


def _make_files(folder: Path, count: int, side: int) -> Path:
    """Write 64 different JPEGs, and hard links to them."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for index in range(count):
        path = folder / f"{index:07d}.jpg"
        if index < 64:
            Image.fromarray(rng.integers(0, 255, (side, side, 3), dtype=np.uint8)).save(path, quality=90)
        else:
            path.hardlink_to(folder / f"{index % 64:07d}.jpg")
    return folder


def _run(photos: Path, out: Path, arguments: argparse.Namespace) -> float:
    config = TagConfig(precision="fp32", workers=arguments.workers)
    plan = run.prepare(str(photos), arguments.model, str(out), config)
    started, used = time.perf_counter(), time.process_time()
    counts = run.run_shards(plan, range(plan.shards), Stubs())
    seconds = time.perf_counter() - started
    used = time.process_time() - used
    rate = counts.files / seconds
    print(f"  {rate:,.0f} images/s, {1000 * used / counts.files:.3f} ms of this process's CPU time per image")
    return rate


def _alone(photos: Path, model: str) -> None:
    """Time the stages in one thread: reading, hashing and decoding alone, then the whole pipeline."""
    info = _info(model)
    stub = Model(info, Stub(len(info.label_names)), TagConfig().selector(info))
    plan = run.prepare(str(photos), model, str(photos.parent / "alone"), TagConfig())
    how = Decoding.of([info.preprocessing], TagConfig().limits)
    entries = plan.entries.slice(0, 4096)
    started = time.perf_counter()
    contents = [batches_of.read(source) for source in rows.batch_of(entries).sources]
    read = time.perf_counter() - started
    bare = _timed(contents)
    started = time.perf_counter()
    cut = list(batches_of.batched([rows.batch_of(entries)], how.files))
    decoding = time.perf_counter()
    for number, batch in enumerate(cut):
        batch.pixels = how.room(len(batch))
        files = contents[number * how.files : number * how.files + len(batch)]
        batch.facts = batches_of.decode(files, batch.models, how, batch.pixels, batches_of.Clock())
    decoded = time.perf_counter()
    tables = [rows.rows_of(batch, 0)[0] for batch in infer(cut, [stub], how)]
    rows.finished([tables], [{**stub.columns(), "run_id": "", "tagged_at": None}])
    done = time.perf_counter()
    count = len(entries)
    print(
        f"one thread, per image: {1000 * read / count:.3f} ms to read and hash, {1000 * bare / count:.3f} ms to decode"
    )
    print(f"  decoded through the pipeline: {1000 * (decoded - decoding) / count:.3f} ms")
    print(f"  batches, rows, columns: {1000 * (done - decoded + decoding - started) / count:.3f} ms")


def _timed(contents: list[batches_of.Content]) -> float:
    """Return the seconds that Pillow alone takes to decode the images."""
    started = time.perf_counter()
    for content in contents:
        with Image.open(io.BytesIO(content.content)) as image:  # type: ignore[arg-type]
            np.asarray(image.convert("RGB"))
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
