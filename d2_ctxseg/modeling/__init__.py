"""Meta-architectures, heads and backbones, registered in Detectron2."""

from .backbones import EncoderBackbone, VisionTransformerBackbone
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
from .inference import (
    LabelMapPredictor,
    SemanticSegmentorWithTTA,
    Temperatures,
    TestTimeAugmentation,
)
from .segmentors import (
    ContextAwareSegmentor,
    ExplicitClassSegmentor,
    FeatureBankSegmentor,
    GaussianMixtureSegmentor,
    LearnedPrototypeSegmentor,
    LinearSegmentor,
    PixelClassifierSegmentor,
    PrototypeSegmentor,
    SemanticSpatialSegmentor,
    WholeHeadSegmentor,
)

__all__ = [
    "AuxiliaryFCNHead",
    "ContextAwareSegmentor",
    "DepthwiseSeparableASPPHead",
    "ECEHead",
    "EncoderBackbone",
    "ExplicitClassSegmentor",
    "FCNHead",
    "FeatureBankSegmentor",
    "GaussianMixtureSegmentor",
    "LabelMapPredictor",
    "LearnedPrototypeSegmentor",
    "LinearSegmentor",
    "OCRHead",
    "PSPHead",
    "PixelClassifierSegmentor",
    "PrototypeSegmentor",
    "SMPDecoderHead",
    "SegViTHead",
    "SemSegHead",
    "SemanticSegmentorWithTTA",
    "SemanticSpatialSegmentor",
    "Temperatures",
    "TestTimeAugmentation",
    "UPerHead",
    "VisionTransformerBackbone",
    "WholeHeadSegmentor",
    "take_predictor",
]
