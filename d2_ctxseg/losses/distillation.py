"""Distillation of one prediction towards another, averaged by pixel or by class.

The distillation of the context-aware classifier (Tian et al., AAAI 2023, "Entropy-aware
distillation"), and the extension of the semantic and spatial adaptive classifier (Ma et al.,
NeurIPS 2024), which averages pixels at boundaries separately.
"""

from torch import Tensor

from .precision import at_least_float32

DISTILLATION_TARGETS = ("half_smoothed", "kl")
DISTILLATION_WEIGHTINGS = ("plain", "entropy", "class", "class_entropy")


def distillation_loss(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    *,
    target: str = "half_smoothed",
    weighting: str = "class_entropy",
    entropy_logits: Tensor | None = None,
    boundary: Tensor | None = None,
    ignore_label: int = 255,
) -> Tensor:
    """Distillation of the student towards the teacher.

    Args:
        student: (B, K, h, w) logits.
        teacher: (B, K, h, w) logits; no gradient flows into them.
        labels: (B, h, w) int64, 0 to K-1 or ``ignore_label``.
        target: the target of a pixel. "half_smoothed": cross-entropy with the mean of the teacher's
            probabilities and the one-hot ground truth, as in the authors' code; "kl": the
            Kullback-Leibler divergence from the teacher, as in the paper.
        weighting: how pixels are averaged. "plain": with equal weights; "entropy": weighted with
            the entropy of a prediction; "class": within each class first, then over the classes
            present; "class_entropy": as "class", weighted with the entropy (the paper's proposal).
        entropy_logits: (B, K, h, w), the prediction whose entropy is the weight, without gradient;
            None: the teacher's.
        boundary: (B, h, w) bool, for the class-wise weightings. The average of a class is then half
            of the average of its pixels at boundaries plus half of that of its other pixels; a
            half without pixels is 0.
        ignore_label: label of ignored pixels.

    Returns:
        A scalar, at least float32; 0 (with a gradient of 0) where every pixel is ignored.

    Raises:
        ValueError: ``boundary`` is given with another weighting.
    """
    if boundary is not None and not weighting.startswith("class"):
        raise ValueError(
            f"weighting is '{weighting}', but a boundary needs 'class' or 'class_entropy'."
        )
    num_classes = student.shape[1]
    valid = (labels != ignore_label).flatten(1)
    labels = labels.flatten(1).where(valid, 0)
    log_teacher = _log_probabilities(teacher.detach())
    loss = _pixel_losses(_log_probabilities(student), log_teacher, labels, target)

    weight = valid.to(loss.dtype)
    if weighting.endswith("entropy"):
        if entropy_logits is not None:
            log_teacher = _log_probabilities(entropy_logits.detach())
        weight = weight * -(log_teacher.exp() * log_teacher).sum(dim=1)
    if not weighting.startswith("class"):
        return (loss * weight).sum() / (weight.sum() + 1e-12)
    return _mean_over_classes(loss * weight, weight, labels, valid, num_classes, boundary)


def _log_probabilities(logits: Tensor) -> Tensor:
    """(B, K, h, w) to (B, K, h * w)."""
    return at_least_float32(logits.flatten(2)).log_softmax(dim=1)


def _pixel_losses(log_student: Tensor, log_teacher: Tensor, labels: Tensor, target: str) -> Tensor:
    """(B, K, N) log probabilities, labels (B, N) to (B, N)."""
    probability = log_teacher.exp()
    cross_entropy = -(probability * log_student).sum(dim=1)
    if target == "kl":
        return cross_entropy + (probability * log_teacher).sum(dim=1)
    of_label = log_student.gather(1, labels[:, None])[:, 0]
    return 0.5 * (cross_entropy - of_label)


def _mean_over_classes(
    weighted_loss: Tensor,
    weight: Tensor,
    labels: Tensor,
    valid: Tensor,
    num_classes: int,
    boundary: Tensor | None,
) -> Tensor:
    """Weighted mean within each class, or each half of one, then over the classes present."""
    groups, halves = labels, 1
    if boundary is not None:
        groups, halves = labels + num_classes * boundary.flatten(1), 2
    group_loss, group_weight, count = (
        values.new_zeros(halves * num_classes).index_add(0, groups.flatten(), values.flatten())
        for values in (weighted_loss, weight, valid.to(weight.dtype))
    )
    present = (count.view(halves, num_classes).sum(dim=0) > 0).sum()
    # Both sums are 0 for an absent class.
    return (group_loss / (group_weight + 1e-12)).sum() / (halves * present.clamp(min=1))
