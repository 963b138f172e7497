"""Drift on photographs: false alarms on halves of the same images, and alarms on changed images.

    python -m benchmarks.drift IMAGES FOREIGN ... --model MODEL [--halves 20] [--changed 20] [--seed 0]
        [--no-embeddings]

IMAGES and each FOREIGN are folders, such as ants and bees, and flowers. All are tagged once with embeddings, and so are
copies of IMAGES: blurred (Gaussian, 1% of the short side), darkened (to 40%), recompressed (JPEG quality 30). IMAGES is
then split in random halves, several times. Each time a results table has one half as its first run, and the other half
as its second: unchanged, with one image in ten replaced by a foreign one, or as copies. `tagger drift` compares the
two. Prints a Markdown table: how many comparisons raised an alarm, and for each figure that did, the mean effect and
the number of its alarms.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image, ImageFilter

import tagger
from benchmarks import machine
from tagger import schema
from tagger.tagging import drift, results
from tagger.tagging.drift import Drift

SHARE = 0.1
"""Share of images replaced by foreign ones."""
SUFFIXES = (".jpg", ".jpeg")
CHANGES: dict[str, Callable[[Image.Image], tuple[Image.Image, int]]] = {
    "blurred": lambda image: (image.filter(ImageFilter.GaussianBlur(0.01 * min(image.size))), 92),
    "darkened": lambda image: (image.point(lambda value: value * 0.4), 92),
    "recompressed": lambda image: (image, 30),
}
"""Name -> the changed image, and the JPEG quality of its copy."""


def main() -> None:
    """Parse the arguments, tag the images, compare the halves, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path)
    parser.add_argument("foreign", type=Path, nargs="+")
    parser.add_argument("--model", default="imagenet")
    parser.add_argument("--halves", type=int, default=20)
    parser.add_argument("--changed", type=int, default=20, help="Halves with foreign images, or copies; 0 for none.")
    parser.add_argument("--seed", type=int, default=0, help="Seed of the first halves.")
    parser.add_argument("--no-embeddings", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        rows = tag_all(arguments, folder)
        print(f"{machine.describe()}\n{len(rows['same'])} images, {arguments.halves} halves, {arguments.model}\n")
        print("| second run | alarms | figures: mean effect (alarms) |\n|---|--:|---|")
        for kind in rows:
            count = arguments.halves if kind == "same" else arguments.changed
            seeds = range(arguments.seed, arguments.seed + count)
            found = [compare(folder / f"{kind}-{seed}", rows, kind, seed) for seed in seeds]
            if found:
                print(line(kind, found), flush=True)


def tag_all(arguments: argparse.Namespace, folder: Path) -> dict[str, pa.Table]:
    """Tag the images, the foreign ones and the copies; return the rows of each kind, ordered by uri."""
    photos, out, paths = folder / "photos", folder / "results", files(arguments.images)
    for path in paths:
        copied = _copied(path, photos / "same" / path.relative_to(arguments.images))
        for kind, change in CHANGES.items():
            changed, quality = change(Image.open(path).convert("RGB"))
            other = photos / kind / copied.relative_to(photos / "same")
            other.parent.mkdir(parents=True, exist_ok=True)
            changed.save(other, "JPEG", quality=quality)
    for source in arguments.foreign:
        found = files(source)
        for index in np.random.default_rng(0).permutation(len(found))[: len(paths)]:
            path = found[index]
            _copied(path, photos / source.name / path.relative_to(source))
    tagger.tag(photos, arguments.model, out, tagger.TagConfig(embeddings=not arguments.no_embeddings))
    table = results.read_table(out).sort_by("uri")
    kinds = pa.array([Path(uri).relative_to(photos).parts[0] for uri in table["uri"].to_pylist()])
    names = ("same", *(source.name for source in arguments.foreign), *CHANGES)
    return {kind: table.filter(pc.equal(kinds, kind)) for kind in names}


def files(folder: Path) -> list[Path]:
    """Return the photographs below a folder."""
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)


def _copied(path: Path, copied: Path) -> Path:
    copied.parent.mkdir(parents=True, exist_ok=True)
    return Path(shutil.copy(path, copied))


def compare(out: Path, rows: dict[str, pa.Table], kind: str, seed: int) -> Drift:
    """Compare one half of the images with the other half: unchanged, in part foreign, or as copies."""
    order = np.random.default_rng(seed).permutation(len(rows["same"]))
    first, second = np.array_split(order, 2)
    if kind == "same" or kind in CHANGES:
        current = rows[kind].take(second)
    else:
        count = round(SHARE * len(second))
        foreign = np.random.default_rng(seed).permutation(len(rows[kind]))[:count]
        current = pa.concat_tables([rows["same"].take(second[count:]), rows[kind].take(foreign)])
    out.mkdir()
    for run, table in enumerate((rows["same"].take(first), current), 1):
        (out / f"part-{run:08d}-aa-00000.parquet").write_bytes(schema.serialise(_of_run(table, run), "results"))
    return drift.compare(out)


def _of_run(table: pa.Table, run: int) -> pa.Table:
    for name, value in {"run_id": f"{run:08d}-aa", "tagged_at": datetime(2026, run, 1, tzinfo=UTC)}.items():
        field = schema.RESULTS.field(name)
        column = pa.array([value] * len(table), field.type)
        table = table.set_column(table.schema.get_field_index(name), field, column)
    return table


def line(kind: str, found: list[Drift]) -> str:
    """Return a row of the table."""
    effects, alarms = defaultdict[str, list[float]](list), defaultdict[str, int](int)
    for each in found:
        for figure in each.figures:
            name = f"score of {figure.tag}" if figure.tag else figure.figure
            effects[name].append(figure.effect)
            alarms[name] += figure.drifted
    shown = [f"{name} {np.mean(effects[name]):.2f} ({alarms[name]})" for name in effects if alarms[name]]
    return f"| {kind} | {sum(bool(each.drifted) for each in found)} of {len(found)} | {', '.join(shown) or '–'} |"


if __name__ == "__main__":
    main()
