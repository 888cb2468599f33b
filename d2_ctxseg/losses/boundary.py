"""Maps of the boundaries between classes."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .checks import check_choice

# OpenCV's tangent of 22.5 degrees, in units of 1 / 2^15.
_TANGENT, _ONE = 13573, 1 << 15


def class_boundary(
    labels: Tensor, kind: str = "canny", *, frame: int = 6, dilation: int = 1
) -> Tensor:
    """Which pixels lie on a boundary between labels.

    Args:
        labels: (B, h, w) integers; the ignore label counts as one more class.
        kind: "canny", see ``canny_edges``, or "neighbours": all pixels with another label than one
            of their four neighbours.
        frame: pixels closer than this to the border of the map are no boundary.
        dilation: the boundaries are then widened by this many pixels on all sides.

    Returns:
        (B, h, w) bool.

    Raises:
        ValueError: ``kind`` is unknown.
    """
    check_choice("boundary", kind, tuple(BOUNDARIES))
    edges = BOUNDARIES[kind](labels)
    inside = (_inside(size, frame, labels.device) for size in labels.shape[1:])
    rows, columns = inside
    edges = edges & rows[:, None] & columns
    if dilation:
        edges = F.max_pool2d(edges.float(), 2 * dilation + 1, stride=1, padding=dilation) > 0
    return edges


def canny_edges(labels: Tensor) -> Tensor:
    """Canny's edges with both thresholds at 0: where the gradient is a maximum across the edge.

    The result equals ``cv2.Canny(labels, 0, 0)`` of labels as 8-bit grey values in every pixel.
    With ``m = |gx| + |gy|`` of 3x3 Sobel filters a pixel is an edge where m is above 0 and a
    maximum among its neighbours in the direction of the gradient, which is rounded to horizontal,
    vertical or diagonal.

    Args:
        labels: (B, h, w) integers; only the lowest eight bits are used.

    Returns:
        (B, h, w) bool.
    """
    gx, gy = _sobel((labels & 255).float())
    ax, ay = gx.abs(), gy.abs()
    m = ax + ay
    horizontal = ay * _ONE < ax * _TANGENT
    vertical = ay * _ONE > ax * (_TANGENT + 2 * _ONE)
    falling = gx * gy >= 0

    padded = F.pad(m, (1, 1, 1, 1))
    height, width = m.shape[1:]

    def neighbour(down: int, right: int) -> Tensor:
        return padded[:, 1 + down : 1 + down + height, 1 + right : 1 + right + width]

    diagonal = (
        torch.where(falling, neighbour(-1, -1), neighbour(-1, 1)),
        torch.where(falling, neighbour(1, 1), neighbour(1, -1)),
    )
    before, after = (
        torch.where(horizontal, beside, torch.where(vertical, above, across))
        for beside, above, across in (
            (neighbour(0, -1), neighbour(-1, 0), diagonal[0]),
            # Of two equal neighbours the first is the edge. In integers, m >= n is m > n - 1.
            (neighbour(0, 1) - 1, neighbour(1, 0) - 1, diagonal[1]),
        )
    )
    return (m > 0) & (m > before) & (m > after)


def neighbour_edges(labels: Tensor) -> Tensor:
    """Pixels with another label than one of their four neighbours: (B, h, w) integers to bool."""
    below = labels[:, 1:] != labels[:, :-1]
    beside = labels[:, :, 1:] != labels[:, :, :-1]
    return (
        F.pad(below, (0, 0, 0, 1))
        | F.pad(below, (0, 0, 1, 0))
        | F.pad(beside, (0, 1))
        | F.pad(beside, (1, 0))
    )


BOUNDARIES = {"canny": canny_edges, "neighbours": neighbour_edges}


def _sobel(grey: Tensor) -> tuple[Tensor, Tensor]:
    """Grey values (B, h, w) to gradients to the right and downwards, int32; replicated border."""
    grey = F.pad(grey[:, None], (1, 1, 1, 1), mode="replicate")[:, 0].int()
    smooth_down = grey[:, :-2] + 2 * grey[:, 1:-1] + grey[:, 2:]
    smooth_right = grey[:, :, :-2] + 2 * grey[:, :, 1:-1] + grey[:, :, 2:]
    return smooth_down[:, :, 2:] - smooth_down[:, :, :-2], smooth_right[:, 2:] - smooth_right[
        :, :-2
    ]


def _inside(size: int, frame: int, device: torch.device) -> Tensor:
    cells = torch.arange(size, device=device)
    return (cells >= frame) & (cells < size - frame)
