"""Set-up, optimizers, training."""

from .class_weights import balance_classes
from .launch import launch_or_join
from .run_folder import keep_imports, settle_seed, take_run_folder
from .setup import setup_config
from .trainer import Trainer

__all__ = [
    "Trainer",
    "balance_classes",
    "keep_imports",
    "launch_or_join",
    "settle_seed",
    "setup_config",
    "take_run_folder",
]
