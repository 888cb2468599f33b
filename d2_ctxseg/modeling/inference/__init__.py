"""Predictions in the size of the image: in bands of rows, in windows, in several views."""

from .label_map_prediction import LabelMapPredictor
from .temperatures import Temperatures
from .test_time_augmentation import SemanticSegmentorWithTTA, TestTimeAugmentation

__all__ = [
    "LabelMapPredictor",
    "SemanticSegmentorWithTTA",
    "Temperatures",
    "TestTimeAugmentation",
]
