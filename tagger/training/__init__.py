"""Learn a user's own labels: probe, fine-tune, tune, judge; and small nets from scratch."""

from tagger.evaluation.evaluate import Judgement, evaluate
from tagger.training.config import TrainConfig
from tagger.training.fitting import Epoch
from tagger.training.from_folders import ScratchConfig, train_folder
from tagger.training.learning import Reports, train
from tagger.training.tuning import Tuned, tune

__all__ = [
    "Epoch", "Judgement", "Reports", "ScratchConfig", "TrainConfig", "Tuned", "evaluate", "train", "train_folder",
    "tune",
]  # fmt: skip
