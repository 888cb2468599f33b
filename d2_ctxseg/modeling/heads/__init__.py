"""Semantic segmentation heads and the contract they keep."""

from .base import SemSegHead, take_predictor
from .fcn import AuxiliaryFCNHead
from .smp_decoder import SMPDecoderHead

__all__ = ["AuxiliaryFCNHead", "SMPDecoderHead", "SemSegHead", "take_predictor"]
