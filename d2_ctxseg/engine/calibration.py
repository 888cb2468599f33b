"""Temperatures of a config: those fitted to its weights, and fitting them on a dataset."""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog

from ..checkpoint import FittedTemperature, read_temperatures
from ..data import LabelFormat, check_same_size
from ..evaluation.calibration import confidence_counts, expected_calibration_error
from ..evaluation.evaluator import label_loader
from ..evaluation.temperature import fit_temperature, negative_log_likelihood
from ..modeling import SemanticSegmentorWithTTA, TestTimeAugmentation
from ..modeling.inference.scores import Scores
from ..modeling.inference.test_time_augmentation import image_scores
from ..utils.errors import UserError

# Class scores that are kept of all images together: 128 MiB.
MOST_SCORES = 1 << 25
MOST_PIXELS_OF_AN_IMAGE = 4096


def with_fitted_temperatures(cfg: CfgNode) -> CfgNode:
    """The config with the temperatures that were fitted to its MODEL.WEIGHTS.

    For models that predict: a training changes the weights. Temperatures that the config states
    stay.
    """
    fitted = read_temperatures(cfg.MODEL.WEIGHTS) if cfg.MODEL.WEIGHTS else {}
    cfg = cfg.clone()
    cfg.defrost()
    for task, section in (("sem_seg", cfg.TEST), ("sem_seg_TTA", cfg.TEST.AUG)):
        if section.TEMPERATURE is None and task in fitted:
            section.TEMPERATURE = float(fitted[task].temperature)
    cfg.freeze()
    return cfg


# From a batch of inputs to the scores of each image, by task.
Predict = Callable[[list[dict]], Iterator[dict[str, Scores]]]


@dataclass(frozen=True)
class PixelSample:
    """Scores and labels of some labelled pixels.

    Attributes:
        scores: (N, K) float32.
        labels: (N,) int64.
        weights: (N,) float64: how many labelled pixels of its image each stands for.
    """

    scores: Tensor
    labels: Tensor
    weights: Tensor

    def fit(self, dataset: str) -> FittedTemperature:
        """The temperature of these pixels."""
        arguments = self.scores, self.labels
        temperature = fit_temperature(*arguments, self.weights)
        before, after = (
            negative_log_likelihood(*arguments, t, self.weights) for t in (1.0, temperature)
        )
        return FittedTemperature(temperature, dataset, len(self.labels), before, after)

    def calibration_error(self, temperature: float) -> float:
        """The ECE of these pixels, in [0, 1]."""
        confidence, predicted = (self.scores / temperature).softmax(dim=1).max(dim=1)
        return expected_calibration_error(
            confidence_counts(confidence.numpy(), (predicted == self.labels).numpy())
        )


@torch.no_grad()
def sample_pixels(
    cfg: CfgNode, model: nn.Module, dataset: str, loader: Collection[list[dict]]
) -> dict[str, PixelSample]:
    """Scores and labels of random labelled pixels of a dataset, by task.

    "sem_seg" is the image as it is; with TEST.AUG.ENABLED there is "sem_seg_TTA", the average over
    its views, too. The same pixels are drawn each time.

    Args:
        cfg: the model's config.
        model: any Detectron2 semantic segmentor in evaluation mode.
        dataset: registered, with labels.
        loader: its images, each a batch of its own, as the model takes them.

    Raises:
        UserError: no image has a labelled pixel, a label has another size than its image, or the
            scores are not finite.
    """
    num_classes = LabelFormat.from_metadata(MetadataCatalog.get(dataset)).num_classes
    load_label = label_loader(dataset)
    quota = MOST_SCORES // (max(len(loader), 1) * num_classes * (1 + cfg.TEST.AUG.ENABLED))
    quota = min(max(quota, 1), MOST_PIXELS_OF_AN_IMAGE)
    generator = np.random.default_rng(0)
    predict = _predictions_of(cfg, model)
    found: dict[str, list[PixelSample]] = {}
    for batch in loader:
        for inputs, of_tasks in zip(batch, predict(batch)):
            path = inputs.get("sem_seg_file_name")
            if path is None:
                continue
            label, size = load_label(path), of_tasks["sem_seg"].shape[1:]
            check_same_size(np.broadcast_to(0, size), label, inputs["file_name"], path)
            label = label.ravel()
            labelled = np.flatnonzero((label >= 0) & (label < num_classes))
            count = min(quota, len(labelled))
            if not count:
                continue
            places = np.sort(generator.choice(labelled, count, replace=False))
            labels = torch.from_numpy(label[places]).long()
            weights = torch.full((count,), len(labelled) / count, dtype=torch.float64)
            for task, scores in of_tasks.items():
                rows = scores.at(torch.from_numpy(places)).float().cpu()
                found.setdefault(task, []).append(PixelSample(rows, labels, weights))
    if not found:
        raise UserError(f"'{dataset}' has no labelled pixel to fit a temperature to.")
    samples = {task: _joined(parts) for task, parts in found.items()}
    for sample in samples.values():
        if not sample.scores.isfinite().all():
            raise UserError(
                "The model's class scores are not finite numbers: are its weights damaged?"
            )
    return samples


def _joined(parts: list[PixelSample]) -> PixelSample:
    names = ("scores", "labels", "weights")
    return PixelSample(*(torch.cat([getattr(part, name) for part in parts]) for name in names))


def _predictions_of(cfg: CfgNode, model: nn.Module) -> Predict:
    if not cfg.TEST.AUG.ENABLED:
        return lambda batch: ({"sem_seg": one} for one in image_scores(model, batch))
    # The image as it is may be none of the views.
    augmentation = TestTimeAugmentation.from_config(cfg)
    several = SemanticSegmentorWithTTA(model, augmentation)

    def predict(batch: list[dict]) -> Iterator[dict[str, Scores]]:
        for inputs in batch:
            plain, average = several.scores(inputs)
            if plain is None:
                (plain,) = image_scores(model, [inputs])
            yield {"sem_seg": plain, "sem_seg_TTA": average}

    return predict
