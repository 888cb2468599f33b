"""The pixel loss: cross-entropy of class scores and labels, one object per model.

For a pixel x with the true class y(x), class weights w and label smoothing e

    l(x) = -sum_c t_c(x) log p_c(x),    t_c(x) = w_c ((1 - e) [c = y(x)] + e / K),
    loss = sum_x l(x) / sum_x w_y(x),

over the labelled pixels x, or over the hard ones among them. This is
``torch.nn.functional.cross_entropy`` with its ``weight`` and ``label_smoothing``.

Hard pixels are those with the lowest probability of the true class. With a share s, the
int(s N) hardest of the N pixels of a batch count, as in Detectron2's DeepLabCE
(projects/deeplab/deeplab/loss.py); with a threshold t as well, also those with a probability below
t, as in mmsegmentation's OHEMPixelSampler (Shrivastava et al., CVPR 2016, for the idea).
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .functional import segmentation_cross_entropy, segmentation_pixel_losses


class PixelLoss(nn.Module):
    """Cross-entropy with class weights, label smoothing and hard-pixel mining, all optional.

    Where every pixel is labelled, ``hard_pixel_share`` alone equals Detectron2's DeepLabCE. Ignored
    pixels count in N, as in DeepLabCE. Where fewer than int(s N) pixels are labelled, DeepLabCE
    adds ignored ones, whose loss is 0; here the mean is over the labelled ones, so that images with
    few labels do not get a small loss. The mean is over the hard pixels and not, as in
    mmsegmentation, over all of them, so that the loss keeps its scale.

    Args:
        ignore_label: label of ignored pixels.
        align_corners: how logits are interpolated to the size of the labels.
        class_weights: K numbers, at least 0 and not all 0; None: equal weights.
        hard_pixel_share: share s of the pixels that counts, above 0 and at most 1.
        hard_pixel_threshold: pixels with a lower probability of the true class count as well, 0 to
            below 1; needs a ``hard_pixel_share`` below 1.
        label_smoothing: share of the target that is spread evenly over the classes, 0 to below 1.

    Raises:
        ValueError: a value is out of its range.
    """

    class_weights: Tensor | None

    def __init__(
        self,
        *,
        ignore_label: int = 255,
        align_corners: bool = False,
        class_weights: Sequence[float] | None = None,
        hard_pixel_share: float = 1.0,
        hard_pixel_threshold: float = 0.0,
        label_smoothing: float = 0.0,
    ):
        super().__init__()
        _check_options(hard_pixel_share, hard_pixel_threshold, label_smoothing)
        weights = None
        if class_weights is not None:
            _check_class_weights(class_weights)
            weights = torch.tensor(list(class_weights), dtype=torch.float32)
        self.ignore_label = ignore_label
        self.align_corners = align_corners
        self.hard_pixel_share = hard_pixel_share
        self.hard_pixel_threshold = hard_pixel_threshold
        self.label_smoothing = label_smoothing
        # Not in checkpoints: the config has them.
        self.register_buffer("class_weights", weights, persistent=False)

    def forward(self, logits: Tensor, labels: Tensor, align_corners: bool | None = None) -> Tensor:
        """The loss of a batch.

        Args:
            logits: (B, K, h, w) float; interpolated bilinearly to (H, W).
            labels: (B, H, W), any integer dtype: 0 to K-1, or ``ignore_label``.
            align_corners: for this interpolation; None: the constructor's value.

        Returns:
            A scalar, at least float32; 0 (with a gradient of 0) where no pixel is labelled.
        """
        if align_corners is None:
            align_corners = self.align_corners
        labels = labels.long()
        if self.hard_pixel_share < 1:
            hard = self.hard_pixels(logits, labels, align_corners)
            labels = labels.where(hard, self.ignore_label)
        return segmentation_cross_entropy(
            logits,
            labels,
            self.ignore_label,
            align_corners,
            class_weights=self.class_weights,
            label_smoothing=self.label_smoothing,
        )

    @torch.no_grad()
    def hard_pixels(self, logits: Tensor, labels: Tensor, align_corners: bool) -> Tensor:
        """The pixels that count, (B, H, W) bool; the arguments are those of ``forward``.

        Class weights and label smoothing do not change how hard a pixel is. Of equally hard pixels
        an arbitrary subset counts.
        """
        losses = segmentation_pixel_losses(logits, labels, self.ignore_label, align_corners)
        count = max(1, int(self.hard_pixel_share * losses.numel()))
        hardest = losses.flatten().topk(count, sorted=False).indices
        # By index and not by a threshold on the losses: exactly this many pixels count, even where
        # many are equally hard.
        hard = torch.zeros_like(losses, dtype=torch.bool).flatten()
        hard = hard.index_fill(0, hardest, True).view_as(losses)
        if self.hard_pixel_threshold > 0:
            hard |= losses > -math.log(self.hard_pixel_threshold)
        return hard & (labels != self.ignore_label)

    def extra_repr(self) -> str:
        """The options that differ from the plain cross-entropy, for ``print(model)``."""
        shown = {
            "class_weights": None if self.class_weights is None else "given",
            "hard_pixel_share": None if self.hard_pixel_share == 1 else self.hard_pixel_share,
            "hard_pixel_threshold": self.hard_pixel_threshold or None,
            "label_smoothing": self.label_smoothing or None,
        }
        return ", ".join(f"{name}={value}" for name, value in shown.items() if value is not None)


def _check_options(
    hard_pixel_share: float, hard_pixel_threshold: float, label_smoothing: float
) -> None:
    if not 0 < hard_pixel_share <= 1:
        raise ValueError(
            f"hard_pixel_share is {hard_pixel_share}, expected a number above 0 and at most 1, "
            "such as 0.2; 1 for all pixels."
        )
    for name, value in (
        ("hard_pixel_threshold", hard_pixel_threshold),
        ("label_smoothing", label_smoothing),
    ):
        if not 0 <= value < 1:
            raise ValueError(
                f"{name} is {value}, expected a number from 0 to below 1; 0 turns it off."
            )
    if hard_pixel_threshold and hard_pixel_share == 1:
        raise ValueError(
            f"hard_pixel_threshold is {hard_pixel_threshold}, which has no effect while "
            "hard_pixel_share is 1: all pixels count. Set hard_pixel_share to the least share that "
            "counts, such as 0.2."
        )


def _check_class_weights(class_weights: Sequence[float]) -> None:
    for index, weight in enumerate(class_weights):
        if not (math.isfinite(weight) and weight >= 0):
            raise ValueError(
                f"class_weights: the weight of class {index} is {weight}, expected a finite "
                "number, at least 0."
            )
    if not any(class_weights):
        raise ValueError(
            "class_weights are all 0, so that nothing would be trained. Give at least one class a "
            "weight above 0."
        )
