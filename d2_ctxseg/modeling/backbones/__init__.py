"""Backbones: encoders of segmentation-models-pytorch and timm, and plain vision transformers."""

from .encoder import EncoderBackbone
from .vision_transformer import VisionTransformerBackbone

__all__ = ["EncoderBackbone", "VisionTransformerBackbone"]
