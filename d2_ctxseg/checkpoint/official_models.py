"""Whole models and backbones released by the authors, under the names of this project.

Models are those of mmsegmentation and of codes built on it, CAC among them
(https://github.com/tianzhuotao/CAC), of SegFormer (https://github.com/NVlabs/SegFormer) and of
ProtoSeg (https://github.com/tfzhou/ProtoSeg). The first two take RGB images, normalised as the
configs of this project do it; ProtoSeg takes BGR images, normalised with the numbers of RGB.
"""

import logging
import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from torch import Tensor, nn

from ..utils.errors import UserError
from .official_backbones import (
    BackboneNames,
    Rearrange,
    Rules,
    find_backbone_names,
    keep,
    rename,
)
from .official_checkpoints import (
    CONTEXT_AWARE_NAMES,
    EXPLICIT_CLASS_NAMES,
    PROTOTYPE_NAMES,
    SEMANTIC_SPATIAL_NAMES,
)

logger = logging.getLogger(__name__)

# Derived from the model's shape, and therefore not kept here.
_DERIVED = r"(?:.*\.)?(?:relative_position_index|attn_mask)"
# Only counts training steps; old checkpoints do not have it.
_COUNTER = "num_batches_tracked"


def _fcn_layer(number: int):
    """Each convolution has a norm and an activation after it, all in one sequence."""
    return lambda match: f"convs.{3 * int(match[1]) + number}"


_FCN = {
    r"convs\.(\d+)\.conv": _fcn_layer(0),
    r"convs\.(\d+)\.bn": _fcn_layer(1),
    r"conv_cat": "concat_conv",
}
_PYRAMID = {
    r"psp_modules\.(\d+)\.1": r"pyramid.branches.\1.1",
    r"bottleneck": "pyramid.bottleneck",
}
# The authors' modules in each head, without the classifier. Of their ConvModule, "bn" is "norm".
_HEADS = {
    "FCNHead": _FCN,
    "PSPHead": _PYRAMID,
    "UPerHead": _PYRAMID
    | {
        r"lateral_convs\.(\d+)": r"laterals.\1",
        r"fpn_convs\.(\d+)": r"fpn_convs.\1",
        r"fpn_bottleneck": "fpn_bottleneck",
    },
    "DepthwiseSeparableASPPHead": {
        r"image_pool\.1": "aspp.image_pool.1",
        r"aspp_modules\.(\d+)\.(depthwise|pointwise)_conv": r"aspp.branches.\1.\2",
        r"aspp_modules\.(\d+)": r"aspp.branches.\1",
        r"bottleneck": "aspp.bottleneck",
        r"c1_bottleneck": "low_level",
        r"sep_bottleneck\.(\d+)\.(depthwise|pointwise)_conv": r"fusion.\1.\2",
    },
    "OCRHead": {
        r"object_context_block\.(query|key)_project\.([01])": r"object_attention.\1.\2",
        r"object_context_block\.value_project": "object_attention.value",
        r"object_context_block\.out_project": "object_attention.output",
        r"object_context_block\.bottleneck": "object_attention.bottleneck",
        r"bottleneck": "bottleneck",
    },
    "SMPDecoderHead": {
        # The decoder goes from the deepest feature map to the shallowest.
        r"linear_c([1-4])\.proj": lambda match: f"decoder.mlp_stage.{4 - int(match[1])}.linear",
        r"linear_fuse\.conv": "decoder.fuse_stage.0",
        r"linear_fuse\.bn": "decoder.fuse_stage.1",
    },
    "ECEHead": EXPLICIT_CLASS_NAMES,
}
# The first head of OCRNet's cascade.
_COARSE = {r"convs\.0": "coarse.conv", r"conv_seg": "coarse.predictor"}
# ProtoSeg's models have their parts side by side.
_PROTOSEG_HEAD = {r"cls_head\.0": "convs.0", r"cls_head\.1\.0": "convs.1"}
_CLASSIFIERS = {
    "LinearClassifier": {r"conv_seg|linear_pred": "predictor"},
    "ContextAwareClassifier": CONTEXT_AWARE_NAMES,
    "SemanticSpatialClassifier": SEMANTIC_SPATIAL_NAMES,
    "PrototypeClassifier": PROTOTYPE_NAMES,
}

_ABOUT_PROTOSEG = (
    "ProtoSeg's models take BGR images, normalised with the numbers of RGB: set INPUT.FORMAT to "
    "'BGR', and all the same MODEL.PIXEL_MEAN to [123.675, 116.28, 103.53] and MODEL.PIXEL_STD to "
    "[58.395, 57.12, 57.375]. They resize feature maps with align_corners: set "
    "MODEL.CLASSIFIER.ALIGN_CORNERS to True. Inside HRNet this project does without, so that "
    "predictions differ a little from the authors'."
)

# What computes otherwise than the model of the same name here.
_UNSUPPORTED = {
    r"decode_head\.fusion_conv\.": (
        "It is mmsegmentation's SegformerHead, whose feature maps go through a norm and an "
        "activation each before they are joined; SegFormer's own, the decoder here, has neither. "
        "Convert a checkpoint of https://github.com/NVlabs/SegFormer."
    ),
    r"decode_head\.decoder_1\.": (
        "It is SegViT, whose transformer blocks do without a class token; the models of "
        "VisionTransformerBackbone have one."
    ),
    r"(ocr_distri_head|conv3x3)\.": (
        "It is ProtoSeg's OCRNet, which has a coarse head that OCRHead does not have."
    ),
}

# What to do about keys of a kind.
_HINTS = {
    ("left over of the file", r"^auxiliary_head\."): (
        "For the auxiliary head, set MODEL.AUXILIARY_HEAD.ENABLED to True."
    ),
    ("missing for the model", r"^auxiliary_head\."): (
        "Without an auxiliary head, set MODEL.AUXILIARY_HEAD.ENABLED to False."
    ),
    ("left over of the file", r"^backbone\.norm[0-3]\."): (
        "For the norms of the feature maps, set MODEL.ENCODER.OUTPUT_NORM to True."
    ),
    ("left over of the file", r"^decode_head\.(\d\.)?(apd_)?proj\.[02]\."): (
        "With the authors' context-aware classifier, set MODEL.META_ARCHITECTURE to "
        "'ContextAwareSegmentor'."
    ),
    ("left over of the file", r"^decode_head\.(\d\.)?((gt_)?center_|get_feat_pos\.)"): (
        "With the authors' semantic and spatial adaptive classifier, set MODEL.META_ARCHITECTURE "
        "to 'SemanticSpatialSegmentor'."
    ),
    ("missing for the model", r"^classifier\.projection\."): (
        "Without a projection head, set MODEL.CLASSIFIER.PROTOTYPE.PROJECTION to False."
    ),
    ("left over of the file", r"^proj_head\."): (
        "For the projection head, set MODEL.CLASSIFIER.PROTOTYPE.PROJECTION to True."
    ),
    ("of another shape", r"(conv_seg|linear_pred|mask_norm)\."): (
        "For other classes, set MODEL.SEM_SEG_HEAD.NUM_CLASSES."
    ),
    ("of another shape", r"relative_position_bias_table"): (
        "For another window size, choose the encoder with the file's (MODEL.ENCODER.NAME)."
    ),
}


class _Part(NamedTuple):
    """Keys that begin with ``official`` belong to the module ``ours``, renamed by ``rules``."""

    official: str
    ours: str
    rules: Rules
    rearrange: Rearrange = keep


class _Converted(NamedTuple):
    """A tensor under its new name, and the key it comes from."""

    key: str
    tensor: Tensor


def convert_official_model(state_dict: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Weights of a whole model of the authors' as a state dict of a model of this project.

    Converted are the backbones in ``official_backbones.BACKBONES``, FCNHead, UPerHead, PSPHead,
    DepthwiseSeparableASPPHead, OCRHead, ECEHead and SMPDecoderHead "Segformer", the auxiliary head,
    and the linear, the context-aware, the semantic and spatial, and the prototype classifier.

    Args:
        state_dict: the weights by the authors' names, or a checkpoint that has them under the key
            "state_dict" or "model".
        model: the model of the config that describes the same network; it is not changed.

    Returns:
        A value for every key of ``model.state_dict()``, in its order. Where the file does not have
        the counters ``num_batches_tracked`` of BatchNorm, they are those of ``model``.

    Raises:
        UserError: a network that cannot be converted, or that is not the model's: keys that are
            missing, left over or of another shape; the message lists them.
    """
    weights = official_weights(state_dict)
    _refuse_unsupported(weights)
    names = find_backbone_names(_below(weights, "backbone."))
    is_protoseg = "cls_head.0.weight" in weights
    if is_protoseg:
        logger.warning(_ABOUT_PROTOSEG)
    converted, unknown = _convert(weights, _parts(model, names, is_protoseg))
    return _fit(converted, unknown, model.state_dict())


def convert_official_backbone(
    state_dict: Mapping[str, Tensor], backbone: nn.Module
) -> tuple[dict[str, Tensor], list[str]]:
    """Weights of a backbone, such as those of ImageNet, for MODEL.ENCODER.WEIGHTS.

    Args:
        state_dict: as for ``convert_official_model``; of the backbone alone, or of a whole model.
        backbone: an EncoderBackbone of the same network; it is not changed.

    Returns:
        A value for every key of its encoder, and the keys of the file that it has no place for: a
        classifier, the norms of feature maps, and all that is not of the backbone.

    Raises:
        UserError: the code that the names are of is not known, or there are keys that are missing
            or of another shape; the message lists them.
    """
    weights = official_weights(state_dict)
    prefix = "backbone." if any(key.startswith("backbone.") for key in weights) else ""
    names = find_backbone_names(_below(weights, prefix))
    part = _Part(prefix, "", names.rules, names.rearrange)
    converted, unknown = _convert(weights, [part])
    expected = _encoder(backbone).state_dict()
    unused = [item.key for name, item in converted.items() if name not in expected]
    known = {name: item for name, item in converted.items() if name in expected}
    return _fit(known, [], expected), [*unknown, *unused]


def official_weights(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights in a checkpoint, without DistributedDataParallel's prefix and derived tables.

    Left out are ``relative_position_index`` and ``attn_mask``, which follow from the shape of the
    network, and a predictor of SegFormer's base class that it does not use.
    """
    for key in ("state_dict", "model"):
        if isinstance(state_dict.get(key), Mapping):
            state_dict = state_dict[key]
    weights = {
        key.removeprefix("module."): tensor
        for key, tensor in state_dict.items()
        if isinstance(tensor, Tensor) and not re.fullmatch(_DERIVED, key)
    }
    if "decode_head.linear_pred.weight" in weights:
        weights.pop("decode_head.conv_seg.weight", None)
        weights.pop("decode_head.conv_seg.bias", None)
    return weights


def _refuse_unsupported(weights: Mapping[str, Tensor]) -> None:
    for pattern, reason in _UNSUPPORTED.items():
        if any(re.match(pattern, key) for key in weights):
            raise UserError(f"This checkpoint cannot be converted. {reason}")
    if not any(key.startswith("backbone.") for key in weights):
        raise UserError(
            "This is no checkpoint of a whole model: no key begins with 'backbone.'. Where it is a "
            "backbone, convert it with --backbone-only; where it is a checkpoint of this project, "
            "it needs no conversion."
        )


def _parts(model: nn.Module, names: BackboneNames, is_protoseg: bool) -> list[_Part]:
    """Where which keys belong, in the order in which they are tried."""
    backbone = _module_name(model, _encoder(model.backbone))
    parts = [
        _Part("backbone.", backbone + ".", names.rules, names.rearrange),
        _Part("backbone.", "backbone.output_norms.", names.output_norms),
        _Part("auxiliary_head.", "auxiliary_head.", _FCN | {r"conv_seg": "predictor"}),
    ]
    head = type(model.sem_seg_head).__name__
    if head not in _HEADS:
        raise UserError(
            f"MODEL.SEM_SEG_HEAD.NAME: no checkpoints are converted for {head}, only for "
            f"{', '.join(_HEADS)}."
        )
    prefix, rules = "decode_head.", _HEADS[head]
    if head == "OCRHead":
        prefix = "decode_head.1."
        parts.append(_Part("decode_head.0.", "sem_seg_head.", _COARSE, _norm_names))
    elif is_protoseg:
        prefix, rules = "", _PROTOSEG_HEAD
    parts.append(_Part(prefix, "sem_seg_head.", rules, _norm_names))
    classifier = type(getattr(model, "classifier", None)).__name__
    if classifier in _CLASSIFIERS:
        parts.append(_Part(prefix, "classifier.", _CLASSIFIERS[classifier]))
    return parts


def _encoder(backbone: nn.Module) -> nn.Module:
    """What has the names of timm or smp; timm's encoders are one level down."""
    if not hasattr(backbone, "encoder"):
        raise UserError(
            f"The backbone of this config is a {type(backbone).__name__}; checkpoints are "
            "converted for EncoderBackbone. Set MODEL.BACKBONE.NAME to 'EncoderBackbone'."
        )
    return getattr(backbone.encoder, "model", backbone.encoder)


def _module_name(model: nn.Module, module: nn.Module) -> str:
    return next(name for name, other in model.named_modules() if other is module)


def _below(weights: Iterable[str], prefix: str) -> list[str]:
    return [key.removeprefix(prefix) for key in weights if key.startswith(prefix)]


def _norm_names(name: str, tensor: Tensor) -> dict[str, Tensor]:
    """mmsegmentation's ConvModule calls "bn" what ConvNormActivation calls "norm"."""
    return {name.replace(".bn.", ".norm."): tensor}


def _convert(
    weights: Mapping[str, Tensor], parts: Iterable[_Part]
) -> tuple[dict[str, _Converted], list[str]]:
    """All tensors that have a place, by their new names, and the keys of the others."""
    converted, unknown = {}, []
    for key, tensor in weights.items():
        for part in parts:
            name = key.startswith(part.official) and rename(
                key.removeprefix(part.official), part.rules
            )
            if name:
                pieces = part.rearrange(part.ours + name, tensor)
                converted |= {piece: _Converted(key, pieces[piece]) for piece in pieces}
                break
        else:
            unknown.append(key)
    _fold_bias(converted, "sem_seg_head.convs.0.bias", "sem_seg_head.convs.1.running_mean")
    return converted, unknown


def _fold_bias(converted: dict[str, _Converted], bias: str, mean: str) -> None:
    """Put a convolution's bias into the mean of the BatchNorm behind it, which takes it away."""
    if bias in converted and mean in converted:
        key, running_mean = converted[mean]
        converted[mean] = _Converted(key, running_mean - converted.pop(bias).tensor)


def _fit(
    converted: Mapping[str, _Converted], unknown: list[str], expected: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The converted tensors in the order of the ``expected`` ones.

    Raises:
        UserError: they are not those.
    """
    left_over = [*unknown, *(item.key for name, item in converted.items() if name not in expected)]
    problems = {
        "left over of the file": left_over,
        "missing for the model": [
            name for name in expected if name not in converted and not name.endswith(_COUNTER)
        ],
        "of another shape": [
            f"{converted[name].key} (file {tuple(converted[name].tensor.shape)}, model "
            f"{tuple(tensor.shape)})"
            for name, tensor in expected.items()
            if name in converted and converted[name].tensor.shape != tensor.shape
        ],
    }
    if any(problems.values()):
        details = "; ".join(
            f"{len(keys)} {problem}: {_some(keys)}" for problem, keys in problems.items() if keys
        )
        raise UserError(
            f"The checkpoint is not of the network that the config describes. {details}."
            f"{_hints(problems)}"
        )
    return {
        name: converted[name].tensor if name in converted else tensor.clone()
        for name, tensor in expected.items()
    }


def _hints(problems: Mapping[str, list[str]]) -> str:
    return "".join(
        f" {hint}"
        for (problem, pattern), hint in _HINTS.items()
        if any(re.search(pattern, key) for key in problems[problem])
    )


def _some(keys: list[str], count: int = 20) -> str:
    more = f" and {len(keys) - count} more" if len(keys) > count else ""
    return ", ".join(keys[:count]) + more
