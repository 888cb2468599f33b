"""Create the files of the registered datasets from the official archives.

``command``, ``files`` and ``sources`` are the common part; each other module is one dataset.
"""

from ..labels import read_label
from .command import Archive, Split, prepare_dataset, prepare_pairs
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
    "prepare_dataset",
    "prepare_pairs",
    "read_ade20k_objects",
    "read_label",
    "read_pascal_in_detail",
    "read_source_ids",
]
