"""Set-up, optimizers, training."""

from .class_weights import balance_classes
from .launch import launch_or_join
from .setup import refuse_used_folder, setup_config
from .trainer import Trainer

__all__ = ["Trainer", "balance_classes", "launch_or_join", "refuse_used_folder", "setup_config"]
