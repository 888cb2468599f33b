"""Configs and trained models by name, similar to ``detectron2.model_zoo``."""

from ..engine.config_files import config_names, get_config_file
from .hub import from_pretrained, push_to_hub, save_pretrained
from .load import is_hub_id, load_segmentor, trained_config
from .model_zoo import get, get_checkpoint_path, get_config
from .trained_models import TRAINED_FOLDER, TrainedModel, read_trained_models

__all__ = [
    "TRAINED_FOLDER",
    "TrainedModel",
    "config_names",
    "get",
    "get_checkpoint_path",
    "get_config",
    "get_config_file",
    "from_pretrained",
    "is_hub_id",
    "load_segmentor",
    "push_to_hub",
    "read_trained_models",
    "save_pretrained",
    "trained_config",
]
