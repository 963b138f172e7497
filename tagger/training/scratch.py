"""Train a small net from scratch on images that fit in memory.

The recipe is airbench's (Jordan 2024, arXiv 2404.00498) in plain torch: SGD with Nesterov momentum and a triangular
schedule, label smoothing, every image mirrored every other epoch, random shifts, and a slow copy of the weights that
the fast ones are pulled back to. The same code runs on CPU and CUDA, in bf16 autocast where the processor has bf16.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from tagger import machine
from tagger.datasets import LabelledImages
from tagger.models.speedrun import Speedrun


@dataclass(frozen=True)
class ScratchConfig:
    """Everything that decides how a from-scratch net comes out."""

    image_size: int = 32
    epochs: int = 10
    batch_size: int = 512
    lr: float = 1.5
    """Peak learning rate at batch size 1,024; scaled with the batch."""
    momentum: float = 0.85
    decay: float = 0.002
    """Share of each weight removed per step at the peak, at batch size 1,024."""
    bias_lr_factor: float = 64.0
    label_smoothing: float = 0.2
    shift: int = 2
    """Random translation in pixels, both ways."""
    whiten_bias_epochs: int = 3
    seed: int = 0


@dataclass(frozen=True)
class EpochReport:
    """One line of the learning curve."""

    epoch: int
    loss: float
    accuracy: float
    """Training accuracy on the augmented images."""
    seconds: float


def train_from_scratch(
    train: LabelledImages,
    num_classes: int,
    config: ScratchConfig,
    device: str = "cpu",
    on_epoch: Callable[[EpochReport], None] = lambda report: None,
) -> Speedrun:
    """Train a Speedrun net and return it in eval mode on the CPU; deterministic for a seed on one CPU."""
    torch.manual_seed(config.seed)
    machine.keep_freed_memory()
    images = _normalise(train, device)
    labels = torch.from_numpy(train.labels).to(device)
    net = Speedrun(num_classes)
    net.set_whitening(images[:5000].float().cpu())
    net = net.to(device).to(memory_format=torch.channels_last)
    steps = config.epochs * -(-len(images) // config.batch_size)
    optimizer = _optimizer(net, config)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _triangle(step / steps))
    slow = _SlowWeights(net)
    images = _mirror_half(images)
    step = 0
    for epoch in range(1, config.epochs + 1):
        started, losses, right = time.perf_counter(), 0.0, 0
        net.train()
        net.whiten_bias.requires_grad_(epoch <= config.whiten_bias_epochs)
        for x, index in _epoch_batches(images, epoch, config):
            loss, hits = _step(net, optimizer, x, labels[index], config.label_smoothing)
            scheduler.step()
            step += 1
            if step % 5 == 0:
                slow.pull(net, 0.95**5 * (step / steps) ** 3)
            losses += loss * len(index)
            right += hits
        on_epoch(EpochReport(epoch, losses / len(images), right / len(images), time.perf_counter() - started))
    slow.pull(net, 1.0)
    return net.eval().cpu().to(memory_format=torch.contiguous_format)


@torch.no_grad()
def predict_scores(net: nn.Module, data: LabelledImages, device: str = "cpu", batch_size: int = 1000) -> Tensor:
    """Return softmax scores (N, classes) in fp32, without test-time augmentation."""
    net = net.to(device).eval()
    images = _normalise(data, device)
    scores = [net(chunk.float()).softmax(1).cpu() for chunk in images.split(batch_size)]
    return torch.cat(scores)


def _normalise(data: LabelledImages, device: str) -> Tensor:
    """Return the images as normalised (N, 3, H, W) on the device."""
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (data.mean, data.std))
    uint8 = torch.from_numpy(data.images).permute(0, 3, 1, 2)
    kept = torch.bfloat16 if machine.has_bf16(device) else torch.float32
    chunks = [((chunk.float() / 255 - mean) / std).to(device, kept) for chunk in uint8.split(5000)]
    return torch.cat(chunks).contiguous(memory_format=torch.channels_last)


def _optimizer(net: Speedrun, config: ScratchConfig) -> torch.optim.SGD:
    scale = config.batch_size / 1024
    lr, decay = config.lr * scale, config.decay * scale
    trained = [(name, p) for name, p in net.named_parameters() if p.requires_grad]
    norms = [p for name, p in trained if "norm" in name]
    others = [p for name, p in trained if "norm" not in name]
    bias_lr = lr * config.bias_lr_factor
    groups = [  # torch multiplies the decay by the learning rate; divide, so that both groups lose the same share
        {"params": norms, "lr": bias_lr, "weight_decay": decay / bias_lr},
        {"params": others, "lr": lr, "weight_decay": decay / lr},
    ]
    return torch.optim.SGD(groups, momentum=config.momentum, nesterov=True)


def _triangle(done: float, start: float = 0.2, peak: float = 0.23, end: float = 0.07) -> float:
    """Rise from `start` to 1 at `peak`, fall to `end`."""
    return start + (1 - start) * done / peak if done < peak else 1 - (1 - end) * (done - peak) / (1 - peak)


def _mirror_half(images: Tensor) -> Tensor:
    mirrored = torch.rand(len(images), device=images.device) < 0.5
    return torch.where(mirrored.view(-1, 1, 1, 1), images.flip(-1), images)


def _epoch_batches(images: Tensor, epoch: int, config: ScratchConfig) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield shifted batches with their indices; every image is mirrored every other epoch."""
    for index in torch.randperm(len(images), device=images.device).split(config.batch_size):
        batch = images[index]
        yield _shift(batch.flip(-1) if epoch % 2 == 0 else batch, config.shift), index


def _shift(batch: Tensor, by: int) -> Tensor:
    """Translate each image by up to `by` pixels each way, filling by reflection."""
    side_h, side_w = batch.shape[-2:]
    padded = functional.pad(batch.float(), (by,) * 4, mode="reflect").to(batch.dtype)
    top, left = torch.randint(0, 2 * by + 1, (2, len(batch), 1), device=batch.device)
    rows = top + torch.arange(side_h, device=batch.device)
    columns = left + torch.arange(side_w, device=batch.device)
    each = torch.arange(len(batch), device=batch.device).view(-1, 1, 1)
    shifted = padded.permute(0, 2, 3, 1)[each, rows[:, :, None], columns[:, None, :]]
    return shifted.permute(0, 3, 1, 2)


def _step(net: Speedrun, optimizer: torch.optim.SGD, x: Tensor, y: Tensor, smoothing: float) -> tuple[float, int]:
    with torch.autocast(x.device.type, torch.bfloat16, enabled=machine.has_bf16(x.device.type)):
        logits = net(x).float()
    loss = functional.cross_entropy(logits, y, label_smoothing=smoothing)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    return loss.item(), int((logits.argmax(1) == y).sum())


class _SlowWeights:
    """Lookahead (Zhang 2019, arXiv 1907.08610): an average that the net is pulled back to every few steps."""

    def __init__(self, net: nn.Module) -> None:
        self.state = {k: v.clone() for k, v in net.state_dict().items() if v.is_floating_point()}

    @torch.no_grad()
    def pull(self, net: nn.Module, keep: float) -> None:
        for name, value in net.state_dict().items():
            if name in self.state:
                self.state[name].lerp_(value, 1 - keep)
                value.copy_(self.state[name])
