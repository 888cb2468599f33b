"""Reading, writing and conversion of checkpoints."""

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
from .temperature_file import (
    FittedTemperature,
    copy_temperatures,
    read_temperatures,
    temperature_file,
    write_temperatures,
)

__all__ = [
    "Checkpointer",
    "FittedTemperature",
    "convert_official_state_dict",
    "copy_temperatures",
    "load_weights",
    "peek_checkpoint",
    "read_checkpoint",
    "read_state_dict",
    "read_temperatures",
    "strip_training_only",
    "temperature_file",
    "training_only_modules",
    "write_temperatures",
]
