"""Plain vision transformers of timm as a Detectron2 backbone."""

from collections.abc import Sequence

import timm
import torch
from timm.models import is_model_in_modules, is_model_pretrained
from torch import Tensor

from detectron2.config import configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY

from ...utils.errors import UserError, suggest
from ..padding import pad_to_multiple
from .activation_checkpointing import checkpoint_activations
from .encoder import is_file_name, load_local_weights
from .feature_pyramid import STRIDES, FeaturePyramid
from .freezing import FreezableBackbone, check_freeze_at, embedding_and_blocks
from .normalization import compare_normalization

# timm's modules whose models are plain (one resolution throughout) and take images of any size.
# BEiT is not among them: its table of relative positions belongs to one image size.
_MODULES = ("vision_transformer", "deit", "eva")


@BACKBONE_REGISTRY.register()
class VisionTransformerBackbone(FreezableBackbone):
    """A plain vision transformer of timm: ViT, DeiT, DINOv2, DINOv3, SigLIP, EVA-02 and others.

    The feature maps are the outputs of selected blocks, without class and register tokens and
    without the final norm. Their stride is the patch size. ``block7`` is timm's ``blocks.7``, the
    eighth. The position table is interpolated to the image's size. The model has no blocks after
    the last selected one, no final norm and no classifier.

    With ``pyramid``, the outputs of four blocks become ``res2`` to ``res5`` with strides 4 to 32.

    Args:
        name: timm's name, such as ``"vit_base_patch16_384"``, with or without a tag of pretrained
            weights after a dot and with or without the prefix ``tu-``.
        weights: ``"imagenet"`` for timm's default weights of that name or those of its tag,
            another tag that timm offers (downloaded), ``""`` for random weights, or
            the path of a local .pth or .safetensors file with timm's keys.
        out_indices: numbers of the blocks, counted from 0, ascending.
        in_channels: channels of the image.
        drop_path_rate: probability of skipping the last block's branches in training; it rises
            linearly from 0 at the first block (stochastic depth, ECCV 2016).
        pyramid: whether the outputs of four blocks become a pyramid; see FeaturePyramid.
        activation_checkpointing: whether activations within blocks are recomputed in the backward
            pass, to save memory.
        freeze_at: 1 freezes everything before the blocks (patch embedding, position table, tokens),
            n also the first n - 1 blocks; at most the number of blocks plus one. The pyramid's
            layers are not frozen.

    Raises:
        UserError: the model, weights or a block are unknown; the model is not a plain transformer
            or needs one image size; a pyramid does not have four blocks and patches of 16 pixels;
            a local file does not fit; the weights cannot be downloaded; or ``freeze_at`` is out of
            range.
    """

    @configurable
    def __init__(
        self,
        *,
        name: str,
        weights: str = "",
        out_indices: Sequence[int] = (5, 7, 11),
        in_channels: int = 3,
        drop_path_rate: float = 0.0,
        pyramid: bool = False,
        activation_checkpointing: bool = False,
        freeze_at: int = 0,
    ):
        super().__init__()
        name = name.removeprefix("tu-")
        _check_name(name)
        local_file = weights if is_file_name(weights) else ""
        self.encoder = _build_encoder(
            name, "" if local_file else weights, in_chans=in_channels, drop_path_rate=drop_path_rate
        )
        self.out_indices = tuple(out_indices)
        _check_out_indices(name, self.out_indices, len(self.encoder.blocks))
        # Distributed training fails on parameters without a gradient.
        self.encoder.prune_intermediate_layers(
            list(self.out_indices), prune_norm=True, prune_head=True
        )
        if local_file:
            load_local_weights(self.encoder, local_file)
        self._stride = self.encoder.feature_info[0]["reduction"]
        self.pyramid = None
        if pyramid:
            _check_pyramid(name, self.out_indices, self._stride)
            self.pyramid = FeaturePyramid(self.encoder.embed_dim)
        num_blocks = len(self.encoder.blocks)
        check_freeze_at(freeze_at, num_blocks + 1, f"all of the {num_blocks} blocks")
        if freeze_at:
            self.freeze(embedding_and_blocks(self.encoder, freeze_at - 1), freeze_at)
        if activation_checkpointing:
            checkpoint_activations(self.encoder, name)

    @classmethod
    def from_config(cls, cfg, input_shape: ShapeSpec):
        compare_normalization(cfg)
        encoder = cfg.MODEL.ENCODER
        return {
            "name": encoder.NAME,
            "weights": encoder.WEIGHTS,
            "out_indices": encoder.OUT_INDICES,
            "in_channels": input_shape.channels,
            "drop_path_rate": encoder.DROP_PATH_RATE,
            "pyramid": encoder.PYRAMID,
            "activation_checkpointing": encoder.ACTIVATION_CHECKPOINTING,
            "freeze_at": cfg.MODEL.BACKBONE.FREEZE_AT,
        }

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Images (B, C, H, W), padded to whole patches, to feature maps.

        Returns:
            One map per selected block, ``{"block5": ..., "block7": ..., ...}``, each
            (B, channels, H/stride, W/stride); or the pyramid, ``{"res2": ..., "res5": ...}``.
        """
        features = self.encoder.forward_intermediates(
            pad_to_multiple(image, self._stride),
            indices=list(self.out_indices),
            norm=False,
            intermediates_only=True,
        )
        if self.pyramid is not None:
            return self.pyramid(features)
        return {f"block{index}": feature for index, feature in zip(self.out_indices, features)}

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Channels and stride of each feature map."""
        channels = self.encoder.embed_dim
        strides = {f"block{index}": self._stride for index in self.out_indices}
        if self.pyramid is not None:
            strides = STRIDES
        return {name: ShapeSpec(channels=channels, stride=strides[name]) for name in strides}

    @property
    def size_divisibility(self) -> int:
        """The image's sides must be multiples of this: the patch size, or 32 for a pyramid."""
        return self._stride if self.pyramid is None else max(STRIDES.values())


def _check_name(name: str) -> None:
    # A tag after the dot selects pretrained weights, not another architecture.
    if not timm.is_model(name):
        models = [model for module in _MODULES for model in timm.list_models(module=module)]
        hint = suggest(name.partition(".")[0], models)
        raise UserError(f"MODEL.ENCODER.NAME: timm {timm.__version__} has no '{name}'.{hint}")
    if not is_model_in_modules(name.partition(".")[0], _MODULES):
        raise UserError(
            f"MODEL.ENCODER.NAME: '{name}' is not a plain vision transformer that takes images of "
            "any size. Choose a model of timm's ViT, DeiT or EVA families, such as "
            "'vit_base_patch16_384', or set MODEL.BACKBONE.NAME to 'EncoderBackbone' and "
            f"MODEL.ENCODER.NAME to 'tu-{name}'."
        )


def _check_out_indices(name: str, out_indices: tuple[int, ...], depth: int) -> None:
    within = all(0 <= index < depth for index in out_indices)
    if not out_indices or not within or list(out_indices) != sorted(set(out_indices)):
        raise UserError(
            f"MODEL.ENCODER.OUT_INDICES: {out_indices} must be ascending numbers from 0 to "
            f"{depth - 1}: '{name}' has {depth} blocks."
        )


def _check_pyramid(name: str, out_indices: tuple[int, ...], patch_size: int) -> None:
    if len(out_indices) != len(STRIDES):
        raise UserError(
            f"MODEL.ENCODER.PYRAMID needs the outputs of four blocks, but OUT_INDICES names "
            f"{len(out_indices)}: {out_indices}. BEiT's are (3, 5, 7, 11)."
        )
    if patch_size != 16:
        raise UserError(
            f"MODEL.ENCODER.PYRAMID: the patches of '{name}' are {patch_size} pixels wide, but the "
            "strides 4 to 32 need patches of 16. Choose a model with 'patch16'."
        )


def _build_encoder(name: str, weights: str, **options) -> torch.nn.Module:
    """The transformer with weights downloaded by timm, or with random weights for ``""``."""
    name = _with_tag(name, weights) if weights else name.partition(".")[0]
    try:
        return timm.create_model(
            name, pretrained=bool(weights), num_classes=0, dynamic_img_size=True, **options
        )
    except (OSError, RuntimeError) as error:
        if not weights:
            raise
        # huggingface_hub and timm raise various subclasses where they cannot reach the network.
        raise UserError(
            f"The weights '{weights}' of encoder '{name}' could not be downloaded "
            f"({type(error).__name__}: {error}). Without a network, set MODEL.ENCODER.WEIGHTS to "
            "a local .pth or .safetensors file, or to '' for random weights."
        ) from error


def _with_tag(name: str, weights: str) -> str:
    """timm's name for these pretrained weights."""
    architecture = name.partition(".")[0]
    tagged = name if weights == "imagenet" else f"{architecture}.{weights}"
    if not is_model_pretrained(tagged):
        offered = [model.partition(".")[2] for model in timm.list_pretrained(f"{architecture}.*")]
        raise UserError(
            f"MODEL.ENCODER.WEIGHTS: timm {timm.__version__} has no weights '{weights}' for "
            f"'{name}'; it has {', '.join(['imagenet', *offered]) if offered else 'none'}."
            f"{suggest(weights, offered)}"
        )
    return tagged
