"""Meta-architectures, heads and backbones, registered in Detectron2."""

from .backbone import EncoderBackbone
from .heads import (
    AuxiliaryFCNHead,
    ECEHead,
    SegViTHead,
    SemSegHead,
    SMPDecoderHead,
    take_predictor,
)
from .segmentors import (
    ContextAwareSegmentor,
    ExplicitClassSegmentor,
    LinearSegmentor,
    PixelClassifierSegmentor,
    PrototypeSegmentor,
)
from .test_time_augmentation import SemanticSegmentorWithTTA
from .vision_transformer import VisionTransformerBackbone

__all__ = [
    "AuxiliaryFCNHead",
    "ContextAwareSegmentor",
    "ECEHead",
    "EncoderBackbone",
    "ExplicitClassSegmentor",
    "LinearSegmentor",
    "PixelClassifierSegmentor",
    "PrototypeSegmentor",
    "SMPDecoderHead",
    "SegViTHead",
    "SemSegHead",
    "SemanticSegmentorWithTTA",
    "VisionTransformerBackbone",
    "take_predictor",
]
