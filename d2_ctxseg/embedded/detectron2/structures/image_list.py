"""A batch of images of different sizes."""

import torch
import torch.nn.functional as F

__all__ = ["ImageList"]


class ImageList:
    """Images of different sizes as one tensor, padded on the right and the bottom.

    Args:
        tensor: (N, ..., H, W).
        image_sizes: N times (height, width), without the padding.
    """

    def __init__(self, tensor: torch.Tensor, image_sizes: list[tuple[int, int]]):
        self.tensor = tensor
        self.image_sizes = image_sizes

    def __len__(self) -> int:
        return len(self.image_sizes)

    def __getitem__(self, idx: int) -> torch.Tensor:
        """The image ``idx`` without its padding, (..., height, width)."""
        height, width = self.image_sizes[idx]
        return self.tensor[idx, ..., :height, :width]

    @staticmethod
    def from_tensors(
        tensors: list[torch.Tensor],
        size_divisibility: int = 0,
        pad_value: float = 0.0,
        padding_constraints: dict[str, int] | None = None,
    ) -> "ImageList":
        """Pad images to a common size.

        Args:
            tensors: at least one, each (..., H_i, W_i); the other dimensions are equal.
            size_divisibility: the common height and width are multiples of it, if above 1.
            pad_value: fills up.
            padding_constraints: "size_divisibility" takes the place of the argument of this name;
                "square_size", if above 0, is the common height and width before that.

        Raises:
            AssertionError: not a non-empty list of such tensors.
            ValueError: an image is larger than "square_size".
        """
        assert isinstance(tensors, (list, tuple)) and len(tensors) > 0, (
            f"ImageList.from_tensors needs a list with at least one tensor, got {tensors}"
        )
        for tensor in tensors:
            assert isinstance(tensor, torch.Tensor), f"Not a tensor: {type(tensor)}"
            assert tensor.shape[:-2] == tensors[0].shape[:-2], (
                f"Images of one batch differ in more than size: {tensor.shape[:-2]} and "
                f"{tensors[0].shape[:-2]}"
            )
        constraints = padding_constraints or {}
        divisor = max(constraints.get("size_divisibility", size_divisibility), 1)
        image_sizes = [(tensor.shape[-2], tensor.shape[-1]) for tensor in tensors]
        height, width = (
            -(-edge // divisor) * divisor
            for edge in _common_size(image_sizes, constraints.get("square_size", 0))
        )
        padded = [
            F.pad(tensor, (0, width - w, 0, height - h), value=pad_value)
            for tensor, (h, w) in zip(tensors, image_sizes)
        ]
        return ImageList(torch.stack(padded), image_sizes)


def _common_size(image_sizes: list[tuple[int, int]], square_size: int) -> tuple[int, int]:
    height, width = max(h for h, _ in image_sizes), max(w for _, w in image_sizes)
    if square_size <= 0:
        return height, width
    if max(height, width) > square_size:
        raise ValueError(
            f"An image of (height, width) up to {(height, width)} does not fit into a square of "
            f"{square_size}. Increase square_size or resize the images."
        )
    return square_size, square_size
