"""Label maps for evaluation: of the image alone and of several views, in one pass."""

import torch
from torch import Tensor, nn

from .scores import Scores
from .temperatures import Temperatures
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
        temperatures: adds confidences, at the temperature of single images and at that of
            averages over views. None: label maps alone.
    """

    def __init__(
        self,
        model: nn.Module,
        augmentation: TestTimeAugmentation | None = None,
        temperatures: Temperatures | None = None,
    ):
        super().__init__()
        self.model = model
        self.augmented = augmentation and SemanticSegmentorWithTTA(model, augmentation)
        self.temperatures = temperatures
        # Detectron2 restores the mode of this module, and with it the mode of the model.
        self.training = model.training

    @torch.no_grad()
    def forward(self, batched_inputs: list[dict]) -> list[dict[str, Tensor]]:
        """One dict per image with "label_map" and, with augmentation, "label_map_TTA".

        Both are (height, width) int64, on the model's device. With temperatures each comes with a
        confidence (height, width) float32 in [0, 1], "confidence" and "confidence_TTA": the
        probability of the predicted class, see ``Scores.label_map_and_confidence``.
        """
        if self.augmented is None:
            scores = image_scores(self.model, batched_inputs)
            return [self._maps(one) for one in scores]
        return [self._from_views(inputs) for inputs in batched_inputs]

    def _from_views(self, inputs: dict) -> dict[str, Tensor]:
        plain, average = self.augmented.scores(inputs)
        if plain is None:  # none of the scales is the image's own
            (plain,) = image_scores(self.model, [inputs])
        return self._maps(plain) | self._maps(average, "_TTA")

    def _maps(self, scores: Scores, suffix: str = "") -> dict[str, Tensor]:
        if self.temperatures is None:
            return {f"label_map{suffix}": scores.label_map()}
        temperature = self.temperatures.averaged if suffix else self.temperatures.single
        labels, confidence = scores.label_map_and_confidence(temperature)
        return {f"label_map{suffix}": labels, f"confidence{suffix}": confidence}
