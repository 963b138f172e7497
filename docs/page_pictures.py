"""Take the pictures of the pages in the docs: report, review and drift.

    python -m docs.page_pictures .demo/photos docs

Tags the photographs of `make demo` and crops of them with `imagenet`, then darkened crops as a second night. Needs
Chromium and the extra `browser`.
"""

from __future__ import annotations

import contextlib
import io
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from PIL import Image, ImageEnhance
from playwright.sync_api import Page, sync_playwright

import tagger
from tagger.reporting import drift_report, results_report
from tagger.tagging.config import TagConfig

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
SIZE = {"width": 1200, "height": 760}
CROPS = [(left, top) for left in (0, 0.15, 0.3) for top in (0, 0.15, 0.3)]
"""Left and top edges; a crop has 70% of the width and height."""


def main() -> None:
    """Tag, open each page, write its picture."""
    photos, out = (Path(each).absolute() for each in sys.argv[1:])
    with tempfile.TemporaryDirectory() as name, sync_playwright() as driver, contextlib.chdir(name):
        two_nights(photos)
        results_report.write("results", "report.html", None, "checkpoints", 200)
        drift_report.write("results", "drift.html")
        found = next(filter(None, map(shutil.which, BROWSERS)), driver.chromium.executable_path)
        page = driver.chromium.launch(executable_path=found).new_page(viewport=SIZE)
        for each in ("report", "drift"):
            page.goto(Path(f"{each}.html").absolute().as_uri())
            if each == "report":  # its first tag
                page.locator("//h2[.='Tags']/following::h3[1]").evaluate("heading => heading.scrollIntoView()")
            save(page, out / f"{each}.webp")
        with reviewing() as url:
            page.goto(url)
            page.wait_for_load_state("networkidle")
            save(page, out / "review.webp")


def two_nights(photos: Path) -> None:
    """Tag the photographs and their crops, then darkened crops beside them."""
    shutil.copytree(photos, "photos")
    for brightness in (1.0, 0.4):
        for path in sorted(photos.iterdir()):
            with contextlib.suppress(OSError):  # one is truncated, one is text
                write_crops(path, brightness)
        tagger.tag("photos", "imagenet", "results", TagConfig(embeddings=True, precision="fp32"))


def write_crops(path: Path, brightness: float) -> None:
    """Write crops of a photograph into photos/."""
    image = Image.open(path).convert("RGB")
    width, height = image.size
    for place, (left, top) in enumerate(CROPS):
        box = (int(left * width), int(top * height), int((left + 0.7) * width), int((top + 0.7) * height))
        crop = ImageEnhance.Brightness(image.crop(box)).enhance(brightness)
        crop.save(f"photos/{path.stem}-{place}{'-dark' * (brightness < 1)}.jpg", quality=90)


@contextlib.contextmanager
def reviewing() -> Iterator[str]:
    """Start `tagger review`; yield the address that it prints."""
    command = [sys.executable, "-m", "tagger.cli", "review", "results", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            yield next(word for line in process.stdout for word in line.split() if word.startswith("http://"))
        finally:
            process.terminate()


def save(page: Page, path: Path) -> None:
    """Write a picture of the top of the page."""
    Image.open(io.BytesIO(page.screenshot())).convert("RGB").save(path, quality=75, method=6)


if __name__ == "__main__":
    main()
