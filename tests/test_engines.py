"""Every engine agrees with eager torch, whatever the batch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pictures import MODEL

from tagger import checkpoint, engines, images, storage
from tagger.engines import Choice
from tagger.errors import UsageError


@pytest.fixture(params=["shipped", "timm"])
def model(request: pytest.FixtureRequest, timm_folder: Path) -> str:
    return MODEL if request.param == "shipped" else f"local-dir:{timm_folder}"


def test_openvino_agrees_with_the_reference_in_batches_of_any_size(model: str) -> None:
    info = checkpoint.describe(model)
    reference = engines.load(info, checkpoint.build, Choice("cpu", "eager"))
    fast = engines.load(info, checkpoint.build, Choice("cpu", "openvino"), batch_size=8)
    assert fast.name.startswith("openvino")
    pictures = engines.probe_images(info.preprocessing.size, count=19)
    expected_scores, expected_embeddings = reference(pictures)
    for size in (1, 7, 8, 19):
        scores, embeddings = fast(pictures[:size])
        assert scores.shape == (size, len(info.label_names))
        assert scores.dtype == embeddings.dtype == np.float32
        assert np.abs(scores - expected_scores[:size]).max() < 1e-4
        assert np.allclose(embeddings, expected_embeddings[:size], atol=1e-3, rtol=1e-3)
    assert np.allclose(expected_scores.sum(axis=1), 1, atol=1e-4)


def test_an_images_scores_do_not_depend_on_its_neighbours(model: str) -> None:
    info = checkpoint.describe(model)
    engine = engines.load(info, checkpoint.build, batch_size=8)
    pictures = engines.probe_images(info.preprocessing.size, count=8)
    alone = engine(pictures[:1])[0]
    others = engine(np.concatenate([pictures[:1], 255 - pictures[1:]]))[0]
    assert np.abs(alone[0] - others[0]).max() < 1e-5


def test_the_auto_engine_is_openvino_here_and_starts_from_the_cache(timm_folder: Path) -> None:
    info = checkpoint.describe(f"local-dir:{timm_folder}")
    first = engines.load(info, checkpoint.build)
    assert first.name.startswith("openvino")

    def never(info: object) -> None:
        raise AssertionError("the network was built although a converted copy is in the cache")

    again = engines.load(info, never)  # type: ignore[arg-type]
    pictures = engines.probe_images(info.preprocessing.size, count=3)
    assert np.array_equal(first(pictures)[0], again(pictures)[0])


@pytest.mark.parametrize("name", ["model.xml", "model.bin", "agreement.json"])
def test_a_damaged_cache_is_rebuilt(timm_folder: Path, name: str) -> None:
    info = checkpoint.describe(f"local-dir:{timm_folder}")
    pictures = engines.probe_images(info.preprocessing.size, count=3)
    expected = engines.load(info, checkpoint.build)(pictures)[0]
    kept = storage.cache_folder() / "openvino" / info.model_id / name
    kept.write_bytes(kept.read_bytes()[: kept.stat().st_size // 2])
    assert np.abs(engines.load(info, checkpoint.build)(pictures)[0] - expected).max() < 1e-5


def test_a_device_or_engine_that_is_not_there_is_a_usage_error() -> None:
    info = checkpoint.describe(MODEL)
    with pytest.raises(UsageError, match="expected one of auto, cpu, cuda"):
        Choice(device="tpu")
    with pytest.raises(UsageError, match="expected one of auto, openvino, torch, eager"):
        Choice(engine="onnx")
    with pytest.raises(UsageError, match=r"--device cpu|no usable GPU"):
        engines.load(info, checkpoint.build, Choice("cuda", "openvino"))


def test_real_photographs_get_the_reference_tags(shared: Path, real_photos: Path) -> None:
    info = checkpoint.describe(f"local-dir:{shared}/backbones/mobilenetv2_100.imagenet")
    paths = sorted(real_photos.iterdir())[::10]
    pixels = np.stack([images.fit(images.decode(path.read_bytes())[0], info.preprocessing) for path in paths])
    expected = engines.load(info, checkpoint.build, Choice("cpu", "eager"))(pixels)[0]
    scores = engines.load(info, checkpoint.build, Choice("cpu", "openvino"))(pixels)[0]
    assert np.array_equal(scores.argmax(1), expected.argmax(1))
    assert np.abs(scores - expected).max() < 1e-3
