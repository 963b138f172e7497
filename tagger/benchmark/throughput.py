"""Measure the throughput of each stage of tagging alone on this machine, and of a whole run."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa
from PIL import Image

from tagger import checkpoint, hardware, schema, storage
from tagger.checkpoint.info import Json, ModelInfo
from tagger.data import manifest
from tagger.errors import SourceError
from tagger.images import UInt8Array
from tagger.inference import engines
from tagger.inference.batch import FILES, Batch, Decoding, batched
from tagger.inference.ceilings import Ceilings
from tagger.inference.decoders import readers_for
from tagger.inference.pipeline import bounded
from tagger.inference.workers import decoder_for
from tagger.tagging import run
from tagger.tagging.config import TagConfig

IMAGES = 64
"""Number of images generated if no source is given; further ones are hard links to these."""


T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Throughput:
    """Images/s of every stage alone, and of a whole run."""

    model: str
    engine: str
    files: int
    ceilings: Ceilings
    achieved: float
    """A whole run, rows written, without start-up; if the run is too short to measure that, with start-up."""
    start_up: float
    """Seconds from the start of the run to its first rows."""

    def rows(self) -> list[list[str]]:
        """Return the rows of the table: stage, images/s, meaning."""
        bound, by = self.ceilings.bound() or (0.0, "")
        stages = {
            "storage": (self.ceilings.storage, "every file read, nothing else"),
            "decode": (self.ceilings.decode, f"read and decoded on {hardware.cores()} cores"),
            "model": (self.ceilings.model, self.engine),
            "bound": (bound, f"set by {by}" + ", which share the cores" * (by == "decode and model")),
            "achieved": (self.achieved, f"{self.achieved / bound:.0%} of the bound" if bound else ""),
        }
        return [[name, f"{rate or 0:,.0f}", what] for name, (rate, what) in stages.items()]

    def text(self) -> str:
        """Return a line on what was measured, on which machine."""
        return (
            f"{self.model}, {self.files:,} files, {hardware.cores()} cores of {hardware.processor()}; "
            f"first rows after {self.start_up:.1f} s; at most {hardware.peak_memory() / 1e9:.2f} GB of memory"
        )

    def to_dict(self) -> Json:
        """Return all results as plain values."""
        bound, by = self.ceilings.bound() or (None, None)
        return {**asdict(self), "bound": bound, "bound_by": by, "processor": hardware.processor()}


def measure(model: str, source: str | None, config: TagConfig, limit: int = 1000) -> Throughput:
    """Run every stage alone, then all together, on the same files. Raises SourceError if no file can be decoded."""
    with tempfile.TemporaryDirectory() as folder:
        source = source or _make_images(Path(folder) / "images", limit)
        table = manifest.read_source(source).table.slice(0, limit)
        uris = manifest.locations(table)
        info = checkpoint.describe(model)
        engine = engines.load(info, checkpoint.build, config.choice, config.batch_size)
        storage_rate, _ = _timed(_read, uris, readers_for(uris[:1]))
        decode_rate, pixels = _decode(uris, info, config)
        if not len(pixels):
            raise SourceError(f"{source}: none of its {len(uris):,} files can be decoded; give a folder of photographs")
        batches = [pixels[i : i + engine.batch_size] for i in range(0, len(pixels), engine.batch_size)]
        engine(batches[0])
        model_rate, _ = _timed(engine, batches, engine.concurrency)
        per_batch = len(pixels) / len(batches)
        ceilings = Ceilings(storage_rate, decode_rate, model_rate * per_batch, engine.shares_cores)
        achieved, start_up = _run(table, model, Path(folder), config)
        return Throughput(info.name, engine.name, len(uris), ceilings, achieved, start_up)


def _decode(uris: list[str], info: ModelInfo, config: TagConfig) -> tuple[float, UInt8Array]:
    """Read and decode as a run does, in threads or processes; return images/s and the pixels (N, H, W, 3)."""
    how = Decoding.of([info.preprocessing], config.limits)
    batches = batched([Batch(uris, [1] * len(uris), uris)], FILES)
    found: list[UInt8Array] = []
    with contextlib.closing(decoder_for(uris[0], len(uris), config.workers)) as decoder:
        decoder.open(how, decoder.ahead + 1)
        started = time.perf_counter()
        for batch in bounded(decoder.submit, batches, decoder.ahead):
            found.append(batch.pixels[0].copy())
            batch.release()
        seconds = time.perf_counter() - started
    return len(uris) / seconds, np.concatenate(found)


def _run(table: pa.Table, model: str, folder: Path, config: TagConfig) -> tuple[float, float]:
    """Tag the files as `tagger tag` does; return images/s after start-up, and the seconds of start-up."""
    listed = folder / "manifest.parquet"
    storage.write_atomic(storage.local_uri(str(listed)), schema.serialise(table, "manifest"))
    first: list[float] = []
    started = time.perf_counter()
    summary = run.tag(
        str(listed),
        model,
        str(folder / "results"),
        replace(config, shard_size=max(1, len(table) // 4)),
        on_progress=lambda progress: first.append(time.perf_counter() - started),
    )
    return summary.steady_images_per_second or summary.images_per_second, first[0]


def _timed(work: Callable[[T], R], items: Sequence[T], threads: int) -> tuple[float, list[R]]:
    """Call a function on all items in a number of threads; return items/s and the results."""
    with ThreadPoolExecutor(threads) as pool:
        started = time.perf_counter()
        done = list(pool.map(work, items))
        return len(items) / (time.perf_counter() - started), done


def _read(uri: str) -> bytes | None:
    try:
        return storage.read_bytes(uri)
    except SourceError:
        return None


def _make_images(folder: Path, count: int) -> str:
    """Write JPEGs with the size and detail of photographs: a few images, hard-linked many times."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for index in range(count):
        path = folder / f"{index:06d}.jpg"
        if index < IMAGES:
            coarse = Image.fromarray(rng.integers(0, 255, (60, 80, 3), dtype=np.uint8))
            coarse.resize((500, 375), Image.Resampling.BICUBIC).save(path, quality=90)
        else:
            path.hardlink_to(folder / f"{index % IMAGES:06d}.jpg")
    return str(folder)
