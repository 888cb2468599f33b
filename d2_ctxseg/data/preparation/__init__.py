"""Create the files of the registered datasets from the official archives.

This package is the common part of the scripts ``datasets/prepare_*.py``.
"""

from ..labels import read_label
from .command import Archive, Split, preparation_parser, prepare_dataset, prepare_pairs
from .files import ImageFile, LabelFile, Pair
from .sources import (
    class_indices,
    draw_segments,
    matlab_reader,
    read_ade20k_objects,
    read_pascal_in_detail,
    read_source_ids,
)

__all__ = [
    "Archive",
    "ImageFile",
    "LabelFile",
    "Pair",
    "Split",
    "draw_segments",
    "class_indices",
    "matlab_reader",
    "preparation_parser",
    "prepare_dataset",
    "prepare_pairs",
    "read_ade20k_objects",
    "read_label",
    "read_pascal_in_detail",
    "read_source_ids",
]
