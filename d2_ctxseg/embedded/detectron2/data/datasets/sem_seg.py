"""Semantic segmentation datasets that are two folders: images, and label maps of equal names."""

import logging
import os

from detectron2.utils.file_io import PathManager

logger = logging.getLogger(__name__)


def load_sem_seg(
    gt_root: str, image_root: str, gt_ext: str = "png", image_ext: str = "jpg"
) -> list[dict]:
    """List the images of a folder with their label maps, sorted by name. No image is read.

    Folders with equally many files are paired in this order. Otherwise the names must be equal up
    to the endings, and files without a counterpart are left out with a warning.

    Args:
        gt_root: folder of the label maps (images whose pixel values are the labels).
        image_root: folder of the images.
        gt_ext, image_ext: the endings of their files' names.

    Returns:
        One dict with "file_name" and "sem_seg_file_name" an image.

    Raises:
        AssertionError: ``gt_root`` has no file with that ending.
    """
    images, label_maps = _names(image_root, image_ext), _names(gt_root, gt_ext)
    assert label_maps, f"No annotations found in {gt_root}."
    if len(images) != len(label_maps):
        common = _stems(images, image_ext) & _stems(label_maps, gt_ext)
        logger.warning(
            f"Directory {image_root} and {gt_root} has {len(images)} and {len(label_maps)} files, "
            f"respectively. Will use their intersection of {len(common)} files."
        )
        images = [stem + image_ext for stem in sorted(common)]
        label_maps = [stem + gt_ext for stem in sorted(common)]
    logger.info(f"Loaded {len(images)} images with semantic segmentation from {image_root}")
    return [
        {
            "file_name": os.path.join(image_root, image),
            "sem_seg_file_name": os.path.join(gt_root, label_map),
        }
        for image, label_map in zip(images, label_maps)
    ]


def _names(root: str, extension: str) -> list[str]:
    names = (name for name in PathManager.ls(root) if name.endswith(extension))
    return sorted(names, key=lambda name: os.path.splitext(name)[0])


def _stems(names: list[str], extension: str) -> set[str]:
    return {name[: -len(extension)] for name in names}
