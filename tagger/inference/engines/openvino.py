"""OpenVINO on the CPU, in fp32, bf16 or int8.

Every core runs its own stream on a small batch: no thread waits for another, decoding takes its share without stalling
the rest, and activations stay in the CPU's cache. Converted and tuned networks are stored in the cache folder by
model_id, so a second run needs neither torch nor timm.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import io
import json
import logging
import queue
import shutil
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from filelock import FileLock, Timeout

from tagger import hardware, storage
from tagger.checkpoint.info import ModelInfo
from tagger.errors import MissingExtra, ModelError, first_line
from tagger.images import UInt8Array
from tagger.inference.engines.choice import CannotRun, Choice
from tagger.inference.engines.probe import TOLERANCE, Float32Array, probe_images, rate

if TYPE_CHECKING:
    from torch import nn

    Build = Callable[[ModelInfo], nn.Module]
    Calibration = Callable[[], UInt8Array]

log = logging.getLogger(__name__)

BATCH_SIZES = (1, 2, 4, 8)
"""Larger batches exceed the CPU's cache and are slower."""
NEARLY = 0.9
"""A smaller batch that reaches this share of the best rate alone is faster in a run: decoding needs the cache too."""
ROUNDS = 3
"""Measurements of each batch size, in turn: another process may disturb one of them."""
COMPILE_SECONDS = 60
"""Limit on the wait for other processes that compile a network."""
_HINTS = {"fp32": "f32", "bf16": "bf16", "int8": "f32"}
_NETWORKS = {"fp32": "model.xml", "bf16": "model.xml", "int8": "int8.xml"}
_PROBED = "agreement.json"
_FIRST_CALL = threading.Lock()
"""Held during the first call of a network. OpenVINO's binding fills its tables of number types on first use and
releases the GIL meanwhile, so two simultaneous first calls would deadlock."""


class OpenVinoEngine:
    """A compiled network with one request per core and a fixed batch size, to which smaller batches are padded."""

    shares_cores = True

    def __init__(self, network: Path, precision: str, batch_size: int, images_per_second: float | None = None) -> None:
        ov = _openvino()
        self.name = f"openvino {ov.__version__.partition('-')[0]} cpu {precision}"
        self.batch_size, self.concurrency, self.images_per_second = batch_size, hardware.cores(), images_per_second
        core = _core()
        model = core.read_model(network)
        model.reshape([batch_size, *list(model.input(0).partial_shape)[1:]])
        options = {
            "INFERENCE_PRECISION_HINT": _HINTS[precision],
            "NUM_STREAMS": str(self.concurrency),
            "INFERENCE_NUM_THREADS": str(self.concurrency),
        }
        with _alone(network.parent) as held:
            cached = {"CACHE_DIR": str(network.parent / "compiled")} if held else {}
            compiled = core.compile_model(model, "CPU", options | cached)
        self._idle: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for _ in range(self.concurrency):
            self._idle.put(compiled.create_infer_request())
        with _FIRST_CALL:
            self._score(np.zeros((1, *list(model.input(0).shape)[1:]), dtype=np.uint8))

    def __call__(self, images: UInt8Array) -> tuple[Float32Array, Float32Array]:
        """Score any number of images."""
        parts = [self._score(images[i : i + self.batch_size]) for i in range(0, len(images), self.batch_size)]
        return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])

    def _score(self, images: UInt8Array) -> tuple[Float32Array, Float32Array]:
        missing = self.batch_size - len(images)
        whole = np.pad(images, ((0, missing), (0, 0), (0, 0), (0, 0))) if missing else images
        request = self._idle.get()
        try:
            outputs = request.infer([whole], share_inputs=True)
            return outputs[0][: len(images)].copy(), outputs[1][: len(images)].copy()
        finally:
            self._idle.put(request)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[bool]:
    """Lock the compiled networks of the cache; yields False when another process does not release them in time.

    OpenVINO maps them into memory: a process that writes one anew would crash those that have it open (SIGBUS).
    """
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(FileLock(folder.parent / "compile.lock", timeout=COMPILE_SECONDS))
        except Timeout:
            yield False
            return
        except OSError:
            log.debug("%s is read-only; no process can write it", folder)
        yield True


def load(
    info: ModelInfo, build: Build, choice: Choice, batch_size: int | None, calibration: Calibration | None
) -> OpenVinoEngine:
    """Return the engine; a network that is not in the cache is first converted, compared and tuned.

    Raises CannotRun if OpenVINO fails or gives different scores, MissingExtra if a package is not installed.
    """
    _check_processor(choice.precision)
    cache = storage.cache_folder()
    try:
        return _load_from(cache, info, build, choice.precision, batch_size, calibration)
    except OSError as error:
        log.warning("%s: cannot cache the converted network (%s); converting it for this run only", cache, error)
    try:
        return _load_from(_own_folder(), info, build, choice.precision, batch_size, calibration)
    except OSError as error:
        raise CannotRun(f"{info.name}: no disk space to convert it for OpenVINO ({error})") from error


@functools.cache
def _own_folder() -> Path:
    """Return a temporary folder that is deleted when this process ends."""
    folder = tempfile.TemporaryDirectory(prefix="tagger-")
    atexit.register(folder.cleanup)
    return Path(folder.name)


def _load_from(
    cache: Path,
    info: ModelInfo,
    build: Build,
    precision: str,
    batch_size: int | None,
    calibration: Calibration | None,
) -> OpenVinoEngine:
    """Return the engine from a cache folder; raises OSError if it cannot be written."""
    folder = cache / "openvino" / info.model_id
    with contextlib.suppress(RuntimeError, OSError, ValueError, KeyError):  # absent or damaged: made again below
        return _cached(folder, precision, batch_size)
    try:
        with _alone(folder):
            shutil.rmtree(folder / "compiled", ignore_errors=True)
        if not _probed(folder):
            _convert(info, build, folder)
        if precision == "int8" and not _whole(folder, "int8.xml"):
            _quantise(info, folder, calibration)
        _tune(info, folder, precision)
        return _cached(folder, precision, batch_size)
    except (ModelError, OSError):
        raise
    except Exception as error:  # any failure of the converter; the reference still runs
        raise CannotRun(f"{info.name}: OpenVINO cannot run it in {precision} ({first_line(error)})") from error


def _openvino() -> Any:
    """Import OpenVINO without its telemetry package, through which it and NNCF report their use."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        import openvino
    except ImportError as error:
        raise MissingExtra("--engine openvino", "openvino") from error
    return openvino


@functools.cache
def _core() -> Any:
    """Return the only Core of this process.

    The CPU plugin sets a signal stack for the thread that loads it, and frees it with the last network, in whichever
    thread that happens; the next signal to the first thread would then crash the process (SIGSEGV). A Core that is
    never released keeps the plugin loaded.
    """
    return _openvino().Core()


def _check_processor(precision: str) -> None:
    if precision == "bf16" and "BF16" not in _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise CannotRun("this processor has no bf16 instructions")


def _cached(folder: Path, precision: str, batch_size: int | None) -> OpenVinoEngine:
    """Compile the cached network; raises ValueError or OSError if the cache is incomplete."""
    network = folder / _NETWORKS[precision]
    if not _probed(folder) or not _whole(folder, network.name):
        raise ValueError("not converted")
    tuned = json.loads((folder / f"{precision}.json").read_text())
    if tuned["cores"] != hardware.cores():
        raise ValueError("tuned for another number of cores")
    return OpenVinoEngine(network, precision, batch_size or int(tuned["batch_size"]), tuned["images_per_second"])


def _version() -> str:
    try:
        return metadata.version("openvino")
    except metadata.PackageNotFoundError:
        return ""


def _probed(folder: Path) -> bool:
    """Return whether the cached network is whole and was compared with the reference by this OpenVINO."""
    try:
        record = json.loads((folder / _PROBED).read_text())
        agrees = record["openvino"] == _version() and record["max_difference"] <= TOLERANCE
        return bool(agrees) and _whole(folder, _NETWORKS["fp32"])
    except (OSError, ValueError, KeyError):
        return False


def _convert(info: ModelInfo, build: Build, folder: Path) -> None:
    """Convert a network, compare it with the reference on probe images, and only then move it into the cache."""
    import torch

    from tagger.inference.engines.pytorch import scorer

    ov = _openvino()
    reference = scorer(info, build(info))
    probe = probe_images(info.preprocessing.size)
    with torch.inference_mode():
        expected = reference(torch.from_numpy(probe))[0].numpy()
    with _aside(folder) as aside:
        with _quiet():
            converted = ov.convert_model(reference, example_input=torch.from_numpy(probe[:2]))
        converted.reshape([-1, *info.preprocessing.size, 3])
        _save(converted, aside, _NETWORKS["fp32"])
        scores, _ = OpenVinoEngine(aside / _NETWORKS["fp32"], "fp32", len(probe))(probe)
        difference = float(np.abs(scores - expected).max())
        if not difference <= TOLERANCE:
            raise RuntimeError(f"its scores differ from eager torch by {difference:.2g}, over {TOLERANCE:g}")
        shutil.rmtree(aside / "compiled", ignore_errors=True)
        record = {"max_difference": difference, "images": len(probe), "openvino": _version()}
        (aside / _PROBED).write_text(json.dumps(record))
        if _probed(folder):  # another process was first
            return
        for file in folder.glob("int8.*") if _whole(folder, _NETWORKS["int8"]) else ():
            shutil.copy2(file, aside)  # calibrated on the user's photographs
        shutil.rmtree(folder, ignore_errors=True)
        try:
            aside.rename(folder)
        except OSError:  # another process was first just now
            if not _probed(folder):
                raise


def _quantise(info: ModelInfo, folder: Path, calibration: Calibration | None) -> None:
    """Add an int8 copy of the converted network, calibrated on the user's images."""
    if calibration is None:
        raise CannotRun(
            f"{info.name}: int8 is not calibrated on this machine; run `tagger benchmark agreement` on your photographs"
        )
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # NNCF looks for CUDA
    try:
        import nncf
    except ImportError as error:
        raise MissingExtra("--precision int8", "nncf") from error
    logging.getLogger("nncf").setLevel(logging.ERROR)
    images = [image[None] for image in calibration()]
    network = _core().read_model(folder / _NETWORKS["fp32"])
    with contextlib.redirect_stdout(io.StringIO()):  # progress bars
        quantised = nncf.quantize(
            network, nncf.Dataset(images), preset=nncf.QuantizationPreset.MIXED, subset_size=len(images)
        )
    with _aside(folder) as aside:
        _save(quantised, aside, _NETWORKS["int8"])
        for file in sorted(aside.iterdir()):  # .bin, .sizes, .xml
            file.replace(folder / file.name)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Send the converter's output to stderr and restore the root logger, whose level it changes when it fails."""
    root = logging.getLogger()
    level, filters, handlers = root.level, root.filters[:], root.handlers[:]
    try:
        with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the tracer's advice is not for our users
            yield
    finally:
        root.setLevel(level)
        root.filters, root.handlers = filters, handlers


@contextlib.contextmanager
def _aside(folder: Path) -> Any:
    """Create a temporary folder next to the cache, for incomplete files."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix="_", dir=folder.parent))
    try:
        yield aside
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _save(network: Any, folder: Path, name: str) -> None:
    """Write a network's two files, and their sizes, which reveal damage."""
    _openvino().save_model(network, folder / name, compress_to_fp16=False)
    (folder / name).with_suffix(".sizes").write_text(json.dumps(_sizes(folder, name)))


def _whole(folder: Path, name: str) -> bool:
    try:
        return bool(json.loads((folder / name).with_suffix(".sizes").read_text()) == _sizes(folder, name))
    except (OSError, ValueError):
        return False


def _sizes(folder: Path, name: str) -> list[int]:
    return [(folder / name).with_suffix(suffix).stat().st_size for suffix in (".xml", ".bin")]


def _tune(info: ModelInfo, folder: Path, precision: str) -> None:
    """Find the smallest batch size with nearly the highest rate on this processor; cache it with its rate."""
    images = probe_images(info.preprocessing.size)
    tried = {size: OpenVinoEngine(folder / _NETWORKS[precision], precision, size) for size in BATCH_SIZES}
    measured = [{size: rate(engine, images, seconds=0.2) for size, engine in tried.items()} for _ in range(ROUNDS)]
    rates = {size: round(max(each[size] for each in measured), 1) for size in tried}
    best = min(size for size in rates if rates[size] >= NEARLY * max(rates.values()))
    tuned = {"batch_size": best, "cores": hardware.cores(), "images_per_second": rates[best], "rates": rates}
    (folder / f"{precision}.json").write_text(json.dumps(tuned))
    with _alone(folder):
        shutil.rmtree(folder / "compiled", ignore_errors=True)  # leave only the network of the chosen batch size
