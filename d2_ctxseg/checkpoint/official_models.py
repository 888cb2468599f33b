"""Convert published weights of whole models and backbones to the names of this project.

The models are those of mmsegmentation and of code built on it, such as CAC
(https://github.com/tianzhuotao/CAC), of SegFormer (https://github.com/NVlabs/SegFormer) and of
ProtoSeg (https://github.com/tfzhou/ProtoSeg). The models of mmsegmentation and SegFormer take RGB
images, normalised as in the configs of this project. ProtoSeg takes BGR images, normalised with the
mean and standard deviation of RGB.
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

# Buffers that follow from the shape of the network. Models of this project do not store them.
_DERIVED = r"(?:.*\.)?(?:relative_position_index|attn_mask)"
# BatchNorm's counter of training steps. Old checkpoints do not have it.
_COUNTER = "num_batches_tracked"


def _fcn_layer(number: int):
    """The index of a convolution, its norm and its activation in FCNHead's nn.Sequential."""
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
# Head -> the authors' module names -> ours, without the classifier. "bn" becomes "norm" below.
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
        # The decoder's order is from the deepest feature map to the shallowest.
        r"linear_c([1-4])\.proj": lambda match: f"decoder.mlp_stage.{4 - int(match[1])}.linear",
        r"linear_fuse\.conv": "decoder.fuse_stage.0",
        r"linear_fuse\.bn": "decoder.fuse_stage.1",
    },
    "ECEHead": EXPLICIT_CLASS_NAMES,
}
# The first head of OCRNet's cascade.
_COARSE = {r"convs\.0": "coarse.conv", r"conv_seg": "coarse.predictor"}
# ProtoSeg's models have no common prefix for the head.
_PROTOSEG_HEAD = {r"cls_head\.0": "convs.0", r"cls_head\.1\.0": "convs.1"}
_CLASSIFIERS = {
    "LinearClassifier": {r"conv_seg|linear_pred": "predictor"},
    "ContextAwareClassifier": CONTEXT_AWARE_NAMES,
    "SemanticSpatialClassifier": SEMANTIC_SPATIAL_NAMES,
    "PrototypeClassifier": PROTOTYPE_NAMES,
}

_ABOUT_PROTOSEG = (
    "ProtoSeg's models take BGR images, normalised with the mean and standard deviation of RGB: "
    "set INPUT.FORMAT to 'BGR', MODEL.PIXEL_MEAN to [123.675, 116.28, 103.53] and MODEL.PIXEL_STD "
    "to [58.395, 57.12, 57.375]. They resize feature maps with align_corners: set "
    "MODEL.CLASSIFIER.ALIGN_CORNERS to True. This project's HRNet resizes without align_corners, "
    "so predictions differ slightly from the authors'."
)

# Networks that compute something else than the network of the same name in this project.
_UNSUPPORTED = {
    r"decode_head\.fusion_conv\.": (
        "It is mmsegmentation's SegformerHead, which applies a norm and an activation to each "
        "feature map before it concatenates them. SegFormer's original decoder, which this project "
        "has, does not. Convert a checkpoint of https://github.com/NVlabs/SegFormer."
    ),
    r"decode_head\.decoder_1\.": (
        "It is SegViT, whose transformer blocks have no class token; the models of "
        "VisionTransformerBackbone have one."
    ),
    r"(ocr_distri_head|conv3x3)\.": (
        "It is ProtoSeg's OCRNet, which has a coarse head that OCRHead does not have."
    ),
}

# (kind of problem, pattern of a key) -> what to do about it.
_HINTS = {
    ("not used from the file", r"^auxiliary_head\."): (
        "The file has an auxiliary head: set MODEL.AUXILIARY_HEAD.ENABLED to True."
    ),
    ("missing for the model", r"^auxiliary_head\."): (
        "The file has no auxiliary head: set MODEL.AUXILIARY_HEAD.ENABLED to False."
    ),
    ("not used from the file", r"^backbone\.norm[0-3]\."): (
        "The file has norms for the feature maps: set MODEL.ENCODER.OUTPUT_NORM to True."
    ),
    ("not used from the file", r"^decode_head\.(\d\.)?(apd_)?proj\.[02]\."): (
        "The file has the context-aware classifier: set MODEL.META_ARCHITECTURE to "
        "'ContextAwareSegmentor'."
    ),
    ("not used from the file", r"^decode_head\.(\d\.)?((gt_)?center_|get_feat_pos\.)"): (
        "The file has the semantic and spatial adaptive classifier: set MODEL.META_ARCHITECTURE "
        "to 'SemanticSpatialSegmentor'."
    ),
    ("missing for the model", r"^classifier\.projection\."): (
        "The file has no projection head: set MODEL.CLASSIFIER.PROTOTYPE.PROJECTION to False."
    ),
    ("not used from the file", r"^proj_head\."): (
        "The file has a projection head: set MODEL.CLASSIFIER.PROTOTYPE.PROJECTION to True."
    ),
    ("of another shape", r"(conv_seg|linear_pred|mask_norm)\."): (
        "If the number of classes differs, set MODEL.SEM_SEG_HEAD.NUM_CLASSES."
    ),
    ("of another shape", r"relative_position_bias_table"): (
        "If the window size differs, set MODEL.ENCODER.NAME to an encoder with the file's."
    ),
}


class _Module(NamedTuple):
    """A module: its prefix in the authors' code and in ours, and the rules for names below."""

    official: str
    ours: str
    rules: Rules
    rearrange: Rearrange = keep


class _Converted(NamedTuple):
    """A converted tensor, and the key of the file that it comes from."""

    key: str
    tensor: Tensor


def convert_official_model(state_dict: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Convert the weights of a published model to a state dict of a model of this project.

    Supported are the backbones in ``official_backbones.BACKBONES``; the heads FCNHead, UPerHead,
    PSPHead, DepthwiseSeparableASPPHead, OCRHead, ECEHead and SMPDecoderHead "Segformer"; the
    auxiliary head; and the linear, context-aware, semantic and spatial, and prototype classifiers.

    Args:
        state_dict: the weights under the authors' names, or a checkpoint with them as the entry
            "state_dict" or "model".
        model: the model built from a config of the same network; it is not changed.

    Returns:
        A tensor for every key of ``model.state_dict()``, in its order. Counters
        ``num_batches_tracked`` of BatchNorm that the file lacks are taken from ``model``.

    Raises:
        UserError: the network is not supported or is not the model's: keys are missing, unused or
            of another shape. The message lists them.
    """
    weights = official_weights(state_dict)
    _refuse_unsupported(weights)
    names = find_backbone_names(_below(weights, "backbone."))
    is_protoseg = "cls_head.0.weight" in weights
    if is_protoseg:
        logger.warning(_ABOUT_PROTOSEG)
    converted, unknown = _convert(weights, _modules(model, names, is_protoseg))
    return _fit(converted, unknown, model.state_dict())


def convert_official_backbone(
    state_dict: Mapping[str, Tensor], backbone: nn.Module
) -> tuple[dict[str, Tensor], list[str]]:
    """Convert weights of a backbone, such as ImageNet weights, for MODEL.ENCODER.WEIGHTS.

    Args:
        state_dict: the weights of the backbone or of a whole model, in a format of
            :func:`convert_official_model`.
        backbone: an EncoderBackbone of the same network; it is not changed.

    Returns:
        A state dict of the encoder, and the unused keys of the file: those of a classifier, of
        norms of feature maps, and of other modules than the backbone.

    Raises:
        UserError: the backbone is not supported, or keys are missing or of another shape. The
            message lists them.
    """
    weights = official_weights(state_dict)
    prefix = "backbone." if any(key.startswith("backbone.") for key in weights) else ""
    names = find_backbone_names(_below(weights, prefix))
    encoder = _Module(prefix, "", names.rules, names.rearrange)
    converted, unknown = _convert(weights, [encoder])
    expected = _encoder(backbone).state_dict()
    unused = [item.key for name, item in converted.items() if name not in expected]
    known = {name: item for name, item in converted.items() if name in expected}
    return _fit(known, [], expected), [*unknown, *unused]


def official_weights(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights in a checkpoint, without DistributedDataParallel's prefix.

    ``relative_position_index`` and ``attn_mask``, which follow from the shape of the network, are
    left out. So is the predictor of the base class of SegFormer's head, which is unused.
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
            "This is not a checkpoint of a whole model: no key begins with 'backbone.'. If it is a "
            "backbone, convert it with --backbone-only; if it is a checkpoint of this project, it "
            "needs no conversion."
        )


def _modules(model: nn.Module, names: BackboneNames, is_protoseg: bool) -> list[_Module]:
    """The modules of the model, in the order in which a key's module is searched."""
    backbone = _module_name(model, _encoder(model.backbone))
    modules = [
        _Module("backbone.", backbone + ".", names.rules, names.rearrange),
        _Module("backbone.", "backbone.output_norms.", names.output_norms),
        _Module("auxiliary_head.", "auxiliary_head.", _FCN | {r"conv_seg": "predictor"}),
    ]
    head = type(model.sem_seg_head).__name__
    if head not in _HEADS:
        raise UserError(
            f"MODEL.SEM_SEG_HEAD.NAME: checkpoints cannot be converted for {head}, only for "
            f"{', '.join(_HEADS)}."
        )
    prefix, rules = "decode_head.", _HEADS[head]
    if head == "OCRHead":
        prefix = "decode_head.1."
        modules.append(_Module("decode_head.0.", "sem_seg_head.", _COARSE, _norm_names))
    elif is_protoseg:
        prefix, rules = "", _PROTOSEG_HEAD
    modules.append(_Module(prefix, "sem_seg_head.", rules, _norm_names))
    classifier = type(getattr(model, "classifier", None)).__name__
    if classifier in _CLASSIFIERS:
        modules.append(_Module(prefix, "classifier.", _CLASSIFIERS[classifier]))
    return modules


def _encoder(backbone: nn.Module) -> nn.Module:
    """The module with timm's or smp's names; timm's encoders are wrapped once more."""
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
    """Rename "bn" of mmsegmentation's ConvModule to "norm" of ConvNormActivation."""
    return {name.replace(".bn.", ".norm."): tensor}


def _convert(
    weights: Mapping[str, Tensor], modules: Iterable[_Module]
) -> tuple[dict[str, _Converted], list[str]]:
    """New name -> converted tensor, and the keys that no rule matches."""
    converted, unknown = {}, []
    for key, tensor in weights.items():
        for module in modules:
            name = key.startswith(module.official) and rename(
                key.removeprefix(module.official), module.rules
            )
            if name:
                tensors = module.rearrange(module.ours + name, tensor)
                converted |= {name: _Converted(key, value) for name, value in tensors.items()}
                break
        else:
            unknown.append(key)
    _fold_bias(converted, "sem_seg_head.convs.0.bias", "sem_seg_head.convs.1.running_mean")
    return converted, unknown


def _fold_bias(converted: dict[str, _Converted], bias: str, mean: str) -> None:
    """Fold a convolution's bias into the running mean of the BatchNorm that follows it."""
    if bias in converted and mean in converted:
        key, running_mean = converted[mean]
        converted[mean] = _Converted(key, running_mean - converted.pop(bias).tensor)


def _fit(
    converted: Mapping[str, _Converted], unknown: list[str], expected: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The converted tensors in the order of the ``expected`` ones.

    Raises:
        UserError: the keys or shapes differ from the expected ones.
    """
    unused = [*unknown, *(item.key for name, item in converted.items() if name not in expected)]
    problems = {
        "not used from the file": unused,
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
            f"The checkpoint does not fit the network of the config. {details}.{_hints(problems)}"
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
