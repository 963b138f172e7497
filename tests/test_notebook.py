"""The notebook of the documentation runs from top to bottom."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pictures import ROOT
from PIL import Image

from tagger.data import cifar10


@pytest.mark.slow
def test_the_notebook_runs(tmp_path: Path, timm_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import nbclient
    import nbformat

    rng = np.random.default_rng(0)
    for split, count in (("train", 20), ("test", 10)):
        for index, label in enumerate(cifar10.LABEL_NAMES):
            (tmp_path / "data" / split / label).mkdir(parents=True)
            for number in range(count):
                pixels = np.clip(rng.normal(25 * index, 40, (32, 32, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(tmp_path / "data" / split / label / f"{number:04d}.png")
    settings = {"CIFAR10": "data", "BUDGET": "1s", "OUT": "report", "BACKBONE": f"local-dir:{timm_folder}"}
    monkeypatch.chdir(tmp_path)
    for name, value in settings.items():
        monkeypatch.setenv(name, str(value))
    notebook = nbformat.read(ROOT / "docs" / "notebooks" / "benchmark.ipynb", as_version=4)
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 6
    assert "Fine-tuned" not in str(outputs)
    assert "Linear probe" in str(outputs)
