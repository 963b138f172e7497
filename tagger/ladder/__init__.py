"""The ladder: nearest neighbours, linear models, neural nets, convolutions, transfer, on the same images, compared."""

from __future__ import annotations

from tagger.ladder.climbing import Climb, check_failures, climb, finish, plan, run_one
from tagger.ladder.config import DEFAULT_MODELS, LadderConfig
from tagger.ladder.pages import markdown

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
