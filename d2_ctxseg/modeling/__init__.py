"""Meta-architectures, heads and backbones, registered in Detectron2."""

from .backbone import EncoderBackbone
from .heads import (
    AuxiliaryFCNHead,
    DepthwiseSeparableASPPHead,
    ECEHead,
    FCNHead,
    OCRHead,
    PSPHead,
    SegViTHead,
    SemSegHead,
    SMPDecoderHead,
    UPerHead,
    take_predictor,
)
from .label_map_prediction import LabelMapPredictor
from .segmentors import (
    ContextAwareSegmentor,
    ExplicitClassSegmentor,
    LinearSegmentor,
    PixelClassifierSegmentor,
    PrototypeSegmentor,
    WholeHeadSegmentor,
)
from .test_time_augmentation import SemanticSegmentorWithTTA, TestTimeAugmentation
from .vision_transformer import VisionTransformerBackbone

__all__ = [
    "AuxiliaryFCNHead",
    "ContextAwareSegmentor",
    "DepthwiseSeparableASPPHead",
    "ECEHead",
    "EncoderBackbone",
    "ExplicitClassSegmentor",
    "FCNHead",
    "LabelMapPredictor",
    "LinearSegmentor",
    "OCRHead",
    "PSPHead",
    "PixelClassifierSegmentor",
    "PrototypeSegmentor",
    "SMPDecoderHead",
    "SegViTHead",
    "SemSegHead",
    "SemanticSegmentorWithTTA",
    "TestTimeAugmentation",
    "UPerHead",
    "VisionTransformerBackbone",
    "WholeHeadSegmentor",
    "take_predictor",
]
