"""The training loop: one for every network, from a linear model to a fine-tuned backbone.

A loader yields batches that are ready on the device; the trainer does epochs, schedule, averaging, early stopping and
resuming. Random numbers are seeded anew for every epoch, so a run that is killed and resumed ends with the same weights
as an uninterrupted one.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Protocol, TypedDict

import numpy as np
import torch
from timm.data.mixup import Mixup
from timm.optim._optim_factory import create_optimizer_v2
from timm.utils.model_ema import ModelEmaV3
from torch import Tensor, nn
from torch.nn import functional

from tagger.checkpoint.info import Json
from tagger.errors import TaggerError, UsageError
from tagger.evaluation import metrics
from tagger.inference.engines import Float32Array
from tagger.training.distributed import ALONE, Group, synchronised
from tagger.training.recipe import Recipe

log = logging.getLogger(__name__)

SMALL_BATCH = 8
"""Minimum batch size to update batch-norm statistics; those of smaller batches are worse than the backbone's."""
CHECKED_EVERY = 50
"""Steps between two checks of the loss, which wait for the device."""
SLOW_STEPS = 5
"""Steps between two updates of the slow weights."""

Batch = tuple[Tensor, Tensor]
"""Network input (N, 3, H, W) and targets (N, K), on the device."""


class Loader(Protocol):
    """Training batches, reproducible for each epoch."""

    count: int
    """Images per epoch, over all processes."""

    def __len__(self) -> int:
        """Return the number of batches per epoch."""
        ...

    def epoch(self, number: int) -> Iterator[Batch]:
        """Yield this process's share of the batches of one epoch, counted from 1."""
        ...


@dataclass(frozen=True)
class Epoch:
    """One point of the learning curve."""

    epoch: int
    epochs: int
    train_loss: float
    train_score: float | None
    """Accuracy on the augmented training images; None for several labels per image or mixed images."""
    val_loss: float | None
    val_score: float | None
    """Accuracy, or mean average precision for several labels per image."""
    lr: float
    seconds: float

    def text(self) -> str:
        """Return one line for a progress log."""
        train = "" if self.train_score is None else f", train {self.train_score:.1%}"
        validation = "" if self.val_score is None else f", validation {self.val_score:.1%} (loss {self.val_loss:.3f})"
        left = self.seconds * (self.epochs - self.epoch)
        return (
            f"epoch {self.epoch}/{self.epochs}: loss {self.train_loss:.3f}{train}{validation}, "
            f"{self.seconds:.1f} s, at most {left:.0f} s left"
        )


OnEpoch = Callable[[Epoch], None]


class Diverged(TaggerError):
    """A training whose loss is not finite."""


class TrainerState(TypedDict):
    """All that the next epoch depends on."""

    net: dict[str, Tensor]
    optimizer: dict[str, object]
    ema: dict[str, Tensor]
    slow: dict[str, Tensor]
    piece: int
    best: dict[str, Tensor]
    best_epoch: int
    best_value: float
    curve: list[Json]


class Trainer:
    """Trains a network in place."""

    def __init__(
        self,
        net: nn.Module,
        loader: Loader,
        recipe: Recipe,
        seed: int,
        device: str,
        validation: Callable[[], Iterable[Batch]] | None = None,
        multilabel: bool = False,
        label_weights: Tensor | None = None,
        autocast: bool = False,
        compiled: bool = False,
        processes: Group = ALONE,
    ) -> None:
        self.net, self.loader, self.recipe, self.seed, self.device = net, loader, recipe, seed, device
        self.validation, self.multilabel, self.autocast = validation, multilabel, autocast
        self.label_weights, self.processes = label_weights, processes
        self.loss = "sigmoid" if multilabel else recipe.loss
        if not recipe.freeze_norms:
            self.net = net = processes.with_shared_norms(net, device)
        net.to(device).to(memory_format=torch.channels_last)
        self.forward: Callable[[Tensor], Tensor] = torch.compile(net) if compiled else net
        self.optimizer = make_optimizer(net, recipe, device)
        self.ema = ModelEmaV3(net, decay=recipe.ema, use_warmup=True) if recipe.ema else None
        self.slow = {k: v for k, v in weights_of(net).items() if v.is_floating_point()} if recipe.lookahead else {}
        self.piece = recipe.batch_size
        """Images per forward pass; smaller than a batch after running out of memory."""
        self.curve: list[Epoch] = []
        self.best: dict[str, Tensor] = {}
        self.best_epoch, self.best_value = 0, -math.inf
        self.seconds_before = 0.0
        """Training time of earlier, killed runs."""

    @property
    def finished(self) -> bool:
        """Return whether all epochs are done, or validation has stopped improving."""
        done, patience = len(self.curve), self.recipe.patience
        return done >= self.recipe.epochs or (patience is not None and done - self.best_epoch >= patience)

    def start_from(self, value: float) -> None:
        """Record the initial network, whose monitored score is `value`, as the best so far."""
        self.best, self.best_value = weights_of(self.net), value

    def fit(self, on_epoch: OnEpoch = lambda epoch: None) -> None:
        """Train the remaining epochs and load the weights to return; raises Diverged."""
        while not self.finished:
            on_epoch(self.run_epoch())
        self.load_best()

    def load_best(self) -> None:
        """Load the best weights, the average, or those of the last epoch."""
        if self.best:
            self.net.load_state_dict(self.best)
        elif self.ema:
            self.net.load_state_dict(self.ema.module.state_dict())
        elif self.slow:
            self._pull(keep=1.0)

    def run_epoch(self) -> Epoch:
        """Train and validate one epoch; raises Diverged if the loss is not finite."""
        started, number = time.perf_counter(), len(self.curve) + 1
        epoch_seed = seed_of(self.seed, number)
        torch.manual_seed(epoch_seed + self.processes.rank)  # each process has its own dropout
        np.random.seed(epoch_seed)  # timm's mixup draws from here
        train_loss, train_score = self._train(number)
        if not math.isfinite(train_loss):
            raise Diverged(f"training diverged: the loss of epoch {number} is not finite")
        network = self.ema.module if self.ema else self.net
        val_loss, val_score = self.processes.from_first(lambda: self._validate(network))
        lr = self.recipe.lr_at((number * len(self.loader) - 1) / self._steps)
        seconds = time.perf_counter() - started
        found = Epoch(number, self.recipe.epochs, train_loss, train_score, val_loss, val_score, lr, seconds)
        self.curve.append(found)
        self._keep_best(found, network)
        return found

    def state(self) -> TrainerState:
        """Return everything that the next epoch depends on."""
        return {
            "net": self.net.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "ema": self.ema.module.state_dict() if self.ema else {},
            "slow": self.slow,
            "piece": self.piece,
            "best": self.best,
            "best_epoch": self.best_epoch,
            "best_value": self.best_value,
            "curve": [asdict(epoch) for epoch in self.curve],
        }

    def load_state(self, state: TrainerState) -> None:
        """Continue after the epoch of a saved state."""
        self.net.load_state_dict(state["net"])
        self.optimizer.load_state_dict(state["optimizer"])
        for (
            parameter,
            slots,
        ) in self.optimizer.state.items():  # same memory layout as the weights, else steps are slower
            slots.update(
                {k: torch.empty_like(parameter).copy_(v) for k, v in slots.items() if isinstance(v, Tensor) and v.ndim}
            )
        if self.ema:
            self.ema.module.load_state_dict(state["ema"])
        self.slow, self.best = ({k: v.to(self.device) for k, v in state[name].items()} for name in ("slow", "best"))
        self.piece = state["piece"]
        self.best_epoch, self.best_value = state["best_epoch"], state["best_value"]
        self.curve = [Epoch(**entry) for entry in state["curve"]]
        self.seconds_before = sum(epoch.seconds for epoch in self.curve)

    @property
    def _steps(self) -> int:
        return self.recipe.epochs * len(self.loader)

    def _keep_best(self, found: Epoch, network: nn.Module) -> None:
        if self.recipe.patience is None or found.val_loss is None or found.val_score is None:
            return
        value = found.val_score if self.recipe.monitor == "val_score" else -found.val_loss
        if value > self.best_value:
            self.best, self.best_value, self.best_epoch = weights_of(network), value, found.epoch

    def _train(self, number: int) -> tuple[float, float | None]:
        """Train on every image once; return mean loss and accuracy."""
        recipe, total_steps, processes = self.recipe, len(self.loader), self.processes
        self.net.train()
        self._freeze(number)
        loss = hits = torch.zeros((), device=self.device)
        images = 0
        self.optimizer.zero_grad(set_to_none=True)
        for step, (x, target) in enumerate(self.loader.epoch(number), 1):
            count = min(recipe.batch_size, self.loader.count - images)
            self._set_norms(count)
            self._set_rates(((number - 1) * total_steps + step - 1) / self._steps)
            stepping = step % recipe.accumulate == 0 or step == total_steps
            last_group = step > total_steps // recipe.accumulate * recipe.accumulate
            batches = total_steps % recipe.accumulate if last_group else recipe.accumulate
            counted = len(x) * processes.weight(count)
            weight = counted * processes.size / count / batches
            batch_loss, batch_hits = self._backward(*self._mixed(x, target, count), weight, 1 / batches, stepping)
            loss, hits, images = loss + batch_loss * counted, hits + batch_hits * (counted / len(x)), images + count
            if step % CHECKED_EVERY == 0 and not processes.sum(loss).isfinite():
                break
            if stepping:
                self._step(-(-((number - 1) * total_steps + step) // recipe.accumulate))
        self._average_all()
        total_loss, total_hits = (processes.sum(loss, hits) / images).tolist()
        scored = not self.multilabel and not (recipe.mixup or recipe.cutmix)
        return total_loss, total_hits if scored else None

    def _freeze(self, number: int) -> None:
        """Freeze parameters as the recipe says; only gradients of the others are averaged over the processes."""
        changed = False
        for name, last in self.recipe.freeze_after:
            parameter = self.net.get_parameter(name)
            changed |= parameter.requires_grad != (number <= last)
            parameter.requires_grad_(number <= last)
        if self.processes.size > 1 and (changed or self.forward is self.net):
            steps = (number - 1) * len(self.loader) // self.recipe.accumulate
            self.forward = self.processes.parallel(self.net, steps)

    def _backward(
        self, x: Tensor, target: Tensor, weight: float, penalty_weight: float, stepping: bool
    ) -> tuple[Tensor, Tensor]:
        """Accumulate the gradients of one batch; return the mean loss and the number of correct predictions.

        When memory runs out, the batch is repeated in smaller pieces; gradients of earlier batches are lost.
        """
        while True:
            try:
                return self._in_pieces(x, target, weight, penalty_weight, stepping)
            except torch.OutOfMemoryError as error:
                if self.processes.size > 1:  # the others wait for the gradients of this batch
                    raise UsageError(
                        f"--batch-size: {len(x)} images at a time do not fit into the memory of this {self.device}; "
                        "choose a smaller --batch-size and more --accumulate"
                    ) from error
                if self.piece == 1:
                    shape = "x".join(map(str, x.shape[2:]))
                    raise UsageError(
                        f"--image-size: one training image of {shape} does not fit into the memory of this "
                        f"{self.device}; choose a smaller --image-size or --backbone, or --method probe"
                    ) from error
            # the exception keeps tensors alive, so retry outside its block
            self.piece = max(1, self.piece // 2)
            log.warning("out of memory on %s: training on %d images at a time", self.device, self.piece)
            self.optimizer.zero_grad(set_to_none=True)

    def _in_pieces(
        self, x: Tensor, target: Tensor, weight: float, penalty_weight: float, stepping: bool
    ) -> tuple[Tensor, Tensor]:
        total = hits = torch.zeros((), device=self.device)
        pieces = list(zip(x.split(self.piece), target.split(self.piece), strict=True))
        for number, (piece, truth) in enumerate(pieces, 1):
            share = len(piece) / len(x)
            with synchronised(self.forward, stepping and number == len(pieces)):
                with torch.autocast(self.device, torch.bfloat16, enabled=self.autocast):
                    logits = self.forward(piece).float()
                loss = loss_of(logits, truth, self.loss, self.recipe.label_smoothing, self.label_weights)
                penalty = self.recipe.l1 * _absolute_weights(self.net) if self.recipe.l1 else 0.0
                (loss * (share * weight) + penalty * (share * penalty_weight)).backward()
            total = total + loss.detach() * share
            hits = hits + ((logits.argmax(1) == truth.argmax(1)) & truth.any(dim=1)).sum()
        return total, hits

    def _step(self, update: int) -> None:
        if self.recipe.clip:
            nn.utils.clip_grad_norm_(self.net.parameters(), self.recipe.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.ema:
            self.ema.update(self.net, step=update)
        if self.processes.averages_after(update):
            self.processes.average([parameter.detach() for parameter in self.net.parameters()])
        if self.slow and update % SLOW_STEPS == 0:
            self._pull(keep=0.95**SLOW_STEPS * (update / self._steps) ** 3)

    @torch.no_grad()
    def _pull(self, keep: float) -> None:
        """Move the slow weights towards the network's, and set the network to them."""
        state = self.net.state_dict()
        slow, fast = list(self.slow.values()), [state[name] for name in self.slow]
        torch._foreach_lerp_(slow, fast, 1 - keep)
        torch._foreach_copy_(fast, slow)

    def _average_all(self) -> None:
        """After local steps, average everything the next epoch depends on; the first process validates and saves it."""
        if self.processes.size == 1 or self.processes.gradients != "local":
            return
        slots = [value for each in self.optimizer.state.values() for value in each.values()]
        kept = [*self.net.state_dict().values(), *self.slow.values(), *slots]
        kept += self.ema.module.state_dict().values() if self.ema else ()
        self.processes.average([t for t in kept if isinstance(t, Tensor) and t.ndim and t.is_floating_point()])

    def _set_rates(self, done: float) -> None:
        """Set learning rate and momentum; `lr_scale` is a group's own factor, as in timm."""
        lr, momentum = self.recipe.lr_at(done), self.recipe.momentum_at(done)
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group.get("lr_scale", 1.0)
            if "momentum" in group:
                group.update(momentum=momentum, dampening=momentum if self.recipe.unit_gain else 0.0)

    def _mixed(self, x: Tensor, target: Tensor, count: int) -> Batch:
        """Blend images and labels with timm's mixup and cutmix, which need an even number of images."""
        if not (self.recipe.mixup or self.recipe.cutmix) or count % 2:
            return x, target
        mixer = Mixup(self.recipe.mixup, self.recipe.cutmix, label_smoothing=0.0, num_classes=len(x))
        x, shares = mixer(x, torch.arange(len(x), device=x.device))
        return x, shares.to(target.dtype) @ target

    def _set_norms(self, images: int) -> None:
        """Freeze batch-norm statistics if the recipe does, or if the batch is too small."""
        if self.recipe.freeze_norms or images < SMALL_BATCH:
            for module in self.net.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()

    def _validate(self, network: nn.Module) -> tuple[float | None, float | None]:
        """Return loss and score on the validation images; (None, None) without any."""
        if self.validation is None:
            return None, None
        batches = [(logits_of(network, [x]), target.cpu()) for x, target in self.validation()]
        logits, target = (torch.cat(parts) for parts in zip(*batches, strict=True))
        loss = loss_of(logits, target, self.loss, 0.0, None).item()
        return loss, score_of(logits.numpy(), target.numpy(), self.multilabel)


def make_optimizer(net: nn.Module, recipe: Recipe, device: str = "cpu") -> torch.optim.Optimizer:
    """Return timm's optimizer; biases and norms have weight decay only if the recipe decays all parameters."""
    momentum = recipe.momentum_at(0.0)
    plain = recipe.optimizer == "sgd" and not (recipe.nesterov and momentum)
    return create_optimizer_v2(
        _groups(net, recipe) if recipe.decay_all else net,
        opt="momentum" if plain else recipe.optimizer,  # timm's sgd has Nesterov momentum
        lr=recipe.lr,
        weight_decay=recipe.weight_decay,
        momentum=momentum,
        layer_decay=recipe.layer_decay,
        fused=device == "cuda" or None,
    )


def _groups(net: nn.Module, recipe: Recipe) -> list[dict[str, object]]:
    """Return the parameters of norms, with their own learning rate, and the others; empty groups are left out."""
    groups = []
    for norm, scale in ((True, recipe.norm_lr_scale), (False, 1.0)):
        if params := [p for name, p in net.named_parameters() if p.requires_grad and ("norm" in name) == norm]:
            # torch multiplies the decay by the learning rate
            groups.append({"params": params, "lr_scale": scale, "weight_decay": recipe.weight_decay / scale})
    return groups


def loss_of(logits: Tensor, target: Tensor, loss: str, smoothing: float, label_weights: Tensor | None) -> Tensor:
    """Return the mean loss of logits (N, K) against targets (N, K).

    Rows of zeros are images known to have none of the labels: they count for sigmoid and squared, not for softmax.
    """
    if loss == "sigmoid":
        return functional.binary_cross_entropy_with_logits(logits, target, pos_weight=label_weights)
    if loss == "squared":
        return functional.mse_loss(logits, target)
    smoothed = target * (1 - smoothing) + smoothing / target.shape[1]
    each = functional.cross_entropy(logits, smoothed, reduction="none")
    # weighted by the image's own label, not by the smoothed target
    return (each * (target.sum(dim=1) if label_weights is None else target @ label_weights)).mean()


def label_weights(target: Tensor, multilabel: bool) -> Tensor:
    """Return weights (K,) that balance the labels: inverse frequencies, or negatives per positive."""
    positives = target.sum(dim=0).clamp(min=1)
    if multilabel:
        return ((len(target) - positives) / positives).clamp(max=100)
    return len(target) / (len(positives) * positives)


@torch.inference_mode()
def logits_of(net: nn.Module, inputs: Iterable[Tensor]) -> Tensor:
    """Return logits (N, K) in fp32 on the CPU."""
    net.eval()
    return torch.cat([net(x).float().cpu() for x in inputs])


def score_of(logits: Float32Array, truth: Float32Array, multilabel: bool) -> float:
    """Return the score that selects models: accuracy, or mean average precision."""
    if multilabel:
        return metrics.mean_average_precision(logits, truth) or 0.0
    labelled = truth.any(axis=1)
    return float((logits.argmax(axis=1) == truth.argmax(axis=1))[labelled].mean())


def seed_of(*parts: int) -> int:
    """Return a seed derived from several integers."""
    return int(np.random.SeedSequence(parts).generate_state(1)[0])


def weights_of(net: nn.Module) -> dict[str, Tensor]:
    """Return a copy of the weights."""
    return {name: value.detach().clone() for name, value in net.state_dict().items()}


def _absolute_weights(net: nn.Module) -> Tensor:
    return torch.stack([p.abs().sum() for p in net.parameters() if p.requires_grad and p.ndim > 1]).sum()
