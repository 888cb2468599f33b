"""From logits to predictions of the image's size: in bands, in windows, in several views."""

from .label_map_prediction import LabelMapPredictor
from .test_time_augmentation import SemanticSegmentorWithTTA, TestTimeAugmentation

__all__ = ["LabelMapPredictor", "SemanticSegmentorWithTTA", "TestTimeAugmentation"]
