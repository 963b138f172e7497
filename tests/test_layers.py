"""The house rules: who may import whom, and what import must not cost."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

from pictures import ROOT

import tagger

ORDER = [
    "redaction", "errors", "schema", "hardware", "storage", "options", "images", "models", "checkpoint", "inference",
    "data", "evaluation", "tagging", "reporting", "training", "benchmark", "serving", "reviewing", "migrate", "cli",
]  # fmt: skip
"""A module imports only from packages before its own in this list."""


def imports(path: Path) -> set[str]:
    """Return the tagger rooms, and the outside packages, that a file imports anywhere."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def room_of(path: Path) -> str:
    return path.relative_to(ROOT / "tagger").parts[0].removesuffix(".py")


def test_a_module_imports_only_from_packages_above_its_own() -> None:
    seen = set()
    for path in (ROOT / "tagger").rglob("*.py"):
        room = room_of(path)
        if room == "__init__":
            continue
        seen.add(room)
        for name in imports(path):
            parts = name.split(".")
            if parts[0] == "tagger" and len(parts) > 1 and parts[1] != room:
                assert ORDER.index(parts[1]) < ORDER.index(room), f"{path} imports {name}"
            assert parts[0] not in ("prefect", "flows"), f"{path} imports {name}"
            assert parts[0] != "fsspec" or room == "storage", f"{path}: only tagger/storage touches fsspec"
    assert seen == set(ORDER)


def test_the_wheel_has_every_page_and_template() -> None:
    packed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["tagger"]
    files = {path for path in (ROOT / "tagger").rglob("*.*") if path.suffix not in (".py", ".pyc") and path.is_file()}
    assert files == {path for pattern in packed for path in (ROOT / "tagger").glob(pattern)}


def test_the_flows_do_not_import_the_command_line() -> None:
    for path in (ROOT / "flows").glob("*.py"):
        assert not any(name.startswith("tagger.cli") for name in imports(path))


def test_importing_tagger_and_its_command_line_loads_neither_torch_nor_prefect() -> None:
    heavy = ("torch", "timm", "prefect", "pandas", "matplotlib")
    code = f"import sys, tagger, tagger.cli; print([m for m in {heavy} if m in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert ran.stdout.strip() == "[]"


def test_functions_stay_short() -> None:
    lengths = [
        (node.end_lineno - node.lineno + 1, f"{path.name}:{node.name}")
        for folder in ("tagger", "flows", "benchmarks")
        for path in (ROOT / folder).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef) and node.end_lineno
    ]
    assert max(lengths)[0] <= 60, max(lengths)
    assert sorted(lengths)[len(lengths) // 2][0] <= 12


def test_the_public_names_are_pinned() -> None:
    names = [
        "Ingested", "Manifest", "Model", "ReviewConfig", "ServeConfig", "SuggestConfig", "Summary", "TagConfig",
        "TaggerError", "TrainConfig", "compact", "drift", "evaluate", "export", "export_xmp", "ingest", "load",
        "predict", "query", "read_labels", "read_results", "report", "review", "serve", "suggest", "tag",
        "train", "tune",
    ]  # fmt: skip
    assert sorted(tagger.__all__) == names
    for name in tagger.__all__:
        assert getattr(tagger, name).__doc__, name
