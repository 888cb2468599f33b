"""Datasets, their catalogs, samplers and data loaders."""

from . import transforms
from .build import (
    build_detection_test_loader,
    build_detection_train_loader,
    get_detection_dataset_dicts,
)
from .catalog import DatasetCatalog, MetadataCatalog

__all__ = [
    "DatasetCatalog",
    "MetadataCatalog",
    "build_detection_test_loader",
    "build_detection_train_loader",
    "get_detection_dataset_dicts",
    "transforms",
]
