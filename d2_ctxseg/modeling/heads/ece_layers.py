"""The layers of ECENet's head that classifiers do not use, and its diversity loss.

Liu et al., "Boosting Semantic Segmentation from the Perspective of Explicit Class Embeddings"
(ECENet), ICCV 2023 (arXiv 2308.12894), section 3. Where the paper is not specific, they follow the
authors' released code.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...classifiers.explicit_class_parts import ChannelLayerNorm
from ...losses.precision import at_least_float32


class FeatureReconstruction(nn.Module):
    """Splits features into an intrinsic and a diverse half and merges them (FR).

    The intrinsic half is a projection of the features, the diverse half a depthwise convolution of
    the intrinsic half whose channels are gated by their means.

    Args:
        channels: channels c of the features, an even number of at least 4.

    Raises:
        ValueError: ``channels`` is odd or below 4.
    """

    def __init__(self, channels: int):
        super().__init__()
        if channels < 4 or channels % 2:
            raise ValueError(
                f"FeatureReconstruction cannot halve {channels} channels twice; expected an even "
                "number of at least 4."
            )
        half = channels // 2
        self.intrinsic = nn.Sequential(
            nn.Conv2d(channels, half, kernel_size=1, bias=False), nn.BatchNorm2d(half)
        )
        self.diverse = nn.Sequential(
            nn.Conv2d(half, half, kernel_size=3, padding=1, groups=half), nn.BatchNorm2d(half)
        )
        self.gate = nn.Sequential(
            nn.Linear(half, half // 2, bias=False),
            nn.ReLU(inplace=True),
            nn.Linear(half // 2, half, bias=False),
        )
        self.merge = nn.Conv2d(channels, channels, kernel_size=1, bias=False)
        self.norm = ChannelLayerNorm(channels)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B, c, h, w) to new ones of that shape and the diverse half (B, c/2, h, w)."""
        intrinsic = self.intrinsic(features)
        diverse = self.diverse(intrinsic)
        diverse = diverse * self.gate(diverse.mean(dim=(2, 3)))[:, :, None, None]
        return self.norm(self.merge(torch.cat([diverse, intrinsic], dim=1))), diverse


class AdditionUpdater(nn.Module):
    """Updates class embeddings by adding the newly extracted ones: the paper's ablation of U."""

    def forward(self, extracted: Tensor, current: Tensor) -> Tensor:
        """Both (B, K, C), and so is the sum."""
        return current + extracted


class GhostDoubling(nn.Module):
    """Doubles height and width; half of the pixel shuffle's input comes from cheap convolutions.

    Args:
        channels: channels C of input and output.
    """

    def __init__(self, channels: int):
        super().__init__()
        wide = 2 * channels
        self.primary = nn.Sequential(
            nn.Conv2d(channels, wide, kernel_size=1, bias=False),
            nn.BatchNorm2d(wide),
            nn.ReLU(inplace=True),
        )
        self.cheap = nn.Sequential(
            nn.Conv2d(wide, wide, kernel_size=3, padding=1, groups=wide, bias=False),
            nn.BatchNorm2d(wide),
            nn.ReLU(inplace=True),
        )

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, h, w) to (B, C, 2h, 2w)."""
        primary = self.primary(features)
        return F.pixel_shuffle(torch.cat([primary, self.cheap(primary)], dim=1), 2)


class GhostUpsample(nn.Sequential):
    """Learned upsampling by a power of two; the ghost module is of Han et al., CVPR 2020.

    Args:
        channels: channels C of input and output.
        num_doublings: (B, C, h, w) becomes (B, C, h * 2**n, w * 2**n); 0 changes nothing.
    """

    def __init__(self, channels: int, num_doublings: int):
        super().__init__(*[GhostDoubling(channels) for _ in range(num_doublings)])


def diversity_map(diverse: Tensor) -> Tensor:
    """For each position the largest share that it has in any channel.

    Args:
        diverse: (B, c, h, w) float.

    Returns:
        (B, h * w): ``max_channel softmax_position(diverse)``. The sum over the positions is between
        1 (all channels attend to the same position) and c (each to another one).
    """
    return at_least_float32(diverse).flatten(2).softmax(dim=2).amax(dim=1)


def diversity_loss(maps: Sequence[Tensor], num_channels: Sequence[int]) -> Tensor:
    """Low where the channels of a stage attend to different positions. Needs no labels.

    Args:
        maps: per stage the result of ``diversity_map``, (B, h * w).
        num_channels: per stage the number of channels c that the map was made of.

    Returns:
        A scalar from 0 to below 1: ``1 - sum_x map(x) / c``, mean over images and stages.
    """
    shares = [stage.sum(dim=1).mean() / c for stage, c in zip(maps, num_channels)]
    return 1 - torch.stack(shares).mean()
