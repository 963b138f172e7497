"""The baseline of benchmarks.throughput: a plain loop over timm's dataset, loader and model.

    python -m benchmarks.timm_loop FOLDER MODEL OUT.parquet

Defaults are those of timm's inference.py. Writes file name, and indices and probabilities of the top tags.
"""

from __future__ import annotations

import argparse

import numpy as np
import pandas as pd
import timm
import torch
from timm.data.config import resolve_data_config
from timm.data.dataset_factory import create_dataset
from timm.data.loader import create_loader

TOP_K = 5


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("folder", "model", "out"):
        parser.add_argument(name)
    run(**vars(parser.parse_args()))


@torch.inference_mode()
def run(folder: str, model: str, out: str) -> None:
    """Tag a folder as timm's inference.py does: 2 workers, batches of 32, fp32, top 5."""
    net = timm.create_model(model, pretrained=True).eval()
    dataset = create_dataset(root=folder, name="")
    config = resolve_data_config({}, model=net)
    device = torch.device("cpu")
    loader = create_loader(
        dataset, batch_size=32, use_prefetcher=True, num_workers=2, device=device, img_dtype=torch.float32, **config
    )
    indices, scores = [], []
    for images, _ in loader:
        best = net(images).softmax(-1).topk(TOP_K)
        indices.append(best.indices.numpy())
        scores.append(best.values.numpy())
    frame = pd.DataFrame({"filename": dataset.filenames(basename=True)})
    frame["indices"], frame["scores"] = list(np.concatenate(indices)), list(np.concatenate(scores))
    frame.to_parquet(out)


if __name__ == "__main__":
    main()
