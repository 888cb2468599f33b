"""Label maps for evaluation: of the image alone and of several views, in one pass."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ...utils.errors import UserError
from .anomaly_scores import CLASSIFIER_SCORE, LOGIT_SCORES, anomaly_map
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
        anomaly_scores: adds these of ``ANOMALY_SCORES``, of the image itself. For "classifier" the
            image goes through the model a second time.

    Raises:
        UserError: the score "classifier" of a model that is none of this project's.
    """

    def __init__(
        self,
        model: nn.Module,
        augmentation: TestTimeAugmentation | None = None,
        temperatures: Temperatures | None = None,
        anomaly_scores: Sequence[str] = (),
    ):
        super().__init__()
        self.model = model
        self.augmented = augmentation and SemanticSegmentorWithTTA(model, augmentation)
        self.temperatures = temperatures
        self.anomaly_scores = tuple(anomaly_scores)
        if CLASSIFIER_SCORE in self.anomaly_scores and not hasattr(model, "image_anomalies"):
            raise UserError(
                f"TEST.ANOMALY.SCORES has '{CLASSIFIER_SCORE}', but {type(model).__name__} is no "
                f"model of this project. It may have {', '.join(LOGIT_SCORES)}."
            )
        # Detectron2 restores the mode of this module, and with it the mode of the model.
        self.training = model.training

    @torch.no_grad()
    def forward(self, batched_inputs: list[dict]) -> list[dict[str, Tensor]]:
        """One dict per image with "label_map" and, with augmentation, "label_map_TTA".

        Both are (height, width) int64, on the model's device. With temperatures each comes with a
        confidence (height, width) float32 in [0, 1], "confidence" and "confidence_TTA": the
        probability of the predicted class, see ``Scores.label_map_and_confidence``. Each anomaly
        score is (height, width) floating point, "anomaly_" and its name.
        """
        if self.augmented is None:
            scores = image_scores(self.model, batched_inputs)
            maps = [self._maps(one) | self._logit_anomalies(one) for one in scores]
        else:
            maps = [self._from_views(inputs) for inputs in batched_inputs]
        if CLASSIFIER_SCORE in self.anomaly_scores:
            for one, anomaly in zip(maps, self.model.image_anomalies(batched_inputs)):
                one[f"anomaly_{CLASSIFIER_SCORE}"] = anomaly.tensor()[0]
        return maps

    def _logit_anomalies(self, scores: Scores) -> dict[str, Tensor]:
        names = [name for name in self.anomaly_scores if name in LOGIT_SCORES]
        return {f"anomaly_{name}": anomaly_map(scores, name) for name in names}

    def _from_views(self, inputs: dict) -> dict[str, Tensor]:
        plain, average = self.augmented.scores(inputs)
        if plain is None:  # none of the scales is the image's own
            (plain,) = image_scores(self.model, [inputs])
        maps = self._maps(plain) | self._maps(average, "_TTA")
        return maps | self._logit_anomalies(plain)

    def _maps(self, scores: Scores, suffix: str = "") -> dict[str, Tensor]:
        if self.temperatures is None:
            return {f"label_map{suffix}": scores.label_map()}
        temperature = self.temperatures.averaged if suffix else self.temperatures.single
        labels, confidence = scores.label_map_and_confidence(temperature)
        return {f"label_map{suffix}": labels, f"confidence{suffix}": confidence}
