"""Every engine agrees with eager torch, whatever the batch."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from pictures import MODEL, ROOT, ours
from processes import TIMEOUT

from tagger import checkpoint, hardware, storage
from tagger.errors import UsageError
from tagger.inference import engines
from tagger.inference.batch import FILES, Batch, batched
from tagger.inference.engines import Choice, choice
from tagger.inference.engines.checked import CheckedEngine


@pytest.fixture(params=["shipped", "timm"])
def model(request: pytest.FixtureRequest, timm_folder: Path) -> str:
    return MODEL if request.param == "shipped" else f"local-dir:{timm_folder}"


def test_openvino_agrees_with_the_reference_in_batches_of_any_size(model: str) -> None:
    info = checkpoint.describe(model)
    reference = engines.load(info, checkpoint.build, Choice("cpu", "eager"))
    fast = engines.load(info, checkpoint.build, Choice("cpu", "openvino"), batch_size=8)
    assert fast.name.startswith("openvino")
    batch = engines.probe_images(info.preprocessing.size, count=19)
    expected_scores, expected_embeddings = reference(batch)
    for size in (1, 7, 8, 19):
        scores, embeddings = fast(batch[:size])
        assert scores.shape == (size, len(info.label_names))
        assert scores.dtype == embeddings.dtype == np.float32
        assert np.abs(scores - expected_scores[:size]).max() < 1e-4
        assert np.allclose(embeddings, expected_embeddings[:size], atol=1e-3, rtol=1e-3)
    assert np.allclose(expected_scores.sum(axis=1), 1, atol=1e-4)


def test_an_images_scores_do_not_depend_on_its_neighbours(model: str) -> None:
    info = checkpoint.describe(model)
    engine = engines.load(info, checkpoint.build, batch_size=8)
    batch = engines.probe_images(info.preprocessing.size, count=8)
    alone = engine(batch[:1])[0]
    others = engine(np.concatenate([batch[:1], 255 - batch[1:]]))[0]
    assert np.abs(alone[0] - others[0]).max() < 1e-5


def test_the_auto_engine_is_openvino_here_and_starts_from_the_cache(timm_folder: Path) -> None:
    info = checkpoint.describe(f"local-dir:{timm_folder}")
    first = engines.load(info, checkpoint.build)
    assert first.name.startswith("openvino")

    def never(info: object) -> None:
        raise AssertionError("the network was built although a converted copy is in the cache")

    again = engines.load(info, never)  # type: ignore[arg-type]
    batch = engines.probe_images(info.preprocessing.size, count=3)
    assert np.array_equal(first(batch)[0], again(batch)[0])


@pytest.mark.parametrize("name", ["model.xml", "model.bin", "agreement.json"])
def test_a_damaged_cache_is_rebuilt(timm_folder: Path, name: str) -> None:
    info = checkpoint.describe(f"local-dir:{timm_folder}")
    batch = engines.probe_images(info.preprocessing.size, count=3)
    expected = engines.load(info, checkpoint.build)(batch)[0]
    cached = storage.cache_folder() / "openvino" / info.model_id / name
    cached.write_bytes(cached.read_bytes()[: cached.stat().st_size // 2])
    assert np.abs(engines.load(info, checkpoint.build)(batch)[0] - expected).max() < 1e-5


def test_a_network_that_another_openvino_converted_is_converted_again(timm_folder: Path) -> None:
    info = checkpoint.describe(f"local-dir:{timm_folder}")
    engines.load(info, checkpoint.build)
    record = storage.cache_folder() / "openvino" / info.model_id / "agreement.json"
    now = json.loads(record.read_text())
    record.write_text(json.dumps(now | {"openvino": "2020.1", "images": 0}))
    engines.load(info, checkpoint.build)
    assert json.loads(record.read_text()) == now


def test_a_device_or_engine_that_is_not_there_is_a_usage_error() -> None:
    info = checkpoint.describe(MODEL)
    with pytest.raises(UsageError, match="expected one of auto, cpu, cuda"):
        Choice(device="tpu")
    with pytest.raises(UsageError, match="expected one of auto, openvino, eager, torch, onnx"):
        Choice(engine="tensorrt")
    with pytest.raises(UsageError, match=r"--device cpu|no usable GPU"):
        engines.load(info, checkpoint.build, Choice("cuda", "openvino"))


# --- which engine ----------------------------------------------------------------------------------------------------


def record(top1: float, rate: float, images: int = 500) -> dict[str, float]:
    return {"top1": top1, "images_per_second": rate, "images": images}


FP32, CHECKED = "openvino cpu fp32", "openvino cpu int8-checked"


def test_without_measurements_fp32_is_chosen() -> None:
    assert choice.choose(Choice(), {}, has_cuda=False) == Choice("cpu", "openvino", "fp32")
    assert choice.choose(Choice(), {}, has_cuda=True) == Choice("cuda", "eager", "fp32")
    assert choice.choose(Choice(device="cpu", engine="torch"), {}, has_cuda=True) == Choice("cpu", "torch", "fp32")


def test_a_precision_that_the_device_lacks_is_an_error_that_names_the_others() -> None:
    with pytest.raises(UsageError, match=r"--precision fp16: .* on --device cpu; expected one of fp32, bf16"):
        choice.choose(Choice(precision="fp16"), {}, has_cuda=False)


@pytest.mark.parametrize(
    ("checked", "chosen"),
    [
        (record(0.999, 200), "int8-checked"),
        (record(0.994, 200), "fp32"),  # does not agree
        (record(0.999, 105), "fp32"),  # not worth it
        (record(0.999, 200, images=50), "fp32"),  # proven on too little
    ],
)
def test_a_less_exact_precision_is_chosen_only_where_it_agrees_and_pays(checked: Any, chosen: str) -> None:
    records = {FP32: record(1.0, 100), CHECKED: checked}
    assert choice.choose(Choice(), records, has_cuda=False).precision == chosen
    assert choice.choose(Choice(precision="fp32"), records, has_cuda=False).precision == "fp32"
    assert choice.choose(Choice(precision="int8-checked"), records, has_cuda=False).precision == "int8-checked"


def test_an_fp32_engine_measured_to_disagree_is_not_chosen() -> None:
    assert choice.choose(Choice(), {FP32: record(0.9, 300)}, has_cuda=False).engine == "eager"


def test_a_named_precision_says_what_is_not_proven(monkeypatch: pytest.MonkeyPatch) -> None:
    info = checkpoint.describe(MODEL)
    assert engines.doubts(Choice(), info, False) == []
    assert engines.doubts(Choice(precision="fp32"), info, False) == []
    assert "not measured on this machine" in engines.doubts(Choice(precision="int8"), info, False)[0]
    key = "openvino cpu int8"
    known = replace(info, agreement={hardware.processor(): {key: record(0.92, 300)}})
    assert "92.0% of 500" in engines.doubts(Choice(precision="int8"), known, False)[0]
    proven = replace(info, agreement={hardware.processor(): {key: record(0.999, 300)}})
    assert engines.doubts(Choice(precision="int8"), proven, False) == []


@pytest.mark.parametrize(
    ("file_bytes", "expected"), [(110_000, FILES), (4_000_000, 8), (1 << 30, 1)], ids=["photographs", "scans", "huge"]
)
def test_the_files_of_a_large_shard_are_batched_by_their_own_size(file_bytes: int, expected: int) -> None:
    shard = Batch([""] * 4000, [1] * 4000, range(4000), 4000 * file_bytes)
    assert {len(batch) for batch in batched([shard], FILES)} == {expected}


def test_a_checked_engine_gives_uncertain_images_to_the_exact_one() -> None:
    class Fixed:
        concurrency, batch_size, shares_cores, images_per_second = 1, 4, True, 100.0

        def __init__(self, name: str, scores: list[list[float]]) -> None:
            self.name, self.scores, self.seen = name, np.array(scores, dtype=np.float32), 0

        def __call__(self, images: Any) -> Any:
            self.seen += len(images)
            return self.scores[images[:, 0, 0, 0]].copy(), np.zeros((len(images), 2), np.float32)

    fast = Fixed("fast", [[0.9, 0.1, 0.0], [0.5, 0.4, 0.1], [np.nan, 0.5, 0.5]])
    exact = Fixed("exact", [[0.0, 0.0, 1.0], [0.4, 0.5, 0.1], [0.1, 0.2, 0.7]])
    both = CheckedEngine(fast, exact)
    scores, _ = both(np.arange(3, dtype=np.uint8).reshape(3, 1, 1, 1))
    assert scores.argmax(1).tolist() == [0, 1, 2]
    assert (fast.seen, exact.seen) == (3, 2)
    assert both.name == "fast-checked"
    assert both.images_per_second == pytest.approx(1 / (1 / 100 + 2 / 3 / 100))
    batch = np.array([0, 1], np.uint8).reshape(2, 1, 1, 1)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)  # threads take turns as often as they can
    try:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda _: both(batch), range(3000)))
    finally:
        sys.setswitchinterval(interval)
    assert both.images_per_second == pytest.approx(1 / (1 / 100 + 3002 / 6003 / 100), rel=1e-12)


@pytest.mark.skipif(not hardware.has_cuda(), reason="needs a GPU")
def test_fp32_on_a_gpu_is_ieee_fp32(timm_folder: Path) -> None:
    info = checkpoint.describe(f"local-dir:{timm_folder}")
    batch = engines.probe_images(info.preprocessing.size, count=8)
    expected = engines.load(info, checkpoint.build, Choice("cpu", "eager", "fp32"))(batch)[0]
    found = engines.load(info, checkpoint.build, Choice("cuda", "eager", "fp32"))(batch)[0]
    assert np.abs(found - expected).max() < 1e-5


# --- when something does not work -------------------------------------------------------------------------------------


def test_a_network_that_does_not_compile_runs_eagerly_and_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import torch

    def broken(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("no compiler here")

    monkeypatch.setattr(torch, "compile", broken)
    engine = engines.load(checkpoint.describe(MODEL), checkpoint.build, Choice("cpu", "torch"))
    assert "eager" in engine.name
    assert "no compiler here" in caplog.text


@pytest.mark.slow
def test_a_compiled_network_gives_the_eager_scores(tmp_path: Path) -> None:
    info = checkpoint.describe(ours(tmp_path / "net", "tagger_linear", {"input_size": 12}))
    compiled = engines.load(info, checkpoint.build, Choice("cpu", "torch"), batch_size=4)
    eager = engines.load(info, checkpoint.build, Choice("cpu", "eager"))
    batch = engines.probe_images(info.preprocessing.size, count=7)
    assert "compiled" in compiled.name
    assert np.abs(compiled(batch)[0] - eager(batch)[0]).max() < 1e-4


def test_out_of_memory_halves_the_batch_and_goes_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import torch

    from tagger.models.scorer import Scorer

    forward = Scorer.forward
    seen = []

    def small_device(self: Scorer, images: Any) -> Any:
        seen.append(len(images))
        if len(images) > 2:
            raise torch.OutOfMemoryError("the device is full")
        return forward(self, images)

    info = checkpoint.describe(MODEL)
    engine = engines.load(info, checkpoint.build, Choice("cpu", "eager"), batch_size=2)
    engine.batch_size = 8
    batch = engines.probe_images(info.preprocessing.size, count=8)
    expected = engine(batch)[0]
    monkeypatch.setattr(Scorer, "forward", small_device)
    assert np.abs(engine(batch)[0] - expected).max() < 1e-5
    assert (engine.batch_size, seen[:2], max(seen[2:])) == (2, [8, 4], 2)
    assert "batches of 2 from here on" in caplog.text


def test_a_damaged_compiled_network_is_compiled_again(timm_folder: Path) -> None:
    info = checkpoint.describe(f"local-dir:{timm_folder}")
    batch = engines.probe_images(info.preprocessing.size, count=3)
    expected = engines.load(info, checkpoint.build)(batch)[0]
    blobs = list((storage.cache_folder() / "openvino" / info.model_id / "compiled").glob("*.blob"))
    assert blobs
    for blob in blobs:
        blob.write_bytes(b"junk" * 100)
    assert np.array_equal(engines.load(info, checkpoint.build)(batch)[0], expected)


def test_int8_needs_photographs_once_and_then_only_its_cache(timm_folder: Path) -> None:
    pytest.importorskip("nncf")
    info = checkpoint.describe(f"local-dir:{timm_folder}")
    with pytest.raises(UsageError, match="benchmark agreement"):
        engines.load(info, checkpoint.build, Choice("cpu", "openvino", "int8"))
    batch = engines.probe_images(info.preprocessing.size, count=8)
    made = engines.load(info, checkpoint.build, Choice("cpu", "openvino", "int8"), None, lambda: batch)
    again = engines.load(info, checkpoint.build, Choice("cpu", "openvino", "int8"))
    assert "int8" in again.name
    assert np.array_equal(made(batch)[0], again(batch)[0])


def printed(code: str, *prefix: str) -> list[str]:
    """Run Python code in a process of its own; return the words that it prints."""
    ran = subprocess.run([*prefix, sys.executable, "-c", code], capture_output=True, text=True, timeout=TIMEOUT)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.split()


def test_engines_report_to_nobody() -> None:
    code = f"import sys, tagger; tagger.load({MODEL!r}); import openvino.tools.ovc; "
    assert printed(code + "print(sys.modules['openvino_telemetry'])") == ["None"]


def test_torch_uses_the_cores_that_this_process_may_use() -> None:
    code = (
        "import tagger, torch; from tagger import hardware;"
        f"tagger.load({MODEL!r}, engine='eager'); print(hardware.cores(), torch.get_num_threads())"
    )
    assert printed(code, "taskset", "-c", "0") == ["1", "1"]


@pytest.mark.parametrize(
    ("content", "cores"), [("150000 100000", 2), ("50000 100000", 1), ("max 100000", sys.maxsize), (None, sys.maxsize)]
)
def test_a_containers_quota_counts(tmp_path: Path, content: str | None, cores: int) -> None:
    if content:
        (tmp_path / "cpu.max").write_text(content)
    assert hardware.quota(tmp_path / "cpu.max") == cores


FIRST_CALLS = """
import os, signal, sys, threading
import numpy as np
import openvino
from tagger import checkpoint
from tagger.inference import engines

def calls_of_eight_threads(info):
    engine = engines.load(info, checkpoint.build, engines.Choice("cpu", "openvino", "fp32"))
    together = threading.Barrier(8)
    signal.alarm(30)  # threads that wait for each other for ever hold Python's lock

    def call():
        together.wait(20)
        engine(np.zeros((4, 32, 32, 3), np.uint8))

    threads = [threading.Thread(target=call, daemon=True) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    return any(thread.is_alive() for thread in threads)

sys.setswitchinterval(1e-6)  # threads take turns as often as they can
info = checkpoint.describe(sys.argv[1])
for _ in range(6):
    child = os.fork()
    if not child:
        os._exit(calls_of_eight_threads(info))
    assert os.waitpid(child, 0)[1] == 0
"""


def test_threads_that_are_first_to_use_openvino_do_not_wait_for_each_other() -> None:
    """Without its lock four processes in ten hung here; a nightly run hung once in some hundreds."""
    subprocess.run([sys.executable, "-c", FIRST_CALLS, MODEL], check=True, timeout=TIMEOUT, cwd=ROOT)


def test_a_cache_that_cannot_be_written_costs_a_line_and_not_the_engine(
    timm_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("TAGGER_CACHE", str(tmp_path / "file" / "cache"))
    info = checkpoint.describe(f"local-dir:{timm_folder}")
    engine = engines.load(info, checkpoint.build, Choice("cpu", "openvino", "fp32"))
    assert engine.name.startswith("openvino")
    assert "cannot cache the converted network" in caplog.text


def test_every_engine_has_one_entry() -> None:
    assert set(get_args(choice.EngineName)) == {"auto", *choice.SPECS}
    assert {bits for spec in choice.SPECS.values() for each in spec.precisions.values() for bits in each} == {
        *choice.PRECISIONS
    } - {"auto"}


STARTS = """
import random, sys, time
from pathlib import Path
import numpy as np
from tagger.inference.engines.openvino import OpenVinoEngine

network, (side, seed) = Path(sys.argv[1]), map(int, sys.argv[2:])
delays = random.Random(seed)
for size in range(1, 41):
    time.sleep(delays.random() / 10)
    engine = OpenVinoEngine(network, "fp32", size)
    for _ in range(10):
        engine(np.zeros((1, side, side, 3), np.uint8))
"""


@pytest.mark.slow
def test_processes_that_compile_a_network_together_do_not_crash() -> None:
    info = checkpoint.describe(MODEL)
    engines.load(info, checkpoint.build, Choice("cpu", "openvino"))
    network = storage.cache_folder() / "openvino" / info.model_id / "model.xml"
    command = [sys.executable, "-c", STARTS, str(network), str(info.preprocessing.size[0])]
    started = [subprocess.Popen([*command, str(seed)]) for seed in range(4)]
    assert [process.wait(TIMEOUT) for process in started] == [0] * 4, "-7 is SIGBUS"
