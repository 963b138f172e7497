"""Images and labels in memory, for training: class folders, CIFAR-10, and how pixels are prepared."""

from tagger.datasets.labelled import Int64Array, LabelledImages, read_class_folders
from tagger.datasets.preparation import NAMES as PREPARATIONS
from tagger.datasets.preparation import Preparation, preparation_id, prepare, subtracts_image

__all__ = [
    "PREPARATIONS",
    "Int64Array",
    "LabelledImages",
    "Preparation",
    "preparation_id",
    "prepare",
    "read_class_folders",
    "subtracts_image",
]
