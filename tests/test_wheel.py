"""The wheel, installed outside the clone: all files, the command, the flows."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
from pictures import ROOT, write_stripes
from processes import TIMEOUT

SOURCES = ("tagger", "flows", "pyproject.toml", "README.md", "LICENSE")
UV = shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")


def run(*command: object, cwd: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    words = list(map(str, command))
    done = subprocess.run(words, cwd=cwd, capture_output=True, text=True, timeout=TIMEOUT, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, where no earlier build has left files."""
    if not UV:
        pytest.skip("needs uv: pip install uv")
    folder = tmp_path_factory.mktemp("source")
    for name in SOURCES:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, folder / name)
    run(UV, "build", "--quiet", "--wheel", cwd=folder)
    return next((folder / "dist").glob("*.whl"))


@pytest.mark.slow
def test_an_installed_wheel_trains_tags_and_reports_without_the_clone(wheel: Path, tmp_path: Path) -> None:
    packed = set(zipfile.ZipFile(wheel).namelist())
    files = [path for folder in ("tagger", "flows") for path in (ROOT / folder).rglob("*.*")]
    there = {path.relative_to(ROOT).as_posix() for path in files if path.suffix != ".pyc" and path.is_file()}
    assert not there - packed
    assert not [name for name in packed if not name.startswith(("tagger/", "flows/", "tagger-"))]
    python = tmp_path / "venv" / "bin" / "python"
    run(UV, "venv", "--quiet", "--python", sys.executable, tmp_path / "venv", cwd=tmp_path)
    run(UV, "pip", "install", "--quiet", "--no-deps", "--python", python, wheel, cwd=tmp_path)
    # the dependencies are those of this environment; its own, editable tagger is not among them
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path).strip())
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    assert str(tmp_path) in run(python, "-c", "import tagger, flows; print(tagger.__file__)", cwd=tmp_path)
    write_stripes(tmp_path / "photos", 20)
    tagger = tmp_path / "venv" / "bin" / "tagger"
    run(tagger, "train", "photos", "--out", "mine", "--backbone", "imagenet", "--method", "probe", cwd=tmp_path)
    assert "# mine" in (tmp_path / "mine" / "README.md").read_text()
    run(tagger, "tag", "photos", "--model", "mine", cwd=tmp_path)
    run(tagger, "report", "results", "--out", "report.html", cwd=tmp_path)
    assert "<html" in (tmp_path / "report.html").read_text()
    assert "as a Prefect flow run" in run(python, "-m", "flows.tag", "--help", cwd=tmp_path)
