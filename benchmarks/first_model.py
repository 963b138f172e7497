"""From unlabelled photographs to a model: seconds of each step, keys pressed in the review, accuracy before and after.

    python -m benchmarks.first_model hymenoptera_data/val hymenoptera_data/train [--method probe]

Both folders have one folder per tag; an `s` at the end of its name is removed. The photographs of the first are copied
into one folder and labelled on the review page in Chromium, by a script that knows the labels and presses the keys that
a person would press. The photographs of the second are used for evaluation.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from benchmarks import machine

SHOWN = """() => ({name: document.activeElement?.querySelector?.(".name")?.textContent,
                    tags: [...document.querySelectorAll("#palette button")].map(button => button.title)})"""
"""File name of the current image, and the tags of the keys 1 to 9."""


def main() -> None:
    """Parse the arguments, run all steps, print their times."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("others", type=Path)
    parser.add_argument("--method", default="probe")
    arguments = parser.parse_args()
    photos, others = arguments.photos.absolute(), arguments.others.absolute()
    print(machine.describe())
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        truth = {path.name: path.parent.name.removesuffix("s") for path in photos.glob("*/*")}
        Path("photos").mkdir()
        for path in photos.glob("*/*"):
            shutil.copy(path, "photos")
        for path in others.iterdir():
            shutil.copytree(path, Path("others", path.name.removesuffix("s")))
        run("tag", "photos", "--embeddings")
        run("suggest", "results")
        review(truth)
        run("train", "photos", "--labels", "labels.parquet", "--method", arguments.method, "--out", "mine")
        run("tag", "photos", "--model", "mine")
        for model in ("imagenet", "mine"):
            run("evaluate", model, "others", "--split", "all")


def run(*arguments: str) -> None:
    """Run a command; print its seconds and the end of its output."""
    started = time.perf_counter()
    command = [sys.executable, "-m", "tagger.cli", *arguments]
    printed = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    print(f"\n$ tagger {' '.join(arguments)}: {time.perf_counter() - started:.1f} s")
    print("\n".join(printed.splitlines()[-3:]))


def review(truth: dict[str, str]) -> None:
    """Label the suggested images; print the seconds until the page is shown, and the keys pressed."""
    command = [sys.executable, "-m", "tagger.cli", "review", "results", "--queue", "suggested.parquet", "--port", "0"]
    started = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server, sync_playwright() as driver:
        assert server.stdout
        own = driver.chromium.executable_path
        browser = driver.chromium.launch(executable_path=shutil.which("chromium") or own)
        tab = browser.new_page(viewport={"width": 1280, "height": 860})
        tab.goto(server.stdout.readline().split()[-1])
        tab.locator("#grid li").first.wait_for()
        print(f"\n$ tagger review results --queue suggested.parquet: {time.perf_counter() - started:.1f} s")
        pressed = label(tab, truth)
        print(f"{pressed.total()} keys: {pressed}")
        browser.close()
        server.terminate()


def label(tab: Page, truth: dict[str, str]) -> Counter[str]:
    """Give every image its tag, with as few keys as the page allows; return the keys."""
    pressed: Counter[str] = Counter()
    done, finished = 0, tab.locator("#empty")
    while not finished.is_visible():
        shown = tab.evaluate(SHOWN)
        if shown["name"] is None:  # the next page is still loading
            tab.wait_for_timeout(50)
            continue
        keys = keys_for(truth[shown["name"]], shown["tags"])
        for key in keys:
            tab.keyboard.press(key)
        pressed.update(keys)
        done += 1
        tab.get_by_text(f"{done} done").wait_for()
    return pressed


def keys_for(tag: str, offered: list[str]) -> list[str]:
    """Return the keys that give a tag: accept, a digit, or the typed name."""
    if tag not in offered:
        return ["t", *tag, "Enter"]
    place = offered.index(tag)
    return [str(place + 1)] if place else ["a"]


if __name__ == "__main__":
    main()
