"""What a frozen backbone sees in each image, computed once by the tagging pipeline and kept by image_id."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tagger import checkpoint, engines, machine, storage
from tagger.engines import Choice, Float32Array
from tagger.errors import SourceError
from tagger.images import MAX_PIXELS
from tagger.model_info import ModelInfo, Preprocessing, fingerprint
from tagger.pipeline import LoadedModel, Row, score_files

FEATURES = pa.schema([("image_id", pa.string()), ("embedding", pa.list_(pa.float32()))])
_CHUNK = 5000
"""Images per file of the cache: what a kill can lose."""


def for_size(info: ModelInfo, preprocessing: Preprocessing) -> ModelInfo:
    """Return the backbone as it is with other preprocessing, under an id of its own."""
    if preprocessing == info.preprocessing:
        return info
    model_id = fingerprint([info.model_id, repr(preprocessing)])
    return replace(info, preprocessing=preprocessing, model_id=model_id)


def image_ids(uris: Sequence[str]) -> list[str | None]:
    """Return the SHA-256 of every file's bytes; None for a file that cannot be read."""
    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(_image_id, uris))


def _image_id(uri: str) -> str | None:
    try:
        return hashlib.sha256(storage.read_bytes(uri)).hexdigest()
    except SourceError:
        return None


def embed(
    info: ModelInfo,
    uris: Sequence[str],
    ids: Sequence[str | None],
    device: str = "auto",
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Float32Array, npt.NDArray[np.bool_], int]:
    """Return features (N, D), which images have them, and how many had to be decoded.

    Images whose features are in the cache are not decoded, whatever their path. The others go through the engine.
    """
    known = _read_cache(info)
    missing = {image_id: uri for image_id, uri in zip(ids, uris, strict=True) if image_id and image_id not in known}
    if missing:
        for number, (image_id, embedding) in enumerate(_computed(info, missing, device, on_progress)):
            known[image_id] = embedding
            if (number + 1) % _CHUNK == 0:
                _write_cache(info, {each: known[each] for each in missing if each in known})
        _write_cache(info, {each: known[each] for each in missing if each in known})
    have = np.array([bool(image_id) and image_id in known for image_id in ids], dtype=bool)
    width = next((len(embedding) for embedding in known.values()), 0)
    features = np.zeros((len(ids), width), dtype=np.float32)
    for row, image_id in enumerate(ids):
        if have[row] and image_id:
            features[row] = known[image_id]
    return features, have, len(missing)


def _computed(
    info: ModelInfo, missing: dict[str, str], device: str, on_progress: Callable[[int, int], None]
) -> Iterator[tuple[str, Float32Array]]:
    engine = engines.load(info, checkpoint.build, Choice(device, precision="fp32"))
    model = LoadedModel(info, engine, lambda scores, embedding: {"embedding": embedding})
    entries: list[Row] = [{"uri": uri, "bytes": None} for uri in missing.values()]
    for done, rows in enumerate(score_files(entries, [model], MAX_PIXELS), 1):
        _, row = rows[0]
        if row["status"] == "ok":
            yield row["image_id"], row["embedding"]
        if done % 32 == 0 or done == len(missing):
            on_progress(done, len(missing))


def _folder(info: ModelInfo) -> str:
    return storage.local_uri(str(storage.cache_folder() / "features" / info.model_id))


def _read_cache(info: ModelInfo) -> dict[str, Float32Array]:
    folder = _folder(info)
    known: dict[str, Float32Array] = {}
    for name in storage.names_in(folder) or []:
        if not name.endswith(".parquet"):
            continue
        try:
            with storage.open_input(storage.join(folder, name)) as file:
                table = pq.read_table(file)
        except (pa.ArrowInvalid, OSError):
            storage.remove(storage.join(folder, name))  # damaged: computed again
            continue
        flat = pc.list_flatten(table["embedding"]).to_numpy().reshape(len(table), -1)
        known.update(zip(table["image_id"].to_pylist(), flat, strict=True))
    return known


def _write_cache(info: ModelInfo, found: dict[str, Float32Array]) -> None:
    if not found:
        return
    flat = np.stack(list(found.values()))
    lists = pa.FixedSizeListArray.from_arrays(pa.array(flat.ravel()), flat.shape[1]).cast(pa.list_(pa.float32()))
    table = pa.table([pa.array(list(found)), lists], schema=FEATURES)
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    name = f"{fingerprint(sorted(found))}-{machine.cores()}.parquet"
    storage.write_atomic(storage.join(_folder(info), name), sink.getvalue().to_pybytes())
