"""Real files, made on the spot; `../shared` where it is there."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pictures import ROOT, SHARED, backbone, photo
from processes import TIMEOUT, WIDE, forked

# Idle threads of torch sleep: in two test processes on two cores they would spin on the core that the other needs.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


AXE = ROOT / ".venv" / "axe" / "node_modules" / "axe-core" / "axe.min.js"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "microsoft-edge")


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep converted networks of the tests apart from the user's."""
    os.environ["TAGGER_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(autouse=True)
def _loggers() -> None:
    """Enable the loggers: the migrations of Prefect's test server disable all that exist already."""
    for name, logger in logging.root.manager.loggerDict.items():
        if name.startswith(("tagger", "prefect")) and isinstance(logger, logging.Logger):
            logger.disabled = False


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Six images in two folders."""
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    for index in range(6):
        where = folder / "sub" if index % 2 else folder
        photo(index).save(where / f"{index}.jpg", quality=92)
    return folder


@pytest.fixture(scope="session")
def shared() -> Path:
    """The shared folder with real photographs and weights."""
    if not SHARED.is_dir():
        pytest.skip("../shared is not here: real photographs and ImageNet weights are needed")
    return SHARED


@pytest.fixture(scope="session")
def real_photos(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """500 photographs, named <wnid>_<class>.JPEG."""
    folder = tmp_path_factory.mktemp("data")
    shutil.unpack_archive(shared / "data" / "photos.tar.gz", folder, filter="data")
    return folder / "photos"


@pytest.fixture(scope="session")
def some_photos(real_photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every eighth of the 500 photographs."""
    folder = tmp_path_factory.mktemp("some")
    for path in sorted(real_photos.iterdir())[::8]:
        os.link(path, folder / path.name)
    return folder


@pytest.fixture(scope="session")
def timm_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny timm network with random weights, in timm's local-dir layout."""
    return backbone(tmp_path_factory.mktemp("backbones") / "tiny", "test_resnet", 64)


@pytest.fixture(scope="session", params=[("test_vit", 160), ("mobilenetv3_small_050", 64)], ids=lambda each: each[0])
def other_backbone(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Backbones unlike a ResNet: one takes images of one size, one has a layer before its classifier."""
    return backbone(tmp_path_factory.mktemp("backbones") / request.param[0], *request.param)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Start a headless Chromium, the machine's or Playwright's own."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install tagger[browser]")
    with playwright.sync_playwright() as driver:
        own = driver.chromium.executable_path
        found = next(filter(None, map(shutil.which, BROWSERS)), own)
        if not Path(found).exists():
            pytest.skip("no Chromium here: apt-get install chromium, or playwright install chromium")
        started = driver.chromium.launch(executable_path=found)
        yield started
        started.close()


@pytest.fixture(scope="session")
def violations() -> Callable[[Any], str]:
    """Return a line for each fault that axe-core finds in the page of a tab (WCAG 2.2 AA and best practices)."""
    if not AXE.exists():
        pytest.skip("no axe-core: make .venv/.axe installs it where npm is there")
    source = AXE.read_text()

    def check(tab: Any) -> str:
        tab.evaluate(source)
        found = tab.evaluate("axe.run().then(({violations, passes}) => [violations, passes.length])")
        assert found[1] > 10, "axe has checked next to nothing"
        return "\n".join(f"{each['id']}: {node['html'][:200]}" for each in found[0] for node in each["nodes"])

    return check


Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def run_tagger() -> Run:
    """Run the command in a forked process, or in a new interpreter where it is to start with options of Popen."""

    def run(*arguments: object, cwd: object = ".", **options: Any) -> subprocess.CompletedProcess[str]:
        words = [*map(str, arguments)]
        if options:
            env = {**options.pop("env", os.environ), **WIDE}
            command = [sys.executable, "-m", "tagger.cli", *words]
            return subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, env=env, **options)
        with forked(*words, cwd=cwd) as process:
            stdout, stderr = process.communicate()
        return subprocess.CompletedProcess(words, process.returncode or 0, stdout, stderr)

    return run
