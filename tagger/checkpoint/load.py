"""Describe and load checkpoint folders: weights without pickle, timm's config.json, tagger.json, a model card."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, cast

from tagger import storage
from tagger.checkpoint import foreign, packaged, unknown
from tagger.checkpoint.info import Json, ModelInfo, fingerprint
from tagger.checkpoint.unknown import Statistics
from tagger.errors import ModelError, SourceError, SourceNotFound, WriteError
from tagger.images import DECODE_VERSION
from tagger.images.transforms import Preprocessing

if TYPE_CHECKING:
    from torch import Tensor, nn

    from tagger.models.backbone import TimmNet

log = logging.getLogger(__name__)

HUB_BACKBONE = "timm/mobilenetv3_large_100.ra_in1k"
"""Default backbone if it is cached or the hub can be reached."""
HUB_TIMEOUT = 3.0
"""Timeout of the request that checks whether the hub can be reached, in seconds."""
WEIGHTS, CONFIG, BUNDLE, CARD = "model.safetensors", "config.json", "tagger.json", "README.md"


def describe(model: str) -> ModelInfo:
    """Describe a model: a checkpoint folder or URL, `local-dir:FOLDER`, `timm/NAME`, `imagenet`, or an .onnx file.

    `auto` is the default backbone.

    Raises ModelError if something is missing or does not fit.
    """
    if model == "auto":
        return describe(default_backbone())
    if model.startswith("timm/"):
        return _describe_published(model.removeprefix("timm/"))
    if model.startswith("local-dir:"):
        folder = storage.absolute(model.removeprefix("local-dir:"))
        if not storage.exists(folder):
            raise ModelError(
                f"{model}: no such folder; local-dir: needs a folder with config.json and model.safetensors"
            )
        return _describe_folder(folder, {})
    if model.lower().endswith(foreign.SUFFIXES):
        return foreign.describe(model)
    folder = storage.absolute(model)
    if model in packaged.PACKAGED and not storage.exists(storage.join(folder, BUNDLE)):
        return _describe_folder(packaged.folder(model), {})
    if not storage.exists(folder):
        raise ModelError(
            f"{model}: no such checkpoint; --model takes a checkpoint folder (see `tagger models`), "
            "imagenet, timm/NAME, local-dir:FOLDER or an .onnx file"
        )
    if not storage.exists(storage.join(folder, BUNDLE)):
        raise ModelError(
            f"{model}: has no {BUNDLE}, so it is not a tagger checkpoint; for a timm folder use local-dir:{model}"
        )
    return _describe_folder(folder, read_json(storage.join(folder, BUNDLE)))


@functools.cache
def default_backbone() -> str:
    """Return the default backbone: the hub's, or `imagenet` if the hub cannot be reached."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache

    if isinstance(try_to_load_from_cache(HUB_BACKBONE, WEIGHTS), str):
        return HUB_BACKBONE
    try:
        get_hf_file_metadata(hf_hub_url(HUB_BACKBONE, WEIGHTS), timeout=HUB_TIMEOUT)
    except Exception:  # its type depends on the hub's HTTP client
        log.warning("using the backbone imagenet, because the hub, which has %s, cannot be reached", HUB_BACKBONE)
        return "imagenet"
    log.warning("using the backbone %s from the hub", HUB_BACKBONE)
    return HUB_BACKBONE


def build(info: ModelInfo) -> nn.Module:
    """Create the network with its weights, in eval mode on the CPU; raises ModelError if they do not fit."""
    import safetensors.torch
    from safetensors import SafetensorError

    from tagger import models

    try:
        state = safetensors.torch.load(storage.read_bytes(info.weights))
    except SafetensorError as error:
        raise ModelError(f"{info.weights}: damaged weights ({error}); fetch or train the checkpoint again") from error
    if info.published:
        return models.backbone.create_pretrained(info.published, state).eval()
    net = models.build(info.architecture, len(info.label_names), info.model_args)
    own = net.state_dict()
    shapes = {name: (_shape(state.get(name)), _shape(own.get(name))) for name in sorted(own.keys() | state.keys())}
    if misfits := [
        f"{name} {file} in the file, {net} in the network" for name, (file, net) in shapes.items() if file != net
    ]:
        shown = "; ".join(misfits[:3]) + (f"; and {len(misfits) - 3} more" if len(misfits) > 3 else "")
        raise ModelError(
            f"{info.weights}: does not fit {info.architecture} with {len(info.label_names)} classes: {shown}"
        )
    net.load_state_dict(state)
    return net.eval()


def build_resized(backbone: ModelInfo) -> nn.Module:
    """Return the network for the input size of its preprocessing; transformers resample position embeddings."""
    net = build(backbone)
    if hasattr(net, "set_input_size"):
        cast("TimmNet", net).set_input_size(img_size=backbone.preprocessing.size)
    return net


def list_checkpoints(folder: str) -> tuple[list[ModelInfo], list[ModelError]]:
    """Describe every checkpoint directly inside a folder; return them, and the errors of broken ones."""
    root = storage.absolute(folder)
    names = storage.names_in(root)
    if names is None:
        raise SourceNotFound(f"{folder}: no such folder; create checkpoints with `tagger train`")
    folders = [storage.join(root, name) for name in names if not name.startswith(".")]
    found: list[ModelInfo] = []
    broken: list[ModelError] = []
    for path in folders:
        try:
            found += [describe(path)] if storage.exists(storage.join(path, BUNDLE)) else []
        except ModelError as error:
            broken.append(error)
    return found, broken


def _describe_folder(folder: str, bundle: Json) -> ModelInfo:
    weights = storage.join(folder, WEIGHTS)
    if not storage.exists(weights):
        raise ModelError(f"{folder}: has no {WEIGHTS}; weights are loaded from safetensors only, never from a pickle")
    config = read_json(storage.join(folder, CONFIG))
    from tagger.checkpoint import validate  # imports pydantic

    if "architecture" not in config:
        raise ModelError(f"{folder}/{CONFIG}: has no architecture; expected timm's config.json")
    validate.check(config, validate.Config, f"{folder}/{CONFIG}")
    validate.check(bundle, validate.Bundle, f"{folder}/{BUNDLE}")
    return _info(folder, weights, config, bundle, _statistics(folder, bundle.get("unknown")))


def _statistics(folder: str, entry: Json | None) -> Statistics | None:
    """Read the statistics for unknown images; None for a checkpoint without them."""
    if entry is None:
        return None
    uri = storage.join(folder, unknown.FILE)
    if not storage.exists(uri):
        raise ModelError(f"{folder}: has no {unknown.FILE}, which {BUNDLE} names; {unknown.AGAIN}")
    if (storage.describe(uri).bytes or 0) > unknown.MAX_BYTES:
        raise ModelError(f"{uri}: larger than {unknown.MAX_BYTES >> 20} MB; {unknown.AGAIN}")
    return unknown.from_bytes(storage.read_bytes(uri), entry["neighbour"], entry["cut"], uri)


def _describe_published(name: str) -> ModelInfo:
    from tagger.models import backbone

    published = backbone.published_config(name)
    config = {"architecture": published["architecture"], "pretrained_cfg": published}
    return replace(
        _info(f"timm/{name}", _fetch(published["hf_hub_id"]), config, {}), name=f"timm/{name}", published=name
    )


def _fetch(hub_id: str) -> str:
    """Return the local path of a hub repository's safetensors file, downloaded once into the hub's own cache."""
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_download, hf_hub_url
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError

    logging.getLogger("huggingface_hub").setLevel(
        logging.ERROR
    )  # it warns about every attempt; tagger's error is one line
    with contextlib.suppress(LocalEntryNotFoundError):  # a cached copy needs no network
        return storage.local_uri(hf_hub_download(hub_id, WEIGHTS, local_files_only=True))
    try:
        with contextlib.suppress(HfHubHTTPError):  # any response will do: the download handles errors
            get_hf_file_metadata(hf_hub_url(hub_id, WEIGHTS))
    except Exception as error:  # its type depends on the hub's HTTP client; the download would retry for half a minute
        raise ModelError(
            f"{hub_id}: the weights are not in the cache ({constants.HF_HUB_CACHE}) and the hub cannot be reached; "
            f"go online once, or use local-dir:FOLDER or an available model: {', '.join(packaged.available())}"
        ) from error
    try:
        return storage.local_uri(hf_hub_download(hub_id, WEIGHTS))
    except EntryNotFoundError as error:
        raise ModelError(
            f"{hub_id}: the repository has no {WEIGHTS}; weights are never loaded from a pickle"
        ) from error
    except (HfHubHTTPError, OSError) as error:
        raise ModelError(
            f"{hub_id}: the weights cannot be downloaded from the hub ({storage.redact(str(error))[:200]})"
        ) from error


def _info(model: str, weights: str, config: Json, bundle: Json, statistics: Statistics | None = None) -> ModelInfo:
    """Return the description of a model from timm's config.json and tagger.json, which may be empty."""
    timm_config = config.get("pretrained_cfg") or {}
    num_classes = config.get("num_classes", timm_config.get("num_classes", 1000))
    names = bundle.get("label_names") or config.get("label_names") or timm_config.get("label_names")
    label_names = _checked_names(names, num_classes, model)
    task = bundle.get("task", "multiclass")
    decisive: Json = {
        "architecture": config["architecture"],
        "model_args": config.get("model_args") or {},
        "label_names": label_names,
        "task": task,
        "temperature": float((bundle.get("calibration") or {}).get("temperature", 1.0)),
    }
    preprocessing = _preprocessing(timm_config)
    digest = hashlib.sha256(storage.read_bytes(weights)).hexdigest()
    hashed = {"weights": digest, "preprocessing": asdict(preprocessing), "decode": DECODE_VERSION}
    hashed |= {"unknown": statistics.fingerprint()} if statistics else {}
    model_id = fingerprint(decisive | hashed)
    return ModelInfo(
        name=model.rstrip("/").rpartition("/")[2],
        model_id=model_id,
        weights=weights,
        preprocessing=preprocessing,
        thresholds=_by_name(bundle.get("thresholds"), label_names, model),
        metrics=bundle.get("metrics") or {},
        agreement=_agreement(model_id, bundle),
        statistics=statistics,
        **decisive,
    )


def record_agreement(model: str, info: ModelInfo, processor: str, records: Json, in_cache: bool = False) -> str:
    """Record the agreement of engines on one processor, in the checkpoint or in the cache; return the file.

    The folders of timm/NAME and local-dir:FOLDER models are not written to.
    """
    agreement = info.agreement | {processor: info.agreement.get(processor, {}) | records}
    bundle = storage.join(storage.absolute(model), BUNDLE)
    if not in_cache and not model.startswith(("timm/", "local-dir:")) and model not in packaged.PACKAGED:
        storage.write_atomic(bundle, to_json(read_json(bundle) | {"agreement": agreement}))
        return bundle
    cached = storage.local_uri(str(_agreement_file(info.model_id)))
    storage.write_atomic(cached, to_json(agreement))
    return cached


def _agreement(model_id: str, bundle: Json) -> dict[str, Json]:
    """Return the records of the cache and the checkpoint; those of the checkpoint take precedence."""
    try:
        cached = dict(json.loads(_agreement_file(model_id).read_text()))
    except (OSError, ValueError):
        cached = {}
    recorded = dict(bundle.get("agreement") or {})
    return {name: cached.get(name, {}) | recorded.get(name, {}) for name in {*cached, *recorded}}


def _agreement_file(model_id: str) -> Path:
    return storage.cache_folder() / "agreement" / f"{model_id}.json"


def _by_name(thresholds: dict[str, float] | None, names: tuple[str, ...], model: str) -> tuple[float, ...] | None:
    if thresholds is None:
        return None
    if missing := [name for name in names if name not in thresholds]:
        raise ModelError(f"{model}: {BUNDLE} has no threshold for {missing[:5]}")
    return tuple(float(thresholds[name]) for name in names)


def _checked_names(names: list[str] | None, num_classes: int, model: str) -> tuple[str, ...]:
    if names is None:
        known = _imagenet_names(num_classes)
        if not known:
            raise ModelError(
                f"{model}: {num_classes} classes without names; add label_names, one per class, to {CONFIG}"
            )
        return known
    if len(names) != num_classes:
        raise ModelError(f"{model}: {len(names)} label names for {num_classes} classes; the numbers must be equal")
    if repeated := [name for name, count in Counter(names).items() if count > 1]:
        raise ModelError(f"{model}: label names must be unique, but {repeated[:5]} occur more than once")
    return tuple(names)


def _imagenet_names(num_classes: int) -> tuple[str, ...]:
    """Return timm's ImageNet names, () if it has none; cached, since importing timm takes seconds."""
    cached = storage.cache_folder() / f"imagenet-{num_classes}-names-timm-{metadata.version('timm')}.json"
    try:
        return tuple(json.loads(cached.read_text()))
    except (OSError, ValueError):
        from tagger.models import backbone

        names = backbone.imagenet_label_names(num_classes) or ()
    with contextlib.suppress(WriteError):  # a cache that cannot be written only costs time
        storage.write_atomic(storage.local_uri(str(cached)), json.dumps(names).encode())
    return names


def _preprocessing(config: Json) -> Preprocessing:
    """Read timm's pretrained_cfg with timm's own defaults (timm.data.resolve_data_config)."""
    default = Preprocessing()
    size = config.get("input_size") or (3, *default.size)
    return Preprocessing(
        size=(int(size[1]), int(size[2])),
        interpolation=config.get("interpolation") or default.interpolation,
        crop_pct=config.get("crop_pct") or default.crop_pct,
        crop_mode=config.get("crop_mode") or default.crop_mode,
        mean=tuple(config.get("mean") or default.mean),
        std=tuple(config.get("std") or default.std),
    )


def read_json(uri: str) -> Json:
    """Read a JSON object of a checkpoint; raises ModelError for anything else."""
    try:
        content = json.loads(storage.read_bytes(uri))
    except SourceError as error:
        raise ModelError(str(error)) from error
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{uri}: not valid JSON ({error})") from error
    if not isinstance(content, dict):
        raise ModelError(f"{uri}: expected a JSON object")
    return content


def to_json(value: Mapping[str, object]) -> bytes:
    """Return indented JSON."""
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()


def _shape(tensor: Tensor | None) -> str:
    return "absent" if tensor is None else "x".join(map(str, tensor.shape)) or "scalar"
