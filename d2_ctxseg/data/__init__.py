"""Datasets, their checks, and the dataset mapper."""

from .augmentation import (
    BrightnessShift,
    PadToSize,
    PhotometricDistortion,
    RandomFlip,
    ResizeRatioRange,
)
from .check import CheckReport, check_dataset
from .color_labels import convert_color_labels
from .context_shapes import ContextShapesOptions, generate_context_shapes
from .crop import ResizeAndCrop
from .description_reader import read_folder_dataset
from .descriptions import metadata_of, register_datasets_of
from .errors import DatasetError
from .folder_dataset import FolderDataset
from .labels import LabelFormat, check_label_values, check_same_size, read_label
from .mapper import SemanticSegmentorMapper, build_augmentations, label_formats
from .palette import generate_palette
from .registration import (
    dataset_names,
    folder_dataset_of,
    generate_missing,
    register_builtin_datasets,
    register_folder_dataset,
    register_folder_datasets,
    unshared_names,
)
from .resize import ResizeForTest

__all__ = [
    "BrightnessShift",
    "CheckReport",
    "ContextShapesOptions",
    "DatasetError",
    "FolderDataset",
    "LabelFormat",
    "PadToSize",
    "PhotometricDistortion",
    "RandomFlip",
    "ResizeAndCrop",
    "ResizeRatioRange",
    "ResizeForTest",
    "SemanticSegmentorMapper",
    "build_augmentations",
    "check_dataset",
    "check_label_values",
    "check_same_size",
    "convert_color_labels",
    "dataset_names",
    "folder_dataset_of",
    "generate_context_shapes",
    "generate_missing",
    "generate_palette",
    "label_formats",
    "metadata_of",
    "read_folder_dataset",
    "read_label",
    "register_builtin_datasets",
    "register_datasets_of",
    "register_folder_dataset",
    "register_folder_datasets",
    "unshared_names",
]
