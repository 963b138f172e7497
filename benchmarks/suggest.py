"""Wrong labels found by `tagger suggest`, and accuracy of models trained on the images that it suggests.

    python -m benchmarks.suggest labels FOLDER ... [--backbone imagenet] [--seeds 5]
    python -m benchmarks.suggest training RESULTS ... [--count 100] [--first 50] [--seeds 5]
    python -m benchmarks.suggest quality FOLDER ...

`labels` gives 5% of the images in class folders a random wrong label and runs `tagger suggest` to find them.

`training` takes results tables with embeddings (`tagger tag FOLDER --embeddings`) of class folders. Half of the images
are for testing, half are a pool. A linear probe on the embeddings is trained on images of the pool: random ones, the
most uncertain ones, or those that `tagger suggest` chooses. First this is done with the scores of the table's model;
then with the scores of a probe trained on --first random images.

`quality` counts how many photographs, and how many blurred and darkened copies, are reported as dark or blurred.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image, ImageFilter
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

import tagger
from benchmarks import machine
from tagger import images, schema, storage
from tagger.data import manifest
from tagger.data import scan as scans
from tagger.data.labels.source import read_labelled
from tagger.tagging import results
from tagger.tagging.suggest import suspects

WRONG = 0.05
STRENGTH = 0.01
"""Inverse regularisation of the probes."""

Rows = npt.NDArray[np.int64]


def main() -> None:
    """Parse the arguments, measure, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("labels", "training", "quality"))
    parser.add_argument("sources", nargs="+")
    parser.add_argument("--backbone", default="imagenet")
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--first", type=int, default=50)
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    print(f"{machine.describe()}\n")
    lines = {"labels": _labels, "training": _training, "quality": _quality}[arguments.what](arguments)
    for line in lines:
        print(line, flush=True)


# --- wrong labels -----------------------------------------------------------------------------------------------------


def _labels(arguments: argparse.Namespace) -> Iterator[str]:
    yield "| | images | wrong | looked at | precision | lowest | listed | found of all |"
    yield "|---|--:|--:|--:|--:|--:|--:|--:|"
    for source in arguments.sources:
        table = read_labelled(source).table
        found = [_planted(table, arguments.backbone, seed) for seed in range(arguments.seeds)]
        wrong, first, *rates = np.array(found).T
        precision, listed, recall = rates
        yield (
            f"| {Path(source).name} | {len(table):,} | {wrong[0]:.0f} | {first[0]:.0f} | {precision.mean():.2f} | "
            f"{precision.min():.2f} | {listed.mean():.0f} | {recall.mean():.0%} |"
        )


def _planted(table: pa.Table, backbone: str, seed: int) -> tuple[float, ...]:
    """Return the numbers of wrong labels and of images checked, their precision, the images listed, and the recall."""
    rng = np.random.default_rng(seed)
    given: list[list[str]] = table["labels"].to_pylist()
    names = sorted({label for labels in given for label in labels})
    chosen = rng.choice(len(given), round(WRONG * len(given)), replace=False)
    for row in chosen:
        given[row] = [str(rng.choice([name for name in names if name not in given[row]]))]
    wrong = {table["uri"][int(row)].as_py() for row in chosen}
    place = table.schema.get_field_index("labels")
    planted = table.set_column(place, "labels", pa.array(given, pa.list_(pa.string())))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "dataset.parquet")
        file.write_bytes(schema.serialise(planted, "manifest"))
        config = tagger.SuggestConfig(count=5000, backbone=backbone)
        rows = tagger.suggest(file, config=config).table.to_pylist()
    listed = [row["uri"] for row in rows if row["reason"] == "label"]
    first = min(100, len(wrong))
    return len(wrong), first, len(wrong & {*listed[:first]}) / first, len(listed), len(wrong & {*listed}) / len(wrong)


# --- training on suggested images -------------------------------------------------------------------------------------


def _training(arguments: argparse.Namespace) -> Iterator[str]:
    yield "| | labelled | random | most uncertain | suggested | suggested - random |"
    yield "|---|--:|--:|--:|--:|--:|"
    for source in arguments.sources:
        table = results.latest(results.read_table(source))
        table = table.filter(pc.is_valid(table["embedding"]))
        for first in (0, arguments.first):
            rates = np.array([_rates(table, first, arguments.count, seed) for seed in range(arguments.seeds)])
            gains = rates[:, 2] - rates[:, 0]
            shown = " | ".join(f"{each:.1%}" for each in rates.mean(axis=0))
            before = f"{first} + " * bool(first)
            error = gains.std(ddof=1) / len(gains) ** 0.5
            yield f"| {Path(source).name} | {before}{arguments.count} | {shown} | {gains.mean():+.1%} ± {error:.1%} |"


def _rates(table: pa.Table, first: int, count: int, seed: int) -> tuple[float, float, float]:
    """Return the accuracies of probes on random, most uncertain and suggested images."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(table))
    pool, test = order[: len(order) // 2], order[len(order) // 2 :]
    features = np.stack(table["embedding"].to_numpy(zero_copy_only=False))
    names = np.array([uri.split("/")[-2] for uri in table["uri"].to_pylist()])
    labelled = rng.choice(pool, first, replace=False)
    rows = table.take(pa.array(pool))
    if first:
        rows = _scored(rows, _probe(features[labelled], names[labelled]), features[pool])
    rest = np.setdiff1d(pool, labelled)
    margins = dict(zip(rows["uri"].to_pylist(), _margins(rows), strict=True))
    uris = np.array(table["uri"].to_pylist())
    uncertain = rest[np.argsort([margins[uri] for uri in uris[rest]], kind="stable")][:count]
    chosen = np.flatnonzero(np.isin(uris, _suggested(rows, uris[labelled], count)))

    def accuracy(added: Rows) -> float:
        trained = np.concatenate([labelled, added])
        probe = _probe(features[trained], names[trained])
        return float((probe.predict(features[test]) == names[test]).mean())

    return accuracy(rng.choice(rest, min(count, len(rest)), replace=False)), accuracy(uncertain), accuracy(chosen)


def _probe(features: npt.NDArray[np.float32], names: npt.NDArray[np.str_]) -> Pipeline:
    return make_pipeline(StandardScaler(), LogisticRegression(C=STRENGTH, max_iter=500)).fit(features, names)


def _scored(rows: pa.Table, probe: Pipeline, features: npt.NDArray[np.float32]) -> pa.Table:
    """Return the rows with a probe's scores as candidates."""
    scores = probe.predict_proba(features)
    order = np.argsort(-scores, axis=1)[:, :5]
    pairs = [
        [{"tag": str(probe.classes_[k]), "score": float(scores[row, k])} for k in best]
        for row, best in enumerate(order)
    ]
    place = rows.schema.get_field_index("candidates")
    return rows.set_column(place, "candidates", pa.array(pairs, rows.schema.field(place).type))


def _margins(rows: pa.Table) -> list[float]:
    pairs = rows["candidates"].to_pylist()
    return [each[0]["score"] - (each[1]["score"] if len(each) > 1 else 1 - each[0]["score"]) for each in pairs]


def _suggested(rows: pa.Table, labelled: Sequence[str], count: int) -> list[str]:
    """Return the uris that `tagger suggest` chooses."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "results")
        out.mkdir()
        (out / f"part-{rows['run_id'][0]}-0.parquet").write_bytes(schema.serialise(rows, "results"))
        listed = [{"uri": str(uri), "labels": ["x"]} for uri in labelled]
        labels = Path(folder, "labels.parquet")
        labels.write_bytes(schema.serialise(schema.from_rows(listed, "manifest"), "manifest"))
        found = tagger.suggest(out, config=tagger.SuggestConfig(count=count, labels=str(labels)))
    uris: list[str] = found.table["uri"].to_pylist()
    return uris


# --- dark and blurred images ------------------------------------------------------------------------------------------

COPIES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "unchanged": lambda image: image,
    "blurred by 1% of the longer side": lambda image: image.filter(ImageFilter.GaussianBlur(max(image.size) / 100)),
    "blurred by 2%": lambda image: image.filter(ImageFilter.GaussianBlur(max(image.size) / 50)),
    "blurred by 3%": lambda image: image.filter(ImageFilter.GaussianBlur(max(image.size) * 0.03)),
    "darkened to 20%": lambda image: image.point(lambda value: value * 0.2),
    "darkened to 10%": lambda image: image.point(lambda value: value * 0.1),
}


def _quality(arguments: argparse.Namespace) -> Iterator[str]:
    uris = [uri for source in arguments.sources for uri in manifest.locations(manifest.read_source(source).table)]
    chosen = np.random.default_rng(0).permutation(uris)[:1000]
    counts: dict[str, list[tuple[bool, bool]]] = {kind: [] for kind in COPIES}
    for uri in chosen:
        original = images.decode(storage.read_bytes(str(uri)))[0]
        for kind, copy in COPIES.items():
            light, sharpness = suspects.light_and_sharpness(_thumbnail(copy(original)))
            counts[kind].append((light < suspects.DARK, sharpness < suspects.BLURRED))
    yield f"| {len(chosen):,} photographs | dark | blurred |\n|---|--:|--:|"
    for kind, found in counts.items():
        dark, blurred = np.mean(found, axis=0)
        yield f"| {kind} | {dark:.1%} | {blurred:.1%} |"


def _thumbnail(image: Image.Image) -> bytes:
    content: bytes = scans.describe(image)["thumbnail"]
    return content


if __name__ == "__main__":
    main()
