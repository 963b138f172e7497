"""Options, declared once, with type, default, limits and one line of help.

Those of one verb are the fields of a config, in the `config.py` of its package (TagConfig, TrainConfig, ...); those
that several verbs share are the parameters below. The same declaration is the Python config, the options of a command
(`expand`) and the form of a Prefect flow: pydantic reads type, limits and description from it, and rejects invalid
values when a run is created.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import operator
import shlex
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_origin, get_type_hints

from tagger import storage
from tagger.errors import UsageError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance
    from pydantic import GetJsonSchemaHandler
    from pydantic_core import CoreSchema


FORM: dict[str, Any] = {"extra": "forbid"}
"""`__pydantic_config__` of a config: the form of a Prefect flow rejects unknown options."""


@dataclass(frozen=True)
class Range:
    """Range of numbers that a hyperparameter search samples from."""

    low: float
    high: float
    log: bool = False


@dataclass(frozen=True)
class Option:
    """Help text, limits and use of one option."""

    help: str
    used_with: Mapping[str, Collection[object]] = dataclasses.field(default_factory=dict)
    """Other option -> its values with which this one has an effect; with others, this one must be the default."""
    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    lt: float | None = None
    search: Range | tuple[str | bool, ...] | None = None
    """Values that `tagger tune` tries."""

    def check(self, name: str, value: float) -> None:
        """Raise UsageError when a value is outside the limits."""
        limits = {"at least": self.ge, "above": self.gt, "at most": self.le, "below": self.lt}
        given = {words: limit for words, limit in limits.items() if limit is not None}
        if not all(_HOLDS[words](value, limit) for words, limit in given.items()):
            allowed = " and ".join(f"{words} {limit:g}" for words, limit in given.items())
            raise UsageError(f"--{flag(name)} must be {allowed}, got {value}")

    def __get_pydantic_json_schema__(self, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """Describe the option in the form of a Prefect flow."""
        names = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum"}
        limits = {names[name]: value for name in names if (value := getattr(self, name)) is not None}
        schema = handler(core_schema)
        numeric = next((part for part in schema.get("anyOf", ()) if part.get("type") in ("integer", "number")), schema)
        numeric.update(limits)
        return {**schema, "description": self.help}


_HOLDS = {"at least": operator.ge, "above": operator.gt, "at most": operator.le, "below": operator.lt}


Source = Annotated[str, Option("Folder, file, glob, URL, .txt/.csv/.parquet list of URLs, or a manifest.")]
Models = Annotated[
    list[str],
    Option(
        "imagenet, imagenet-lite2, a checkpoint folder or URL, timm/NAME, local-dir:FOLDER, or an .onnx file; "
        "repeatable."
    ),
]
Model = Annotated[
    str, Option("imagenet, imagenet-lite2, a checkpoint folder or URL, timm/NAME, local-dir:FOLDER, or an .onnx file.")
]
Device = Annotated[Literal["auto", "cpu", "cuda"], Option("Device.")]
IMAGENET = "imagenet"
"""Default model of commands and flows."""
ResultsOut = Annotated[str, Option("Results folder or URL; one Parquet row per file is written here.")]
Dataset = Annotated[str, Option("Manifest with labels (`tagger ingest`), or a folder of labelled images.")]
Suggestable = Annotated[
    str, Option("Results folder or URL; or a dataset: a manifest with labels, or a folder of labelled images.")
]
SuggestionsOut = Annotated[str, Option("File to write: .parquet, or .json for Label Studio.")]
CheckpointOut = Annotated[str, Option("Checkpoint folder to write; new or empty.")]
Resume = Annotated[bool, Option("Continue an interrupted training.")]
Images = Annotated[str, Option("cifar10, or a manifest with labels or a folder of labelled images.")]
ReportOut = Annotated[str, Option("Folder for the report and every model; run again to continue.")]
Cifar10 = Annotated[str | None, Option("Folder or archive of CIFAR-10 [default: downloaded into the cache].")]
ManifestOut = Annotated[str, Option("Manifest to write; the name must end in .parquet.")]
Results = Annotated[str, Option("Results folder or URL, as written by `tagger tag --out`.")]
Grace = Annotated[
    float,
    Option("Seconds until merged parts are deleted, so that running queries can finish; 0: delete them at once.", ge=0),
]
ReportPage = Annotated[str, Option("Page to write.")]
DriftPage = Annotated[str, Option("Page to write, .html; the figures are written next to it as .parquet.")]
OneModel = Annotated[str | None, Option("Name of a model in the results [default: the one used last].")]
Checkpoints = Annotated[str, Option("Folder with the model's checkpoint, for the metrics of its model card.")]
Thumbnails = Annotated[int, Option("Maximum number of images read for thumbnails; 0: none.", ge=0)]
Reference = Annotated[
    str | None,
    Option("run_id, run number, or days such as 2026-11 or 2026-11-01..2026-11-15 [default: all earlier runs]."),
]
Current = Annotated[str | None, Option("Period to compare with it, in the same form [default: the last run].")]
FailOver = Annotated[
    float | None,
    Option("Exit with 4 if a figure differs significantly, and by more than this share (effect size).", ge=0, le=1),
]
"""Parameters of the commands and flows, each declared once."""


@dataclass(frozen=True)
class Fields:
    """The options of a config that a command has; the others keep their defaults."""

    names: tuple[str, ...]


def flag(name: str) -> str:
    """Return the name of an option on the command line."""
    return name.replace("_", "-")


def declared(config: type[DataclassInstance]) -> Iterator[tuple[Field[object], object, Option]]:
    """Yield every field of a config class with its type and its Option."""
    hints = get_type_hints(config, include_extras=True)
    for field in fields(config):
        kind, option = get_args(hints[field.name])[:2]
        yield field, kind, option


def used(config: DataclassInstance, **instead: object) -> dict[str, Any]:
    """Return the options that have an effect, with their values; `instead` replaces values of the config."""
    values = {**vars(config), **instead}
    return {each.name: values[each.name] for each, _, option in declared(type(config)) if not _unused(option, values)}


def given(config: DataclassInstance) -> set[str]:
    """Return the names of the options that are not at their defaults."""
    return {each.name for each in fields(config) if getattr(config, each.name) != each.default}


def _unused(option: Option, values: Mapping[str, object]) -> str | None:
    """Return the other option whose value makes this one have no effect, if any."""
    return next((other for other, allowed in option.used_with.items() if values[other] not in allowed), None)


def check(config: DataclassInstance) -> None:
    """Check a config against its declarations.

    Raises UsageError for the first value that is not allowed or has no effect.
    """
    for field, kind, option in declared(type(config)):
        value = getattr(config, field.name)
        if value is None and type(None) in get_args(kind):
            continue
        if get_origin(kind) is Literal and value not in get_args(kind):
            raise UsageError(f"--{flag(field.name)} {value}: expected one of {', '.join(get_args(kind))}")
        if isinstance(value, int | float) and not isinstance(value, bool):
            option.check(field.name, value)
        if value != field.default and (other := _unused(option, vars(config))):
            values = option.used_with[other]
            shown = [f"{values[0]} or more"] if isinstance(values, range) else values
            allowed = " or ".join(" ".join(_words(other, each)) for each in shown)
            raise UsageError(
                f"--{flag(field.name)} has no effect with {' '.join(_words(other, getattr(config, other)))}: "
                f"omit it, or use {allowed}"
            )


def expand(function: Callable[..., object], call: Callable[..., object] | None = None) -> Callable[..., None]:
    """Return a command with the parameters of `function`, each config replaced by its options.

    It calls `call`, by default `function` itself. Parameters annotated with an Option become options of the command,
    `source`, `dataset` and `results` its argument; those annotated with Typer's own stay as they are.
    """
    hints = get_type_hints(function, include_extras=True)
    plain = {name: get_args(hint)[0] if get_origin(hint) is Annotated else hint for name, hint in hints.items()}
    configs = {name: kind for name, kind in plain.items() if is_dataclass(kind) and isinstance(kind, type)}
    shown = {
        name: [each for each in declared(kind) if _shown(hints[name], each[0].name)] for name, kind in configs.items()
    }
    parameters: list[inspect.Parameter] = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.name in configs:
            options = shown[parameter.name]
            parameters += [_parameter(field.name, field.default, kind, option) for field, kind, option in options]
            continue
        kind, *extra = get_args(hints[parameter.name]) or (hints[parameter.name],)
        if extra and isinstance(extra[0], Option):
            default = MISSING if parameter.default is parameter.empty else parameter.default
            parameters.append(_parameter(parameter.name, default, kind, extra[0]))
        else:
            parameters.append(parameter.replace(annotation=hints[parameter.name], kind=parameter.KEYWORD_ONLY))

    @functools.wraps(function)
    def command(**values: Any) -> None:
        for name, config in configs.items():
            values[name] = config(**{field.name: _value(field, values.pop(field.name)) for field, _, _ in shown[name]})
        (call or function)(**values)

    ordered = sorted(parameters, key=lambda parameter: parameter.default is not inspect.Parameter.empty)
    command.__signature__ = inspect.Signature(ordered)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in ordered} | {"return": None}
    return command


def _shown(hint: object, name: str) -> bool:
    """Return whether a command has this option of a config."""
    chosen = [extra for extra in get_args(hint)[1:] if isinstance(extra, Fields)]
    return not chosen or name in chosen[0].names


def _parameter(name: str, default: Any, kind: object, option: Option) -> inspect.Parameter:
    """Return an option as a parameter for Typer."""
    import typer

    if get_origin(kind) is tuple:
        kind, default = list[str], [", ".join(default)] if default else []
    low = option.ge if kind in (int, int | None) else None
    names = [f"--{flag(name)}"] if default is False else []
    made: Any = typer.Option(*names, help=option.help, min=low)
    if name in ("source", "dataset", "results") and default is MISSING:
        made = typer.Argument(help=option.help)
    default = inspect.Parameter.empty if default is MISSING else default
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, made])


def _value(field: Field[object], value: Any) -> object:
    """Convert a command-line value to the type of its field: a tuple is comma-separated, or a repeated option."""
    if isinstance(field.default, tuple):
        return tuple(word.strip() for text in value for word in text.split(",") if word.strip())
    return value


def command(verb: str, subject: str, config: DataclassInstance, **given: str | None) -> str:
    """Return `tagger VERB SUBJECT` with the given options and those of `config` that are not defaults.

    Passwords and queries of URLs are left out.
    """
    changed = {each.name: value for each in fields(config) if (value := getattr(config, each.name)) != each.default}
    options = {**given, **changed}
    words = [word for name, value in options.items() if value is not None for word in _words(name, value)]
    return shlex.join(["tagger", verb, *map(storage.redact, (subject, *words))])


def _words(name: str, value: object) -> list[str]:
    option = f"--{flag(name)}"
    if isinstance(value, bool):
        return [option if value else f"--no-{flag(name)}"]
    return [option, ",".join(value) if isinstance(value, tuple) else str(value)]
