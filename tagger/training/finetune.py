"""Fine-tune a whole network from its probe: optimizer, schedule, augmentation and averages are timm's.

Probe first, then the rest (LP-FT, Kumar et al. 2022, arXiv 2202.10054): a random head would wreck the features before
it had learnt anything. Every epoch ends with a state on disk; the next one needs nothing else, so that a run killed at
any moment and resumed ends with the weights of one that was not.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from timm.data.mixup import Mixup
from timm.optim._optim_factory import create_optimizer_v2
from timm.scheduler.cosine_lr import CosineLRScheduler
from timm.utils.model_ema import ModelEmaV3
from torch import Tensor, nn
from torch.nn import functional

from tagger import storage
from tagger.checkpoint.info import ModelInfo
from tagger.errors import UsageError
from tagger.evaluation import metrics
from tagger.images import UInt8Array
from tagger.inference.engines import Float32Array
from tagger.training import state
from tagger.training.config import TrainConfig
from tagger.training.loading import Batches, EpochBatches, Pictures
from tagger.training.network import normalised
from tagger.training.probe import scores_of

log = logging.getLogger(__name__)

SMALL_BATCH = 8
"""Statistics of smaller batches are worth less than those the backbone came with."""


@dataclass(frozen=True)
class Task:
    """What is to be learnt, and on what it is judged."""

    pictures: Pictures
    truth: Tensor
    """(N, K) float32 of the training pictures."""
    val_pixels: UInt8Array
    val_truth: Float32Array
    backbone: ModelInfo
    config: TrainConfig
    data: str
    """Fingerprint of the labelled images."""
    device: str


OnEpoch = Callable[[dict[str, Any]], None]


def fine_tune(net: nn.Module, task: Task, state_uri: str, on_epoch: OnEpoch) -> state.Progress:
    """Train the network in place, leave it with its best validated weights, and return how it went.

    A state at `state_uri` is continued. Stops early when validation no longer improves, or when the loss is not a
    number; the best weights so far are kept.
    """
    trainer = Trainer(net, task, state_uri)
    while not trainer.finished():
        entry = trainer.run_epoch()
        if entry is None:
            break
        on_epoch(entry)
    net.load_state_dict(trainer.best)
    return trainer.progress


class Trainer:
    """The moving parts of one run."""

    def __init__(self, net: nn.Module, task: Task, state_uri: str) -> None:
        self.net, self.task, self.config, self.state_uri = net.to(task.device), task, task.config, state_uri
        self.net.to(memory_format=torch.channels_last)
        self.optimizer: torch.optim.Optimizer = create_optimizer_v2(
            net,
            opt=self.config.optimizer,
            lr=self.config.lr,
            weight_decay=self.config.weight_decay,
            momentum=self.config.momentum,
            layer_decay=self.config.layer_decay,
        )
        self.average = ModelEmaV3(net, decay=self.config.ema, use_warmup=True) if self.config.ema else None
        self.sampler = EpochBatches(len(task.pictures), self.config.batch_size, self.config.seed)
        self.batches = Batches(task.pictures, self.sampler, task.device)
        steps = len(self.sampler)
        self.schedule = CosineLRScheduler(
            self.optimizer,
            t_initial=self.config.epochs * steps,
            warmup_t=round(self.config.warmup_epochs * steps),
            warmup_lr_init=self.config.lr / 100,
            lr_min=self.config.lr / 100,
            t_in_epochs=False,
        )
        self._weighted = self.config.class_weights or not bool(task.truth.any(dim=1).all())
        self.chunk = self.config.batch_size
        """Images at a time through the network; smaller than a batch once memory ran out."""
        self.progress = state.Progress()
        self.best = state.weights_of(net)
        self._continue()

    def finished(self) -> bool:
        """Tell whether all epochs are done, or validation has stopped improving."""
        done = self.progress
        return done.epoch >= self._epochs or done.epoch - done.best_epoch >= self.config.patience

    def run_epoch(self) -> dict[str, Any] | None:
        """Train and validate one epoch; return its line of the curve, None when the loss was not a number."""
        started, epoch = time.perf_counter(), self.progress.epoch + 1
        torch.manual_seed(hash((self.config.seed, epoch)) % 2**32)
        np.random.seed(hash((self.config.seed, epoch)) % 2**32)  # timm's mixup draws from here
        train_loss = self._train(epoch)
        if not math.isfinite(train_loss):
            log.warning("the loss is not a number in epoch %d; stopped, the best weights so far are kept", epoch)
            return None
        judged = self.average.module if self.average else self.net
        val_loss, val_score = self._validate(judged)
        entry = {
            "epoch": epoch,
            "train_loss": train_loss,
            "val_loss": val_loss,
            "val_score": val_score,
            "lr": max(group["lr"] for group in self.optimizer.param_groups),
            "seconds": time.perf_counter() - started,
        }
        self._note(entry, judged)
        return {**entry, "epochs": self._epochs, "left": entry["seconds"] * (self._epochs - epoch)}

    @property
    def _epochs(self) -> int:
        rates = self.config.rates()
        return len(rates) if rates else self.config.epochs

    def _continue(self) -> None:
        if not storage.exists(self.state_uri):
            self.progress.best_score = self._validate(self.net)[1]  # epoch 0: the probe
            return
        parts, optimizer, self.progress = state.load(self.state_uri, self.config, self.task.data)
        self.progress.earlier_seconds = self.progress.seconds
        self.net.load_state_dict(parts["net"])
        self.best = parts["best"]
        self.optimizer.load_state_dict(optimizer)
        if self.average:
            self.average.module.load_state_dict(parts["average"])

    def _note(self, entry: dict[str, Any], judged: nn.Module) -> None:
        """Keep the best weights, and all that the next epoch needs, on disk."""
        done = self.progress
        done.epoch = entry["epoch"]
        done.seconds += entry["seconds"]
        done.curve.append(entry)
        if entry["val_score"] > done.best_score:
            done.best_score, done.best_epoch = entry["val_score"], done.epoch
            self.best = state.weights_of(judged)
        parts = {"net": state.weights_of(self.net), "best": self.best}
        if self.average:
            parts["average"] = state.weights_of(self.average.module)
        state.save(self.state_uri, parts, self.optimizer, done, self.config, self.task.data)

    def _train(self, epoch: int) -> float:
        """Return the mean loss; not a number as soon as one batch's is not."""
        self.net.train()
        steps, together, total, seen = len(self.sampler), self.config.accumulate, 0.0, 0
        self.optimizer.zero_grad(set_to_none=True)
        for step, (x, rows) in enumerate(self.batches.epoch(epoch), 1):
            self._set_norms(len(rows))
            self._set_rates((epoch - 1) * steps + step - 1, steps)
            target = self.task.truth[rows].to(self.task.device)
            last_group = step > steps // together * together
            loss = self._backward(*self._mixed(x, target), steps % together if last_group else together)
            if not math.isfinite(loss):
                return loss
            if step % together == 0 or step == steps:
                self._step(-(-((epoch - 1) * steps + step) // together))
            total, seen = total + loss * len(rows), seen + len(rows)
        return total / seen

    def _backward(self, x: Tensor, target: Tensor, together: int) -> float:
        """Add a batch's share of the gradients of so many batches; return its mean loss.

        Where memory runs out it is done again in smaller pieces, and what the step had of earlier batches is lost.
        """
        while True:
            try:
                return self._in_pieces(x, target, together)
            except torch.OutOfMemoryError as error:
                if self.chunk == 1:
                    shape = "x".join(map(str, x.shape[2:]))
                    raise UsageError(
                        f"--image-size: the memory of this {self.task.device} does not hold one image of {shape} in "
                        "training; take a smaller size or --backbone, or --method probe"
                    ) from error
            # only here, with the error gone, is what it held on to free again
            self.chunk = max(1, self.chunk // 2)
            log.warning("out of memory on %s: %d images at a time from here on", self.task.device, self.chunk)
            self.optimizer.zero_grad(set_to_none=True)

    def _in_pieces(self, x: Tensor, target: Tensor, together: int) -> float:
        total = 0.0
        for piece, wanted in zip(x.split(self.chunk), target.split(self.chunk), strict=True):
            with self._autocast():
                logits = self.net(piece).float()
            loss = self._loss(logits, wanted) * (len(piece) / len(x))
            (loss / together).backward()
            total += loss.item()
        return total

    def _loss(self, logits: Tensor, target: Tensor) -> Tensor:
        weights = self._class_weights(logits.device)
        if self.config.multilabel:
            loss = functional.binary_cross_entropy_with_logits(logits, target, pos_weight=weights)
        else:
            smoothed = target * (1 - self.config.label_smoothing) + self.config.label_smoothing / target.shape[1]
            loss = functional.cross_entropy(logits, smoothed, reduction="none" if self._weighted else "mean")
            if (
                self._weighted
            ):  # an image by its label, not by what smoothing gives the others; without a label not at all
                loss = (loss * (target.sum(dim=1) if weights is None else target @ weights)).mean()
        if self.config.l1:
            loss = loss + self.config.l1 * sum(p.abs().sum() for p in self.net.parameters() if p.ndim > 1)
        return loss

    def _class_weights(self, device: torch.device) -> Tensor | None:
        """Return weights that make every label count the same: inverse frequencies, or negatives per positive."""
        if not self.config.class_weights:
            return None
        positives = self.task.truth.sum(dim=0).clamp(min=1)
        if self.config.multilabel:
            return ((len(self.task.truth) - positives) / positives).clamp(max=100).to(device)
        return (len(self.task.truth) / (len(positives) * positives)).to(device)

    def _step(self, updates: int) -> None:
        if self.config.clip:
            nn.utils.clip_grad_norm_(self.net.parameters(), self.config.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average:
            self.average.update(self.net, step=updates)

    def _set_rates(self, update: int, steps: int) -> None:
        """Set every group's learning rate for this update; `lr_scale` is timm's layer-wise decay."""
        rates = self.config.rates()
        if not rates:
            self.schedule.step_update(update)
            return
        for group in self.optimizer.param_groups:
            group["lr"] = rates[min(update // steps, len(rates) - 1)] * group.get("lr_scale", 1.0)

    def _mixed(self, x: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Blend pictures and labels with timm's mixup and cutmix; an odd batch stays as it is."""
        if not (self.config.mixup or self.config.cutmix) or len(x) % 2:
            return x, target
        mixer = Mixup(self.config.mixup, self.config.cutmix, label_smoothing=0.0, num_classes=len(x))
        x, shares = mixer(x, torch.arange(len(x), device=x.device))
        return x, shares.to(target.dtype) @ target

    def _set_norms(self, batch: int) -> None:
        """Keep batch norms as they are, or let them learn from a batch that is large enough."""
        learn = not self.config.freeze_norms and batch >= SMALL_BATCH
        for module in self.net.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.train(learn)

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        """Compute in bf16 on a GPU; a CPU with bf16 trains depthwise nets no faster in it, and less exactly."""
        return torch.autocast(self.task.device, torch.bfloat16, enabled=self.task.device != "cpu")

    def _validate(self, net: nn.Module) -> tuple[float, float]:
        """Return log-loss, and accuracy or mean average precision."""
        scores = scores_of(logits_of(net, self.task.val_pixels, self.task.backbone, self.task.device), self.config.task)
        loss = metrics.log_loss(scores, self.task.val_truth, self.config.task) or 0.0
        return loss, score_of(scores, self.task.val_truth, self.config.task)


def score_of(scores: Float32Array, truth: Float32Array, task: str) -> float:
    """Return the number by which models are chosen: accuracy, or mean average precision."""
    if task == "multilabel":
        return metrics.mean_average_precision(scores, truth) or 0.0
    labelled = truth.any(axis=1)
    return float((scores.argmax(axis=1) == truth.argmax(axis=1))[labelled].mean())


@torch.inference_mode()
def logits_of(net: nn.Module, pixels: UInt8Array, backbone: ModelInfo, device: str) -> Float32Array:
    """Return logits (N, K) in fp32 of uint8 pictures (N, H, W, 3)."""
    net.eval()
    chunks = torch.from_numpy(pixels).split(64)
    found = [net(normalised(chunk.to(device), backbone)).float().cpu() for chunk in chunks]
    logits: Float32Array = torch.cat(found).numpy()
    return logits
