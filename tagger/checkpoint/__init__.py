"""Checkpoint folders: describe, load, save, and the model card."""

from tagger.checkpoint.load import (
    BUNDLE,
    CARD,
    build,
    build_resized,
    default_backbone,
    describe,
    list_checkpoints,
    record_agreement,
)
from tagger.checkpoint.packaged import PACKAGED, available
from tagger.checkpoint.save import Built, save, set_statistics

__all__ = [
    "BUNDLE", "CARD", "PACKAGED", "Built", "available", "build", "build_resized",
    "default_backbone", "describe", "list_checkpoints", "record_agreement", "save",
    "set_statistics",
]  # fmt: skip
