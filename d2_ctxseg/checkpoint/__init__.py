"""Checkpoints: reading, writing, and the names that the authors of the papers gave."""

from .checkpointer import (
    Checkpointer,
    load_weights,
    peek_checkpoint,
    read_checkpoint,
    read_state_dict,
    strip_training_only,
    training_only_modules,
)
from .official_checkpoints import convert_official_state_dict

__all__ = [
    "Checkpointer",
    "convert_official_state_dict",
    "load_weights",
    "peek_checkpoint",
    "read_checkpoint",
    "read_state_dict",
    "strip_training_only",
    "training_only_modules",
]
