"""The baseline of benchmarks.throughput and benchmarks.gpu: a plain loop over timm's dataset, loader and model.

    python -m benchmarks.timm_loop FOLDER MODEL OUT.parquet [--workers 2] [--batch-size 32] [--device cpu] [--bf16]

Defaults are those of timm's inference.py. Writes file names, and indices and probabilities of the top tags; prints the
seconds until the first batch, and for the rest.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import pandas as pd
import timm
import torch
from timm.data.config import resolve_data_config
from timm.data.dataset_factory import create_dataset
from timm.data.loader import create_loader

TOP_K = 5


def main() -> None:
    """Parse the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("folder", "model", "out"):
        parser.add_argument(name)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--bf16", action="store_true", help="autocast, and channels_last")
    run(**vars(parser.parse_args()))


@torch.inference_mode()
def run(folder: str, model: str, out: str, workers: int, batch_size: int, device: str, bf16: bool) -> None:
    """Tag a folder as timm's inference.py does, top 5."""
    started = time.perf_counter()
    layout = torch.channels_last if bf16 else torch.contiguous_format
    net = timm.create_model(model, pretrained=True).eval().to(device).to(memory_format=layout)
    dataset = create_dataset(root=folder, name="")
    config = resolve_data_config({}, model=net)
    loader = create_loader(
        dataset, batch_size=batch_size, use_prefetcher=True, num_workers=workers, device=torch.device(device),
        img_dtype=torch.float32, **config,
    )  # fmt: skip
    indices, scores, seconds = [], [], []
    with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=bf16):
        for images, _ in loader:
            best = net(images.contiguous(memory_format=layout)).softmax(-1).topk(TOP_K)
            indices.append(best.indices.cpu().numpy())
            scores.append(best.values.float().cpu().numpy())
            seconds.append(time.perf_counter() - started)
    frame = pd.DataFrame({"filename": dataset.filenames(basename=True)})
    frame["indices"], frame["scores"] = list(np.concatenate(indices)), list(np.concatenate(scores))
    frame.to_parquet(out)
    print(f"first batch after {seconds[0]:.1f} s, the rest in {seconds[-1] - seconds[0]:.1f} s")


if __name__ == "__main__":
    main()
