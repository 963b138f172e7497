"""Choice of device, engine and precision: those named by the user, else the fastest known to agree."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any, Literal, TypeAlias, get_args

from tagger import hardware
from tagger.checkpoint.info import ModelInfo
from tagger.errors import ModelError, UsageError

DEVICES = hardware.DEVICES
EngineName: TypeAlias = Literal["auto", "openvino", "torch", "eager", "onnx"]
Precision: TypeAlias = Literal["auto", "fp32", "tf32", "bf16", "fp16", "int8", "bf16-checked", "int8-checked"]
"""`-checked`: scored again in fp32 where the two best tags are close."""
PRECISIONS: tuple[Precision, ...] = get_args(Precision)


@dataclass(frozen=True)
class Spec:
    """Module, precisions and package of an engine; a new engine is a module, an entry in SPECS and an EngineName."""

    module: str
    """Module of this package with `load(info, build, choice, batch_size, calibration) -> Engine`."""
    precisions: Mapping[str, tuple[Precision, ...]]
    """Device -> the precisions that it supports there, the preferred one first."""
    package: str = "torch"
    """Package that it requires; an engine whose package is missing comes last."""


SPECS: dict[str, Spec] = {
    "openvino": Spec("openvino", {"cpu": ("fp32", "bf16", "int8", "bf16-checked", "int8-checked")}, "openvino"),
    "eager": Spec("pytorch", {"cpu": ("fp32", "bf16"), "cuda": ("fp32", "tf32", "fp16", "bf16")}),
    "torch": Spec("pytorch", {"cpu": ("fp32", "bf16"), "cuda": ("fp32", "tf32", "fp16", "bf16")}),
    "onnx": Spec("onnx", {"cpu": ("fp32",)}, "onnxruntime"),
}
"""Engines, in order of preference if nothing was measured."""
ENGINES: tuple[str, ...] = ("auto", *SPECS)

MIN_AGREEMENT = 0.995
"""Minimum share of photographs with the reference's top tag for `auto` to choose a less exact precision."""
MIN_GAIN = 1.1
"""Minimum speedup for `auto` to choose a less exact precision; a smaller one may be noise."""
MIN_IMAGES = 200
"""Minimum number of photographs for that share to count."""


class CannotRun(ModelError):
    """A network or a precision that an engine cannot run on this machine."""


Records = Mapping[str, Mapping[str, Any]]
"""Choice.key -> results of `tagger benchmark agreement` on this processor: top1, images, images_per_second, ..."""


@dataclass(frozen=True)
class Choice:
    """Device, engine and precision; `auto` leaves a field open. Raises UsageError for an unknown value."""

    device: str = "auto"
    engine: str = "auto"
    precision: str = "auto"

    def __post_init__(self) -> None:
        for option, known in (("device", DEVICES), ("engine", ENGINES), ("precision", PRECISIONS)):
            if getattr(self, option) not in known:
                raise UsageError(f"--{option} {getattr(self, option)}: expected one of {', '.join(known)}")

    @property
    def key(self) -> str:
        """Return the name under which agreement is recorded."""
        return f"{self.engine} {self.device} {self.precision}"

    @property
    def named(self) -> str | None:
        """Return the less exact precision that the user named, if any: part of settings_id."""
        return None if self.precision in ("auto", "fp32") else self.precision


def choose(requested: Choice, records: Records, has_cuda: bool) -> Choice:
    """Replace every `auto`; raises UsageError for a device or precision that is not available."""
    if requested.device == "cuda" and not has_cuda:
        raise UsageError(hardware.NO_GPU)
    cpu_only = requested.engine != "auto" and "cuda" not in SPECS[requested.engine].precisions
    if requested.device == "cuda" and cpu_only:
        raise UsageError(f"--engine {requested.engine} runs on the CPU: add --device cpu")
    device = "cuda" if has_cuda and requested.device != "cpu" and not cpu_only else "cpu"
    fitting = [choice for choice in possible(device) if _fits(choice, requested)]
    if not fitting:
        raise UsageError(
            f"--precision {requested.precision}: not supported by --engine {requested.engine} on --device {device}; "
            f"expected one of {', '.join(dict.fromkeys(each.precision for each in possible(device)))}"
        )
    if requested.precision != "auto":
        return fitting[0]
    exact = next(
        (choice for choice in fitting if choice.precision == "fp32" and trusted(records.get(choice.key), "fp32")),
        Choice(device, "eager", "fp32"),
    )
    agreeing = [choice for choice in fitting if trusted(records.get(choice.key), choice.precision)]
    return max([exact, *agreeing], key=lambda choice: _worth(records, choice, exact))


def for_network(requested: Choice, info: ModelInfo) -> Choice:
    """Set the engine of a network that only one engine can run; raises UsageError if another was named."""
    only = info.only_engine
    if only == "onnx" and requested.engine not in ("auto", only):
        raise UsageError(f"--engine {requested.engine}: {info.name} is an ONNX file; omit it, or use --engine onnx")
    return replace(requested, engine=only) if only and requested.engine == "auto" else requested


def possible(device: str) -> list[Choice]:
    """Return the engines and precisions that a device can run, in order of preference."""
    specs = sorted(SPECS.items(), key=lambda item: find_spec(item[1].package) is None)
    choices = [Choice(device, name, bits) for name, spec in specs for bits in spec.precisions.get(device, ())]
    return [
        choice
        for choice in choices
        if choice.engine == "openvino" or choice.precision != "bf16" or hardware.has_bf16(device)
    ]


def trusted(record: Mapping[str, Any] | None, precision: str) -> bool:
    """Return whether `auto` may choose a precision with this record."""
    if record is None:
        return precision == "fp32"  # the engine itself compares probe images before it runs
    return bool(record["top1"] >= MIN_AGREEMENT and (precision == "fp32" or record["images"] >= MIN_IMAGES))


def doubts(requested: Choice, info: ModelInfo, has_cuda: bool) -> list[str]:
    """Return warnings about a less exact precision that the user named, if its agreement is not proven here."""
    records = info.agreement.get(hardware.processor(), {})
    choice = choose(for_network(requested, info), records, has_cuda)
    record = records.get(choice.key)
    if not requested.named or trusted(record, choice.precision):
        return []
    if record is None:
        return [
            f"{info.name} in {choice.precision}: agreement not measured on this machine; "
            "see `tagger benchmark agreement`"
        ]
    share, images = record["top1"], record["images"]
    return [
        f"{info.name} in {choice.precision} gives the reference's top tag for {share:.1%} of {images:,} photographs"
    ]


def _fits(choice: Choice, requested: Choice) -> bool:
    return requested.engine in ("auto", choice.engine) and requested.precision in ("auto", choice.precision)


def _worth(records: Records, choice: Choice, exact: Choice) -> float:
    """Return images/s divided by the required speedup; choices not measured along with the exact one rank last."""
    if exact.key not in records or choice.key not in records:
        return float(choice == exact)
    gain = 1 if choice.precision == "fp32" else MIN_GAIN
    return float(records[choice.key]["images_per_second"]) / gain
