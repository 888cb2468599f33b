"""Label maps for evaluation: of the image alone and of several views, in one pass."""

import torch
from torch import Tensor, nn

from .test_time_augmentation import (
    SemanticSegmentorWithTTA,
    TestTimeAugmentation,
    image_scores,
)


class LabelMapPredictor(nn.Module):
    """Predicts label maps with any Detectron2 semantic segmentor, without full scores.

    Args:
        model: has the inputs and outputs of Detectron2's SemanticSegmentor. With a model of this
            project, memory does not grow with classes times pixels of the image.
        augmentation: adds predictions with test-time augmentation; the image itself is still
            predicted only once.
    """

    def __init__(self, model: nn.Module, augmentation: TestTimeAugmentation | None = None):
        super().__init__()
        self.model = model
        self.augmented = augmentation and SemanticSegmentorWithTTA(model, augmentation)
        # Detectron2 restores the mode of this module, and with it the mode of the model.
        self.training = model.training

    @torch.no_grad()
    def forward(self, batched_inputs: list[dict]) -> list[dict[str, Tensor]]:
        """One dict per image with "label_map" and, with augmentation, "label_map_TTA".

        Both are (height, width) int64, on the model's device.
        """
        if self.augmented is None:
            scores = image_scores(self.model, batched_inputs)
            return [{"label_map": one.label_map()} for one in scores]
        return [self._from_views(inputs) for inputs in batched_inputs]

    def _from_views(self, inputs: dict) -> dict[str, Tensor]:
        plain, average = self.augmented.scores(inputs)
        if plain is None:  # none of the scales is the image's own
            (plain,) = image_scores(self.model, [inputs])
        return {"label_map": plain.label_map(), "label_map_TTA": average.label_map()}
