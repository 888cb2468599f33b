"""Of Detectron2's DeepLab project: its config keys and its poly schedule."""

from .build_solver import build_lr_scheduler
from .config import add_deeplab_config

__all__ = ["add_deeplab_config", "build_lr_scheduler"]
