"""Prepare a dataset from its official archives: bring them to the layout that is read here."""

import argparse

from ..data.folder_dataset import datasets_root
from ..data.preparation import (
    ade20k,
    ade20k_full,
    camvid,
    cityscapes,
    clothing_co_parsing,
    coco_stuff_10k,
    coco_stuff_164k,
    context_shapes,
    pascal_context,
)

PREPARATIONS = {
    "ade20k": ade20k.prepare,
    "ade20k_full": ade20k_full.prepare,
    "camvid": camvid.prepare,
    "cityscapes": cityscapes.prepare,
    "clothing_co_parsing": clothing_co_parsing.prepare,
    "coco_stuff_10k": coco_stuff_10k.prepare,
    "coco_stuff_164k": coco_stuff_164k.prepare,
    "context_shapes": context_shapes.prepare,
    "pascal_context": pascal_context.prepare,
}


def main(arguments: argparse.Namespace) -> None:
    if arguments.root is None:
        arguments.root = datasets_root()
    PREPARATIONS[arguments.dataset](arguments)
