"""Distillation of class prototypes: vectors, one a class, that a classifier makes for each image.

Ma et al., "Efficient Semantic Segmentation by Semantic and Spatial Adaptive Classifier", NeurIPS
2024 (arXiv 2405.06525), as in the authors' code.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .precision import at_least_float32, without_autocast

# Relations (B, rows, K) of so many classes at a time: 64 MiB of float32. With more, they are made
# again in the backward pass.
_RELATIONS = 2**24


def relation_distillation(student: Tensor, teacher: Tensor, scale: float = 15.0) -> Tensor:
    """How much more a class is confused with others than in the teacher.

    The relations of prototypes S are ``R(S) = softmax_j(scale * cos(S_i, S_j))``. The loss is the
    mean over images and classes i of ``sum over j != i of max(0, R(student)_ij - R(teacher)_ij)``.
    The side j of a relation gets no gradient, nor does the teacher.

    Args:
        student: (B, K, C).
        teacher: (B, K, C).
        scale: of the cosines.

    Returns:
        A scalar, at least float32.
    """
    batch, num_classes = student.shape[:2]
    with without_autocast(student.device):
        student, teacher = (F.normalize(at_least_float32(x), dim=2) for x in (student, teacher))
        teacher, fixed = teacher.detach(), student.detach()
        rows = max(1, _RELATIONS // (batch * num_classes))
        if rows >= num_classes:
            total = _confusion(student, fixed, teacher, teacher, 0, scale)
        else:
            parts = [
                checkpoint(
                    *(_confusion, student[:, i : i + rows], fixed, teacher[:, i : i + rows]),
                    *(teacher, i, scale),
                    use_reentrant=False,
                    preserve_rng_state=False,
                )
                for i in range(0, num_classes, rows)
            ]
            total = torch.stack(parts).sum()
        return total / (batch * num_classes)


def channel_distillation(student: Tensor, teacher: Tensor) -> Tensor:
    """Cross-entropy of the distributions over the channels: mean over images and classes of
    ``-sum_c softmax_c(teacher) log softmax_c(student)``.

    Args:
        student: (B, K, C).
        teacher: (B, K, C); no gradient flows into it.

    Returns:
        A scalar, at least float32.
    """
    target = at_least_float32(teacher.detach()).softmax(dim=2)
    return -(target * at_least_float32(student).log_softmax(dim=2)).sum(dim=2).mean()


def _confusion(
    student_rows: Tensor,
    student: Tensor,
    teacher_rows: Tensor,
    teacher: Tensor,
    first: int,
    scale: float,
) -> Tensor:
    """Sum over the classes ``first`` and following, (B, R, C), of what they are confused more."""
    relations, expected = (
        (scale * rows @ others.transpose(1, 2)).softmax(dim=2)
        for rows, others in ((student_rows, student), (teacher_rows, teacher))
    )
    classes = torch.arange(student.shape[1], device=student.device)
    others = classes != classes[first : first + student_rows.shape[1], None]
    return ((relations - expected).clamp(min=0) * others).sum()
