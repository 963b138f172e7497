"""Hardware and package versions of a measurement."""

from __future__ import annotations

import platform
from importlib import metadata

from tagger import hardware

PACKAGES = ("tagger", "torch", "timm", "openvino", "pillow", "pyarrow")


def describe() -> str:
    """Return hardware and versions of the installed packages on one line."""
    found = {name: package.version for name in PACKAGES for package in metadata.distributions(name=name)}
    versions = ", ".join(f"{name} {version}" for name, version in found.items())
    return f"{hardware.cores()} cores of {hardware.processor()}, Python {platform.python_version()}, {versions}"


if __name__ == "__main__":
    print(describe())
