"""k-nearest neighbours on pixels: test accuracy for each k and metric, and the time of the search.

    python -m benchmarks.neighbours DATA [--metrics l2 cosine l1] [--k 1 3 5 10]

DATA is CIFAR-10, as for `tagger benchmark cifar10 --data`. All test images are compared with all training images.
Nothing is chosen here: `tagger benchmark` chooses k on held-out images.
"""

from __future__ import annotations

import argparse
import time

from benchmarks import machine
from tagger.benchmark.train import pixel_rows
from tagger.data import cifar10
from tagger.models.knn import nearest, votes


def main() -> None:
    """Parse the arguments, compare the images, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--metrics", nargs="*", default=["l2", "cosine", "l1"])
    parser.add_argument("--k", nargs="*", type=int, default=[1, 3, 5, 10])
    arguments = parser.parse_args()
    train, test = cifar10.read(arguments.data)
    (queries, truth), (examples, labels) = pixel_rows(test), pixel_rows(train)
    print(f"{machine.describe()}\n{len(labels):,} training images, {len(truth):,} test images\n")
    print("| metric | seconds | " + " | ".join(f"k = {k}" for k in arguments.k) + " |")
    print("|---|--:|" + "--:|" * len(arguments.k))
    for metric in arguments.metrics:
        started = time.perf_counter()
        _, indices = nearest(queries, examples, max(arguments.k), metric)
        seconds = time.perf_counter() - started
        shares = [votes(labels[indices], k, train.truth.shape[1]) for k in arguments.k]
        accuracies = [float((share.argmax(1) == truth).float().mean()) for share in shares]
        print(f"| {metric} | {seconds:.0f} | " + " | ".join(f"{each:.2%}" for each in accuracies) + " |", flush=True)


if __name__ == "__main__":
    main()
