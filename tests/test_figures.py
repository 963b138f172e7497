"""The scripts behind the figures of docs/benchmarks.md."""

from __future__ import annotations

import importlib

import pytest
from pictures import ROOT


@pytest.mark.parametrize("script", sorted(path.stem for path in (ROOT / "benchmarks").glob("[a-z]*.py")))
def test_every_benchmark_script_imports(script: str) -> None:
    assert importlib.import_module(f"benchmarks.{script}").__doc__
