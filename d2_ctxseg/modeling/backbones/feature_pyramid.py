"""A pyramid made from the feature maps of a plain vision transformer, for heads that need one.

Bao et al., "BEiT: BERT Pre-Training of Image Transformers", ICLR 2022 (arXiv 2106.08254), appendix
on segmentation.
"""

from collections.abc import Sequence

from torch import Tensor, nn

STRIDES = {"res2": 4, "res3": 8, "res4": 16, "res5": 32}


class FeaturePyramid(nn.Module):
    """Four maps of stride 16 to maps of the strides 4, 8, 16 and 32.

    Two transposed convolutions upsample the first map, one upsamples the second. The third is
    unchanged, the fourth is pooled.

    Args:
        channels: channels C of every map.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.res2 = nn.Sequential(
            nn.ConvTranspose2d(channels, channels, kernel_size=2, stride=2),
            nn.BatchNorm2d(channels),
            nn.GELU(),
            nn.ConvTranspose2d(channels, channels, kernel_size=2, stride=2),
        )
        self.res3 = nn.ConvTranspose2d(channels, channels, kernel_size=2, stride=2)
        self.res4 = nn.Identity()
        self.res5 = nn.MaxPool2d(kernel_size=2)

    def forward(self, maps: Sequence[Tensor]) -> dict[str, Tensor]:
        """Four maps (B, C, h, w), from the shallowest, to maps with the names of ``STRIDES``.

        Their sizes are (4h, 4w), (2h, 2w), (h, w) and (h/2, w/2).
        """
        return {name: getattr(self, name)(x) for name, x in zip(STRIDES, maps)}
