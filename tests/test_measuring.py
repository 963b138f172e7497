"""`tagger benchmark`: agreement is measured, recorded and enforced; stages are timed."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from pictures import MODEL, photo
from PIL import Image

import tagger
from tagger import checkpoint, hardware
from tagger.benchmark import throughput
from tagger.errors import SourceError
from tagger.evaluation import agreement
from tagger.inference.ceilings import Ceilings
from tagger.inference.engines import Choice
from tagger.inference.engines.choice import choose
from tagger.tagging import run as tagging_run
from tagger.tagging.config import TagConfig

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def model(tmp_path: Path) -> str:
    shutil.copytree(MODEL, tmp_path / "model")
    return str(tmp_path / "model")


@pytest.mark.slow
def test_agreement_is_recorded_in_the_checkpoint_and_does_not_change_the_model(photos: Path, model: str) -> None:
    (photos / "broken.jpg").write_bytes(b"junk")
    before = checkpoint.describe(model)
    found = agreement.measure(model, str(photos), Choice("cpu", precision="fp32"))
    after = checkpoint.describe(model)
    assert after.model_id == before.model_id
    records = after.agreement[hardware.processor()]
    assert {name: records[name] for name in found.records} == found.records
    records = found.records  # the checkpoint may have those of an exported file, too
    assert {"openvino cpu fp32", "eager cpu fp32", "torch cpu fp32"} >= set(records) >= {"openvino cpu fp32"}
    assert records["openvino cpu fp32"]["top1"] == 1.0
    assert records["openvino cpu fp32"]["odd_top1"] >= 0.9
    assert records["openvino cpu fp32"]["images"] == found.photographs <= 6


def test_agreement_of_a_model_that_is_not_ours_is_kept_in_the_cache(photos: Path, timm_folder: Path) -> None:
    name = f"local-dir:{timm_folder}"
    before = sorted(timm_folder.iterdir())
    agreement.measure(name, str(photos), Choice("cpu", "eager"))
    assert sorted(timm_folder.iterdir()) == before
    assert "eager cpu fp32" in checkpoint.describe(name).agreement[hardware.processor()]


def test_agreement_without_photographs_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_bytes(b"junk")
    with pytest.raises(SourceError, match="0 of 1 files can be decoded"):
        agreement.measure(MODEL, str(tmp_path))


@pytest.mark.slow
def test_a_long_run_measures_on_its_own_photographs_and_uses_what_agrees(
    tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for index in range(420):
        photo(index).save(folder / f"{index:03d}.jpg")
    monkeypatch.setattr(tagging_run, "MEASURE_FILES", 300)
    monkeypatch.setenv("TAGGER_CACHE", str(tmp_path / "cache"))
    before = (Path(model) / "tagger.json").read_bytes()
    tagger.tag(folder, model, tmp_path / "out", TagConfig())
    assert (Path(model) / "tagger.json").read_bytes() == before, "a run does not write to the user's checkpoint"
    records = checkpoint.describe(model).agreement[hardware.processor()]
    int8 = records["openvino cpu int8-checked"]
    assert int8["images"] >= 200
    again = tagger.tag(folder, model, tmp_path / "again", TagConfig())
    chosen = choose(Choice(), records, has_cuda=False)
    assert again.models[0].engine.endswith(f"{chosen.device} {chosen.precision}")
    named = tagger.tag(folder, model, tmp_path / "named", TagConfig(precision="fp32"))
    assert named.models[0].engine.endswith("cpu fp32")


def test_int8_is_never_compared_on_its_calibration_photographs() -> None:
    contents = [bytes([index]) * 10 for index in range(100)]
    first, second = agreement.halves(contents)
    again, _ = agreement.halves(contents[::-1][:50])
    assert not set(first) & set(second)
    assert set(first) | set(second) == set(contents)
    assert not set(again) & set(second), "whatever else is in the folder"


def test_odd_variants_decode_and_are_odd(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    photo(1, (500, 375)).save(buffer, "JPEG")
    variants = [Image.open(io.BytesIO(content)) for content in agreement.odd_variants(buffer.getvalue())]
    assert {image.mode for image in variants} == {"L", "CMYK", "RGB"}
    assert {image.format for image in variants} == {"JPEG", "PNG"}
    assert any(image.getexif().get(0x0112) == 6 for image in variants)
    assert max(image.width for image in variants) == 4000
    assert min(image.width for image in variants) == 24


def test_stages_on_the_same_cores_take_turns_and_others_run_side_by_side() -> None:
    rate, name = Ceilings(storage=1000, decode=300, model=150, shares_cores=True).bound() or (0, "")
    assert (round(rate), name) == (100, "decode and model")
    assert Ceilings(storage=1000, decode=300, model=150, shares_cores=False).bound() == (150, "model")
    assert Ceilings(storage=20, decode=300, model=150).bound() == (20, "storage")
    assert Ceilings(storage=20, decode=None, model=150).bound() is None


def test_throughput_times_every_stage_and_a_run(photos: Path) -> None:
    found = throughput.measure(MODEL, str(photos), tagger.TagConfig(device="cpu"))
    assert [row[0] for row in found.rows()] == ["storage", "decode", "model", "bound", "achieved"]
    assert found.files == 6
    assert found.achieved > 0
    assert "openvino" in found.engine


def test_benchmarks_run_from_the_command_line(run_tagger: Run, photos: Path, model: str) -> None:
    ran = run_tagger("benchmark", "throughput", "--limit", 20, "--device", "cpu", "--json")
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout)["files"] == 20
    options = ["--model", model, "--source", photos, "--device", "cpu", "--engine", "openvino", "--precision", "fp32"]
    ran = run_tagger("benchmark", "agreement", *options)
    assert ran.returncode == 0, ran.stderr
    assert "openvino cpu fp32" in ran.stdout
    assert "100.00%" in run_tagger("models", Path(model).parent).stdout


def test_a_large_photograph_is_shrunk_while_decoding_and_keeps_its_pixels(shared: Path, real_photos: Path) -> None:
    from tagger import images

    info = checkpoint.describe(f"local-dir:{shared}/backbones/mobilenetv2_100.imagenet")
    for path in sorted(real_photos.iterdir())[:3]:
        large = agreement.odd_variants(path.read_bytes())[6]
        whole, facts = images.decode(large)
        seen: list[Image.Image] = []
        images.prepare(large, [info.preprocessing], inspect=seen.append)
        assert seen[0].width in (2000, 1000)
        expected = images.fit(whole, info.preprocessing).astype(int)
        pixels, same_facts = images.prepare(large, [info.preprocessing])
        assert facts == same_facts
        assert whole.width == 4000
        assert abs(pixels[info.preprocessing] - expected).mean() < 1.0


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the peak of the parent counts too")
def test_peak_memory_is_that_of_this_process_alone() -> None:
    code = "from tagger import hardware; print(hardware.peak_memory())"
    parent = (
        f"import subprocess, sys; x = b'x' * (1 << 29); subprocess.run([sys.executable, '-c', {code!r}], check=True)"
    )
    ran = subprocess.run([sys.executable, "-c", parent], capture_output=True, text=True, timeout=60, check=True)
    assert 0 < int(ran.stdout) < 1 << 29
