"""Set-up, optimizers, training."""

from .launch import launch_or_join
from .setup import refuse_used_folder, setup_config
from .trainer import Trainer

__all__ = ["Trainer", "launch_or_join", "refuse_used_folder", "setup_config"]
