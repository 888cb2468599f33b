"""Semantic segmentation heads and the contract they keep."""

from .aspp import DepthwiseSeparableASPPHead
from .base import SemSegHead, classifies_by_itself, take_predictor
from .ece import ECEHead, ECEPrediction
from .fcn import AuxiliaryFCNHead, FCNHead
from .ocr import OCRHead
from .psp import PSPHead
from .segvit import SegViTHead
from .smp_decoder import SMPDecoderHead
from .uper import UPerHead

__all__ = [
    "AuxiliaryFCNHead",
    "DepthwiseSeparableASPPHead",
    "ECEHead",
    "ECEPrediction",
    "FCNHead",
    "OCRHead",
    "PSPHead",
    "SMPDecoderHead",
    "SegViTHead",
    "SemSegHead",
    "UPerHead",
    "classifies_by_itself",
    "take_predictor",
]
