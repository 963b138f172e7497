"""Train a net by minibatches on images that fit in memory: one loop for every net of our own.

The whole set lies on the device, and so does the augmentation: mirroring, and translation by a few pixels. The same
code runs on CPU and CUDA, in bf16 autocast where the processor has bf16. What differs between a linear model and a
residual net is a `Recipe`, plain numbers all of it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tagger import hardware
from tagger.errors import UsageError

if TYPE_CHECKING:
    from tagger.training.unfinished import Unfinished

LOSSES = ("softmax", "sigmoid", "squared")
MIRRORS = ("none", "random", "alternate")
FILLS = ("constant", "mean", "reflect")
SCHEDULES = ("constant", "cosine", "triangle")


@dataclass(frozen=True)
class Recipe:
    """Everything that decides how a net is trained; raises UsageError for words that it does not know."""

    epochs: int
    batch_size: int = 128
    lr: float = 0.1
    """At the peak of the schedule."""
    schedule: str = "cosine"
    """constant, cosine (to zero), triangle (airbench's), or factors with epochs each: `1x82,0.1x41,0.01x41`."""
    momentum: str = "0.9"
    """One value, or values with epochs each: `0x20,0.9x10`."""
    unit_gain: bool = False
    """A step is a weighted mean of gradients, as CNTK has it, not their sum."""
    nesterov: bool = False
    weight_decay: float = 0.0
    """L2, as torch's SGD means it."""
    l1: float = 0.0
    loss: str = "softmax"
    """softmax (cross-entropy), sigmoid (one binary cross-entropy per class), or squared (error to one-hot targets)."""
    label_smoothing: float = 0.0
    mirror: str = "none"
    """none, random, or alternate: every image mirrored every other epoch (Jordan 2024, arXiv 2404.00498)."""
    shift: int = 0
    """Random translation in pixels, both ways."""
    fill: str = "constant"
    """What comes in at the edge: constant (zeros: black, where nothing is subtracted), mean (the image that the net
    subtracts, so zeros after the subtraction), or reflect."""
    clip: float = 0.0
    """Largest gradient norm; 0: any."""
    norm_rate: float = 1.0
    """Biases of norms learn this much faster (and decay as slowly as the rest)."""
    learnt_until: tuple[tuple[str, int], ...] = ()
    """Parameters by name that stay as they are after so many epochs."""
    average: bool = False
    """Pull the weights back to a slow copy every five steps (Lookahead: Zhang 2019, arXiv 1907.08610)."""
    patience: int | None = None
    """Epochs without a lower validation loss before training stops; the best weights are kept. None: never."""

    def __post_init__(self) -> None:
        for name, known in (("loss", LOSSES), ("mirror", MIRRORS), ("fill", FILLS)):
            if getattr(self, name) not in known:
                raise UsageError(f"{name} {getattr(self, name)}: expected one of {', '.join(known)}")
        if self.epochs < 1 or self.batch_size < 1:
            raise UsageError(f"epochs and batch size must be at least 1, got {self.epochs} and {self.batch_size}")
        self.rate(0.0)
        self.momentum_at(0.0)

    @property
    def varied(self) -> bool:
        """Tell whether mirrored and shifted images are as good to the net as the originals."""
        return self.mirror != "none" and self.shift > 0

    def rate(self, done: float) -> float:
        """Return the factor on the learning rate when this share of the training is done."""
        if self.schedule == "triangle":
            return _triangle(done)
        if self.schedule == "cosine":
            return 0.5 + 0.5 * math.cos(math.pi * done)
        if self.schedule == "constant":
            return 1.0
        return _in_steps(self.schedule, done)

    def momentum_at(self, done: float) -> float:
        """Return the momentum when this share of the training is done."""
        return _in_steps(self.momentum, done) if "x" in self.momentum else float(self.momentum)


def _in_steps(schedule: str, done: float) -> float:
    """Return the value of `1x82,0.1x41` (values with epochs each) when this share of the epochs is done."""
    try:
        steps = [(float(value), int(epochs)) for value, epochs in (step.split("x") for step in schedule.split(","))]
    except ValueError as error:
        known = ", ".join(SCHEDULES)
        raise UsageError(f"schedule {schedule}: expected {known}, or VALUExEPOCHS such as 1x82,0.1x41") from error
    left = done * sum(epochs for _, epochs in steps)
    for value, epochs in steps:
        if left < epochs:
            return value
        left -= epochs
    return steps[-1][0]


@dataclass(frozen=True)
class Pixels:
    """Normalised images (N, 3, H, W) on the device and their labels (N,)."""

    images: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Epoch:
    """One point of the learning curve; validation only where images were held out."""

    epoch: int
    train_loss: float
    train_score: float
    """Accuracy on the augmented images while learning."""
    val_loss: float | None
    val_score: float | None
    seconds: float


OnEpoch = Callable[[Epoch], None]


class Diverged(UsageError):
    """A training whose loss is no longer a number."""


def fit(
    net: nn.Module,
    train: Pixels,
    val: Pixels | None,
    recipe: Recipe,
    seed: int = 0,
    on_epoch: OnEpoch = lambda epoch: None,
    unfinished: Unfinished | None = None,
    compiled: bool = False,
) -> list[Epoch]:
    """Train the net in place, leave it in eval mode, and return the learning curve; deterministic on one CPU.

    With `unfinished` a training that was killed goes on after the last epoch kept there, and ends with the same net.
    Raises UsageError when patience is asked for without validation images, and Diverged when the loss is no longer a
    number.
    """
    if recipe.patience is not None and val is None:
        raise UsageError("patience needs validation images")
    torch.manual_seed(seed)
    net.to(train.images.device).to(memory_format=torch.channels_last)
    fitting = Fitting(net, train, val, recipe, compiled)
    if unfinished:
        unfinished.restore(fitting)
    while not fitting.ended:
        fitting.run_epoch()
        if unfinished:
            unfinished.keep(fitting)
        on_epoch(fitting.curve[-1])
    fitting.finish()
    net.eval().cpu().to(memory_format=torch.contiguous_format)
    return fitting.curve


class Fitting:
    """The moving parts of one training."""

    def __init__(
        self, net: nn.Module, train: Pixels, val: Pixels | None, recipe: Recipe, compiled: bool = False
    ) -> None:
        self.net, self.val, self.recipe = net, val, recipe
        self.forward: Callable[[Tensor], Tensor] = torch.compile(net) if compiled else net
        self.images = _mirror_half(train.images) if recipe.mirror == "alternate" else train.images
        self.labels = train.labels
        self.optimizer = _optimizer(net, recipe)
        self.steps = recipe.epochs * -(-len(self.images) // recipe.batch_size)
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda step: recipe.rate(step / self.steps))
        self.slow = _SlowWeights(net) if recipe.average else None
        self.step = 0
        self.curve: list[Epoch] = []
        self.best: dict[str, Tensor] = {}
        """Weights with the lowest validation loss, where training stops early."""

    @property
    def ended(self) -> bool:
        """Tell whether all epochs are done, or validation has stopped improving."""
        epoch, patience = len(self.curve), self.recipe.patience
        return epoch >= self.recipe.epochs or (patience is not None and epoch - self._best_epoch >= patience)

    @property
    def _best_epoch(self) -> int:
        losses = [math.inf if entry.val_loss is None else entry.val_loss for entry in self.curve]
        return 1 + losses.index(min(losses)) if losses else 0

    def run_epoch(self) -> None:
        """Learn from every image once, and judge where images are held out."""
        started, number = time.perf_counter(), len(self.curve) + 1
        loss, score = self._learn_all(number)
        if not math.isfinite(loss):
            raise Diverged(f"training diverged: the loss of epoch {number} is not a number")
        val_loss, val_score = _judge(self.net, self.val, self.recipe) if self.val else (None, None)
        self.curve.append(Epoch(number, loss, score, val_loss, val_score, time.perf_counter() - started))
        if self.recipe.patience is not None and self._best_epoch == number:
            self.best = {name: value.clone() for name, value in self.net.state_dict().items()}

    def _learn_all(self, number: int) -> tuple[float, float]:
        """Return mean loss and accuracy on the images as they were seen."""
        self.net.train()
        for name, last in self.recipe.learnt_until:
            self.net.get_parameter(name).requires_grad_(number <= last)
        loss = hits = torch.zeros((), device=self.images.device)
        for x, rows in self._batches(number):
            batch_loss, batch_hits = self._learn(x, self.labels[rows])
            loss, hits = loss + batch_loss * len(rows), hits + batch_hits
        return loss.item() / len(self.images), hits.item() / len(self.images)

    def finish(self) -> None:
        """Leave the averaged weights in the net, or the best."""
        if self.slow:
            self.slow.pull(self.net, 1.0)
        if self.best:
            self.net.load_state_dict(self.best)

    def _batches(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        recipe = self.recipe
        for rows in torch.randperm(len(self.images), device=self.images.device).split(recipe.batch_size):
            x = self.images[rows]
            if recipe.mirror == "random":
                x = _mirror_half(x)
            elif recipe.mirror == "alternate" and epoch % 2 == 0:
                x = x.flip(-1)
            yield self._shifted(x) if recipe.shift else x, rows

    def _shifted(self, x: Tensor) -> Tensor:
        recipe = self.recipe
        offset: Tensor | None = getattr(self.net, "offset", None) if recipe.fill == "mean" else None
        if offset is not None:
            return shifted(x - offset, recipe.shift) + offset
        return shifted(x, recipe.shift, "reflect" if recipe.fill == "reflect" else "constant")

    def _learn(self, x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        device, recipe = x.device.type, self.recipe
        self._set_momentum()
        with torch.autocast(device, torch.bfloat16, enabled=hardware.has_bf16(device)):
            logits = self.forward(x).float()
        loss = _loss(logits, labels, recipe)
        penalised = loss + recipe.l1 * _absolute_weights(self.net) if recipe.l1 else loss
        self.optimizer.zero_grad(set_to_none=True)
        penalised.backward()
        if recipe.clip:
            nn.utils.clip_grad_norm_(self.net.parameters(), recipe.clip)
        self.optimizer.step()
        self.scheduler.step()
        self.step += 1
        if self.slow and self.step % 5 == 0:
            self.slow.pull(self.net, 0.95**5 * (self.step / self.steps) ** 3)
        return loss.detach(), (logits.argmax(1) == labels).sum()

    def _set_momentum(self) -> None:
        momentum = self.recipe.momentum_at(self.step / self.steps)
        for group in self.optimizer.param_groups:
            group.update(momentum=momentum, dampening=momentum if self.recipe.unit_gain else 0.0)


@torch.inference_mode()
def logits_of(net: nn.Module, images: Tensor, batch_size: int = 1000, tta: bool = False) -> Tensor:
    """Return logits (N, classes) in fp32; with test-time augmentation, means over six views of each image."""
    net.eval()
    judge = partial(_over_views, net) if tta else net
    return torch.cat([judge(chunk.float()).float().cpu() for chunk in images.split(batch_size)])


def _over_views(net: nn.Module, images: Tensor) -> Tensor:
    """Average over an image and it shifted by a pixel to two corners, each mirrored too (airbench's views)."""
    height, width = images.shape[-2:]
    padded = functional.pad(images, (1, 1, 1, 1), mode="reflect")
    shifts = [padded[..., :height, :width], padded[..., 2:, 2:]]
    whole, *moved = (net(view) + net(view.flip(-1)) for view in (images, *shifts))
    mean: Tensor = whole / 4 + (moved[0] + moved[1]) / 8
    return mean


def shifted(batch: Tensor, by: int, fill: str = "constant") -> Tensor:
    """Translate each image (N, C, H, W) by up to `by` pixels each way, what comes in being zeros or a reflection."""
    side_h, side_w = batch.shape[-2:]
    padded = functional.pad(batch.float(), (by,) * 4, mode=fill).to(batch.dtype)
    top, left = torch.randint(0, 2 * by + 1, (2, len(batch), 1), device=batch.device)
    rows = top + torch.arange(side_h, device=batch.device)
    columns = left + torch.arange(side_w, device=batch.device)
    each = torch.arange(len(batch), device=batch.device).view(-1, 1, 1)
    return padded.permute(0, 2, 3, 1)[each, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def _judge(net: nn.Module, val: Pixels, recipe: Recipe) -> tuple[float, float]:
    logits, labels = logits_of(net, val.images), val.labels.cpu()
    return _loss(logits, labels, recipe).item(), (logits.argmax(1) == labels).float().mean().item()


def _loss(logits: Tensor, labels: Tensor, recipe: Recipe) -> Tensor:
    if recipe.loss == "softmax":
        return functional.cross_entropy(logits, labels, label_smoothing=recipe.label_smoothing)
    wanted = functional.one_hot(labels, logits.shape[1]).to(logits.dtype)
    if recipe.loss == "sigmoid":
        return functional.binary_cross_entropy_with_logits(logits, wanted)
    return functional.mse_loss(logits, wanted)


def _absolute_weights(net: nn.Module) -> Tensor:
    return torch.stack([p.abs().sum() for p in net.parameters() if p.requires_grad and p.ndim > 1]).sum()


def _optimizer(net: nn.Module, recipe: Recipe) -> torch.optim.SGD:
    norms = [p for name, p in net.named_parameters() if p.requires_grad and "norm" in name]
    others = [p for name, p in net.named_parameters() if p.requires_grad and "norm" not in name]
    norm_decay = recipe.weight_decay / recipe.norm_rate  # torch multiplies the decay by the learning rate
    groups: list[dict[str, Any]] = [
        {"params": norms, "lr": recipe.lr * recipe.norm_rate, "weight_decay": norm_decay},
        {"params": others, "weight_decay": recipe.weight_decay},
    ]
    filled = [group for group in groups if group["params"]]
    momentum = recipe.momentum_at(0.0)
    return torch.optim.SGD(filled, lr=recipe.lr, momentum=momentum, nesterov=recipe.nesterov)


def _triangle(done: float, start: float = 0.2, peak: float = 0.23, end: float = 0.07) -> float:
    """Rise from `start` to 1 at `peak`, fall to `end`."""
    return start + (1 - start) * done / peak if done < peak else 1 - (1 - end) * (done - peak) / (1 - peak)


def _mirror_half(images: Tensor) -> Tensor:
    mirrored = torch.rand(len(images), device=images.device) < 0.5
    return torch.where(mirrored.view(-1, 1, 1, 1), images.flip(-1), images)


class _SlowWeights:
    """An average that the net is pulled back to every few steps."""

    def __init__(self, net: nn.Module) -> None:
        self.state = {k: v.clone() for k, v in net.state_dict().items() if v.is_floating_point()}

    @torch.no_grad()
    def pull(self, net: nn.Module, keep: float) -> None:
        for name, value in net.state_dict().items():
            if name in self.state:
                self.state[name].lerp_(value, 1 - keep)
                value.copy_(self.state[name])
