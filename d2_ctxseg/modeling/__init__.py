"""Meta-architectures, heads and backbones, registered in Detectron2."""

from .backbone import EncoderBackbone
from .heads import AuxiliaryFCNHead, SemSegHead, SMPDecoderHead, take_predictor
from .segmentors import ContextAwareSegmentor, LinearSegmentor, PixelClassifierSegmentor
from .test_time_augmentation import SemanticSegmentorWithTTA

__all__ = [
    "AuxiliaryFCNHead",
    "ContextAwareSegmentor",
    "EncoderBackbone",
    "LinearSegmentor",
    "PixelClassifierSegmentor",
    "SMPDecoderHead",
    "SemSegHead",
    "SemanticSegmentorWithTTA",
    "take_predictor",
]
