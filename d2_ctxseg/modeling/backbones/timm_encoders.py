"""Differences between segmentation encoders and the image classifiers of the same name in timm.

They concern images of other sizes than the classifier's, and strides that are replaced by dilation.
With these changes the encoders compute the same as mmsegmentation's, and can load weights that were
trained there.
"""

import torch.nn.functional as F
from timm.models.hrnet import HighResolutionModule
from timm.models.swin_transformer import SwinTransformerBlock
from torch import Tensor, nn


def timm_options(name: str) -> dict[str, object]:
    """Arguments of ``timm.create_model`` for segmentation.

    Args:
        name: the encoder's name, with the prefix ``tu-``.
    """
    if name.startswith("tu-hrnet"):
        # The branches themselves, without the classifier's convolutions.
        return {"feature_location": ""}
    if name.startswith("tu-swin_"):
        # Images of any size; windows are shifted even where one covers the whole feature map.
        return {"strict_img_size": False, "always_partition": True}
    if name.startswith("tu-swin"):
        return {"strict_img_size": False}
    return {}


def adapt_to_segmentation(model: nn.Module, name: str, output_stride: int) -> None:
    """Make the changes for which timm has no argument.

    Args:
        model: timm's model; changed in place.
        name: the encoder's name, with the prefix ``tu-``.
        output_stride: stride of the deepest feature map.
    """
    if name.startswith("tu-hrnet"):
        _interpolate_bilinearly(model)
    elif name.startswith("tu-swin"):
        # Images are padded to whole patches, on the right and at the bottom.
        model.patch_embed.dynamic_img_pad = True
        _pad_before_shifting(model)
    elif name.startswith("tu-mobilenetv2") and output_stride != 32:
        _dilate_first_blocks(model.blocks, output_stride)


def _interpolate_bilinearly(model: nn.Module) -> None:
    """Upsample HRNet's branches bilinearly; timm's classifiers repeat pixels."""
    for module in model.modules():
        if isinstance(module, nn.Upsample):
            module.mode, module.align_corners = "bilinear", False
        elif type(module) is HighResolutionModule:
            module.__class__ = SegmentationHighResolutionModule


class SegmentationHighResolutionModule(HighResolutionModule):
    """Sums branches of any size; timm's module needs sizes that are multiples of each other."""

    def forward(self, x: list[Tensor]) -> list[Tensor]:
        """Branches (B, C_i, h_i, w_i), from the largest to the smallest, to as many new ones."""
        if self.num_branches == 1:
            return [self.branches[0](x[0])]
        branches = [branch(maps) for branch, maps in zip(self.branches, x)]
        fused = []
        for layers, branch in zip(self.fuse_layers, branches):
            size = branch.shape[-2:]
            terms = [_resized(layer(maps), size) for layer, maps in zip(layers, branches)]
            fused.append(self.fuse_act(sum(terms[1:], terms[0])))
        return fused


def _resized(maps: Tensor, size: tuple[int, int]) -> Tensor:
    if maps.shape[-2:] == size:
        return maps
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=False)


class SegmentationSwinBlock(SwinTransformerBlock):
    """Pads feature maps to whole windows before it shifts them; timm's block pads afterwards."""

    def _attn(self, x: Tensor) -> Tensor:
        height, width = x.shape[1:3]
        bottom, right = -height % self.window_size[0], -width % self.window_size[1]
        padded = F.pad(x, (0, 0, 0, right, 0, bottom))
        return super()._attn(padded)[:, :height, :width]


def _pad_before_shifting(model: nn.Module) -> None:
    for module in model.modules():
        if type(module) is SwinTransformerBlock:
            module.__class__ = SegmentationSwinBlock


def _dilate_first_blocks(stages: nn.Sequential, output_stride: int) -> None:
    """Dilate the first block of a stage of MobileNetV2 only.

    Where a stride was replaced, timm dilates all blocks from the second on.

    Args:
        stages: stages of inverted residual blocks.
        output_stride: 16 or 8.
    """
    # The stride of each stage without dilation; the stem's is 2.
    for stage, stride in zip(stages, (2, 4, 8, 16, 16, 32, 32), strict=True):
        for i, block in enumerate(stage):
            dilation = 1 if i else max(stride // output_stride, 1)
            block.conv_dw.dilation = (dilation, dilation)
            block.conv_dw.padding = (dilation, dilation)
