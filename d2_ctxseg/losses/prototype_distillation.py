"""Distillation of class prototypes: one vector per class that a classifier computes per image.

Ma et al., "Efficient Semantic Segmentation by Semantic and Spatial Adaptive Classifier", NeurIPS
2024 (arXiv 2405.06525), as in the authors' code.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .precision import at_least_float32, without_autocast

# Largest number of relations (B, rows, K) at a time: 64 MiB of float32. Where there are more, they
# are processed in blocks of rows, which are computed again in the backward pass.
_RELATIONS = 2**24


def relation_distillation(student: Tensor, teacher: Tensor, scale: float = 15.0) -> Tensor:
    """Penalty on classes that are more similar to each other than in the teacher.

    The relations of prototypes S are ``R(S) = softmax_j(scale * cos(S_i, S_j))``. The loss is the
    mean over images and classes i of ``sum over j != i of max(0, R(student)_ij - R(teacher)_ij)``.
    No gradient flows into S_j of the student, nor into the teacher.

    Args:
        student: (B, K, C).
        teacher: (B, K, C).
        scale: factor on the cosines.

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
    """Cross-entropy of the distributions over the channels.

    The mean over images and classes of ``-sum_c softmax_c(teacher) log softmax_c(student)``.

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
    """The sum of the penalty over the R classes from ``first`` on, whose rows are (B, R, C)."""
    relations, expected = (
        (scale * rows @ others.transpose(1, 2)).softmax(dim=2)
        for rows, others in ((student_rows, student), (teacher_rows, teacher))
    )
    classes = torch.arange(student.shape[1], device=student.device)
    others = classes != classes[first : first + student_rows.shape[1], None]
    return ((relations - expected).clamp(min=0) * others).sum()
