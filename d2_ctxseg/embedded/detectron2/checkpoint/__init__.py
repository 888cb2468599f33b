"""Checkpoints: weights and the state of a training, in a file."""

from fvcore.common.checkpoint import Checkpointer, PeriodicCheckpointer

from .._coverage import module_getattr
from .detection_checkpoint import DetectionCheckpointer

__all__ = ["Checkpointer", "DetectionCheckpointer", "PeriodicCheckpointer"]

__getattr__ = module_getattr(__name__)
