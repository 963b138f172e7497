"""Learn a user's own labels: probe, fine-tune, tune, judge; and small nets from scratch."""

from tagger.training.config import TrainConfig
from tagger.training.from_folders import train_folder
from tagger.training.judging import Judgement, evaluate
from tagger.training.learning import Reports, train
from tagger.training.scratch import EpochReport, ScratchConfig
from tagger.training.tuning import Tuned, tune

__all__ = [
    "EpochReport", "Judgement", "Reports", "ScratchConfig", "TrainConfig", "Tuned", "evaluate", "train", "train_folder",
    "tune",
]  # fmt: skip
