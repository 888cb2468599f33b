"""A segmentor put together from its parts, without a config."""

from collections.abc import Sequence

from torch import nn

from ..classifiers import PixelClassifier
from ..utils.errors import UserError
from .heads import take_predictor
from .segmentors import PixelClassifierSegmentor


def compose_segmentor(
    *,
    backbone: nn.Module,
    sem_seg_head: nn.Module,
    classifier: PixelClassifier,
    pixel_mean: Sequence[float],
    pixel_std: Sequence[float],
    **options,
) -> PixelClassifierSegmentor:
    """The segmentor of a backbone, a head and a classifier, for Detectron2's LazyConfig and others.

    Args:
        backbone: image to feature maps.
        sem_seg_head: a head with its predictor, which is taken out.
        classifier: a classifier with the predictor's numbers of channels and classes.
        pixel_mean, pixel_std: one value a channel, in the order of the images' channels.
        options: further arguments of PixelClassifierSegmentor.

    Raises:
        UserError: the head has no 1x1 convolution to take out, or the classifier does not fit it.
    """
    predictor = take_predictor(sem_seg_head)
    found = classifier.in_channels, classifier.num_classes
    if found != (predictor.in_channels, predictor.out_channels):
        raise UserError(
            f"The classifier has in_channels {found[0]} and num_classes {found[1]}, but the head "
            f"gives {predictor.in_channels} channels and {predictor.out_channels} classes."
        )
    return PixelClassifierSegmentor(
        backbone=backbone,
        sem_seg_head=sem_seg_head,
        classifier=classifier,
        pixel_mean=tuple(pixel_mean),
        pixel_std=tuple(pixel_std),
        **options,
    )
