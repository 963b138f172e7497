"""Recall of the report's near-duplicate search on planted copies, and the pairs of originals that it reports.

    python -m benchmarks.alike PHOTOS [--model MODEL]

Each photograph is copied in every way of benchmarks.duplicates and tagged with embeddings. Prints a Markdown table: the
share of copies whose similarity to their original exceeds three thresholds (0.9 is the report's), and the share of
copies with the same best tag as their original, because in a large table only images with the same tag are compared.
Check the printed pairs of originals: some may be real near-duplicates.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

import tagger
from benchmarks import machine
from benchmarks.duplicates import COPIES, jpeg
from tagger.tagging.alike import FloatArray, unit

THRESHOLDS = (0.90, 0.93, 0.96)


def main() -> None:
    """Parse the arguments, copy and tag the photographs, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--model", default="imagenet")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder, out = Path(temporary, "photos"), Path(temporary, "results")
        copy(arguments.photos, folder)
        tagger.tag(folder, arguments.model, out, tagger.TagConfig(embeddings=True))
        rows = tagger.read_results(out)
    rows = rows[rows["embedding"].notna()].set_index(rows["uri"].map(lambda uri: Path(uri).stem))
    vectors = dict(zip(rows.index, unit(np.stack(rows["embedding"].tolist()).astype(np.float32)), strict=True))
    names = sorted({name.partition("-")[0] for name in vectors})
    print(f"{machine.describe()}\n{len(names):,} photographs of {arguments.photos}, {arguments.model}\n")
    print(f"| copy | {' | '.join(f'over {each:.2f}' for each in THRESHOLDS)} | same best tag |")
    print(f"|---|{'--:|' * (len(THRESHOLDS) + 1)}")
    tags = rows["top_tag"].to_dict()
    for number, copied in enumerate(COPIES):
        pairs = [(name, f"{name}-{number}") for name in names if f"{name}-{number}" in vectors and name in vectors]
        similar = np.array([vectors[one] @ vectors[other] for one, other in pairs])
        shares = [*((similar >= each).mean() for each in THRESHOLDS), np.mean([tags[a] == tags[b] for a, b in pairs])]
        print(f"| {copied} | {' | '.join(f'{share:.0%}' for share in shares)} |")
    show_others(np.stack([vectors[name] for name in names]), names)


def copy(photos: Path, folder: Path) -> None:
    """Write each photograph, and its copies, as `<number>.jpg` and `<number>-<way>.jpg`."""
    folder.mkdir()
    for place, file in enumerate(sorted(path for path in photos.rglob("*") if path.is_file())):
        image = Image.open(file).convert("RGB")
        (folder / f"{place:05}.jpg").write_bytes(jpeg(image))
        for number, made in enumerate(COPIES.values()):
            (folder / f"{place:05}-{number}.jpg").write_bytes(made(image))


def show_others(originals: FloatArray, names: list[str]) -> None:
    """Print how many pairs of originals are over each threshold, and the most similar ones."""
    similar = np.triu(originals @ originals.T, 1)
    counts = ", ".join(f"{int((similar >= each).sum()):,} over {each:.2f}" for each in THRESHOLDS)
    print(f"\npairs of originals: {len(names) * (len(names) - 1) // 2:,}; {counts}")
    for flat in np.argsort(-similar, axis=None)[:10]:
        one, other = divmod(int(flat), len(names))
        print(f"{similar[one, other]:.3f} {names[one]} {names[other]}")


if __name__ == "__main__":
    main()
