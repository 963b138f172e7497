"""Train models: for now a small net from scratch on class folders."""

from tagger.training.run import train_folder
from tagger.training.scratch import EpochReport, ScratchConfig

__all__ = ["EpochReport", "ScratchConfig", "train_folder"]
