"""Multi-scale and flip testing around any Detectron2 semantic segmentor."""

import torch
from torch import Tensor, nn

from detectron2.data import transforms as T

from ..errors import UserError


class SemanticSegmentorWithTTA(nn.Module):
    """Averages the class probabilities over scaled and mirrored copies of the image.

    Args:
        model: takes and returns what Detectron2's SemanticSegmentor does.
        ratios: scales relative to the image that the model is given.
        flip: whether each scale is also seen mirrored.
    """

    def __init__(self, model: nn.Module, ratios: tuple[float, ...], flip: bool = True):
        super().__init__()
        if not ratios or min(ratios) <= 0:
            raise UserError(f"TEST.AUG.RATIOS must be positive numbers, got {tuple(ratios)}.")
        self.model = model
        self.ratios = tuple(ratios)
        self.flip = flip

    @torch.no_grad()
    def forward(self, batched_inputs: list[dict]) -> list[dict[str, Tensor]]:
        """As the model; "sem_seg" holds probabilities (K, height, width) that sum to 1."""
        return [{"sem_seg": self._probabilities(inputs)} for inputs in batched_inputs]

    def _probabilities(self, inputs: dict) -> Tensor:
        height, width = inputs["image"].shape[-2:]
        size = {"height": inputs.get("height", height), "width": inputs.get("width", width)}
        image = inputs["image"].permute(1, 2, 0).cpu().numpy()
        total, count = 0.0, 0
        for ratio in self.ratios:
            scaled_size = (max(round(height * ratio), 1), max(round(width * ratio), 1))
            scaled = T.ResizeTransform(height, width, *scaled_size).apply_image(image)
            # A copy, since an image that needs no resizing may be read-only.
            scaled = torch.tensor(scaled).permute(2, 0, 1)
            views = [scaled, scaled.flip(-1)] if self.flip else [scaled]
            outputs = self.model([{"image": view, **size} for view in views])
            probabilities = [output["sem_seg"].softmax(dim=0) for output in outputs]
            if self.flip:
                probabilities[1] = probabilities[1].flip(-1)
            total = total + sum(probabilities)
            count += len(views)
        return total / count
