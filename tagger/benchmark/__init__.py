"""The ladder: nearest neighbours, linear models, neural nets, convolutions, transfer, on the same images, compared."""

from __future__ import annotations

from tagger.benchmark.climbing import Climb, check_failures, climb, finish, plan, run_one
from tagger.benchmark.config import DEFAULT_MODELS, LadderConfig
from tagger.benchmark.pages import markdown

__all__ = [
    "DEFAULT_MODELS",
    "Climb",
    "LadderConfig",
    "check_failures",
    "climb",
    "finish",
    "markdown",
    "plan",
    "run_one",
]
