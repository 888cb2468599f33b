"""Makes the files that the registered datasets need from the official archives.

The scripts ``datasets/prepare_*.py`` say which files; here is what they have in common.
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
