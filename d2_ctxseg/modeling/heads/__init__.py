"""Semantic segmentation heads and the contract they keep."""

from .base import SemSegHead, classifies_by_itself, take_predictor
from .ece import ECEHead, ECEPrediction
from .fcn import AuxiliaryFCNHead
from .segvit import SegViTHead
from .smp_decoder import SMPDecoderHead

__all__ = [
    "AuxiliaryFCNHead",
    "ECEHead",
    "ECEPrediction",
    "SMPDecoderHead",
    "SegViTHead",
    "SemSegHead",
    "classifies_by_itself",
    "take_predictor",
]
