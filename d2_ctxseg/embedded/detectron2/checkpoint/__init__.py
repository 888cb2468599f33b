"""Checkpoints: weights and the state of a training, in a file."""

from .detection_checkpoint import DetectionCheckpointer

__all__ = ["DetectionCheckpointer"]
