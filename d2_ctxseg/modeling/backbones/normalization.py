"""The normalisation of images that an encoder's pretrained weights expect.

MODEL.PIXEL_MEAN and MODEL.PIXEL_STD are the encoder's unless the config states its own. They are
the same with pretrained and with random weights, because evaluation does not fetch weights and must
normalise as training did.
"""

import logging
import re
from collections.abc import Container, Sequence
from contextlib import suppress
from typing import NamedTuple

import numpy as np
import timm
from fvcore.common.config import CfgNode
from timm.data.constants import (
    IMAGENET_DEFAULT_MEAN,
    IMAGENET_DEFAULT_STD,
    IMAGENET_DPN_MEAN,
    IMAGENET_DPN_STD,
    IMAGENET_INCEPTION_MEAN,
    IMAGENET_INCEPTION_STD,
)

KEYS = ("PIXEL_MEAN", "PIXEL_STD")
_BACKBONES = ("EncoderBackbone", "VisionTransformerBackbone")

_IMAGENET = (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
_INCEPTION = (IMAGENET_INCEPTION_MEAN, IMAGENET_INCEPTION_STD)
# For segmentation-models-pytorch's own encoders, by "name weights"; all others have ImageNet's
# values. The library's get_preprocessing_params() needs the network, which evaluation must not.
# The values are those of version 0.3.4 and of pretrainedmodels 0.7.4.
_SMP = {
    r"dpn\d.*": (IMAGENET_DPN_MEAN, IMAGENET_DPN_STD),
    r"(inception|xception|timm-tf_efficientnet_lite).*": _INCEPTION,
    r"\S+ advprop": _INCEPTION,
}
# Tolerance in grey levels: a config may round its numbers.
_TOLERANCE = 1.0

logger = logging.getLogger(__name__)


class Normalization(NamedTuple):
    """Mean and standard deviation of each channel, in grey levels from 0 to 255."""

    mean: list[float]
    std: list[float]


def has_encoder(cfg: CfgNode) -> bool:
    """Whether the backbone is one with an encoder of segmentation-models-pytorch or timm."""
    return cfg.MODEL.BACKBONE.NAME in _BACKBONES


def encoder_normalization(cfg: CfgNode) -> Normalization:
    """The normalisation of the pretrained weights of MODEL.ENCODER, in the order of INPUT.FORMAT.

    For timm's encoders it is that of ``pretrained_cfg``, of the config's tag or the default one.
    For segmentation-models-pytorch's own encoders it is that of the config's weights or of
    "imagenet". For unknown encoders it is ImageNet's.
    """
    encoder = cfg.MODEL.ENCODER
    if cfg.MODEL.BACKBONE.NAME == "VisionTransformerBackbone":
        name = encoder.NAME.removeprefix("tu-")
        # There the weights may be another tag of timm's.
        mean, std = _of_timm(f"{name.partition('.')[0]}.{encoder.WEIGHTS}", name)
    elif encoder.NAME.startswith("tu-"):
        mean, std = _of_timm(encoder.NAME.removeprefix("tu-"))
    else:
        mean, std = _of_smp(encoder.NAME, encoder.WEIGHTS)
    # Rounded, so that 0.485 becomes 123.675 and not 123.67499999999998.
    values = ([round(255 * value, 6) for value in row] for row in (mean, std))
    if cfg.INPUT.FORMAT == "BGR":
        values = (row[::-1] for row in values)
    return Normalization(*values)


def complete_normalization(cfg: CfgNode, stated: Container[str]) -> None:
    """Set the encoder's mean and standard deviation unless the config states its own.

    Args:
        cfg: changed in place, if its backbone has an encoder of segmentation-models-pytorch or
            timm.
        stated: those of ``KEYS`` that the config states itself.
    """
    if not has_encoder(cfg):
        return
    for key, values in zip(KEYS, encoder_normalization(cfg)):
        if key not in stated:
            cfg.MODEL[key] = values


def compare_normalization(cfg: CfgNode) -> None:
    """Log the normalisation, or warn where it is not that of the pretrained weights.

    Nothing is logged where the encoder starts from random weights, nor in evaluation, where the
    whole model was trained with the normalisation of the config.
    """
    encoder, stated = cfg.MODEL.ENCODER, Normalization(cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD)
    if not encoder.WEIGHTS:
        return
    if len(stated.mean) != 3:
        logger.info(
            "Images have %d channels: the first convolution of encoder '%s' starts from its "
            "pretrained weights for 3 channels, repeated and scaled as in timm",
            *(len(stated.mean), encoder.NAME),
        )
        return
    expected = encoder_normalization(cfg)
    if all(_are_close(ours, theirs) for ours, theirs in zip(stated, expected)):
        logger.info(
            "Images (%s) are normalised as the pretrained weights of encoder '%s' expect: mean %s, "
            "standard deviation %s",
            *(cfg.INPUT.FORMAT, encoder.NAME, stated.mean, stated.std),
        )
        return
    logger.warning(
        "Images (%s) are normalised with MODEL.PIXEL_MEAN %s and MODEL.PIXEL_STD %s, but the "
        "pretrained weights of encoder '%s' expect mean %s and standard deviation %s. Remove both "
        "keys from the config to use these.",
        *(cfg.INPUT.FORMAT, stated.mean, stated.std, encoder.NAME, expected.mean, expected.std),
    )


def _of_timm(*names: str) -> tuple[Sequence[float], Sequence[float]]:
    """Mean and deviation, from 0 to 1 in RGB, of the first of these names that timm knows."""
    # An unknown tag is refused when the encoder is built.
    for name in (*names, names[-1].partition(".")[0]):
        with suppress(RuntimeError):
            settings = timm.get_pretrained_cfg(name)
            if settings and len(settings.mean or ()) == len(settings.std or ()) == 3:
                return settings.mean, settings.std
    return _IMAGENET


def _of_smp(name: str, weights: str) -> tuple[Sequence[float], Sequence[float]]:
    for pattern, values in _SMP.items():
        if re.fullmatch(pattern, f"{name} {weights}"):
            return values
    return _IMAGENET


def _are_close(ours: Sequence[float], theirs: Sequence[float]) -> bool:
    return len(ours) == len(theirs) and np.allclose(ours, theirs, rtol=0, atol=_TOLERANCE)
