"""From a record of a dataset to what a model takes."""

import copy
import logging

import numpy as np
import torch

from detectron2.config import configurable

from .._coverage import not_covered
from . import detection_utils as utils
from . import transforms as T

__all__ = ["DatasetMapper"]


class DatasetMapper:
    """Reads the image and label map of a record, augments them, and makes tensors of them.

    ``DatasetMapper(cfg, is_train)`` works too: see :meth:`from_config`.

    Args:
        is_train: whether for training.
        augmentations: augmentations and transforms, in order.
        image_format: see :func:`detectron2.data.detection_utils.read_image`.
    """

    @configurable
    def __init__(
        self,
        is_train: bool,
        *,
        augmentations: list[T.Augmentation | T.Transform],
        image_format: str,
    ):
        self.is_train = is_train
        self.augmentations = T.AugmentationList(augmentations)
        self.image_format = image_format
        mode = "training" if is_train else "inference"
        logging.getLogger(__name__).info(
            f"[DatasetMapper] Augmentations used in {mode}: {augmentations}"
        )

    @classmethod
    def from_config(cls, cfg, is_train: bool = True) -> dict:
        """Crop (in training, if enabled), resize and flip as the ``INPUT`` section says."""
        augmentations = utils.build_augmentation(cfg, is_train)
        if is_train and cfg.INPUT.CROP.ENABLED:
            augmentations.insert(0, T.RandomCrop(cfg.INPUT.CROP.TYPE, cfg.INPUT.CROP.SIZE))
        return {
            "is_train": is_train,
            "augmentations": augmentations,
            "image_format": cfg.INPUT.FORMAT,
        }

    def __call__(self, dataset_dict: dict) -> dict:
        """Map one record.

        Args:
            dataset_dict: with "file_name" and, if there is a label map, "sem_seg_file_name". It is
                not changed.

        Returns:
            A copy of the record with "image", (C, H, W) of the image's dtype, and, in place of
            "sem_seg_file_name", "sem_seg", (H, W) int64. "height" and "width" are the original
            size.

        Raises:
            SizeMismatchError: the image has another size than the record says.
            NotImplementedError: the record has instances ("annotations") and this is training.
        """
        dataset_dict = copy.deepcopy(dataset_dict)
        if dataset_dict.pop("annotations", None) is not None and self.is_train:
            raise NotImplementedError(not_covered("detectron2.data.DatasetMapper with instances"))
        image = utils.read_image(dataset_dict["file_name"], format=self.image_format)
        utils.check_image_size(dataset_dict, image)
        sem_seg = None
        if "sem_seg_file_name" in dataset_dict:
            sem_seg = utils.read_image(dataset_dict.pop("sem_seg_file_name"), "L")[:, :, 0]

        aug_input = T.AugInput(image, sem_seg=sem_seg)
        self.augmentations(aug_input)
        channels_first = np.ascontiguousarray(aug_input.image.transpose(2, 0, 1))
        dataset_dict["image"] = torch.as_tensor(channels_first)
        if sem_seg is not None:
            dataset_dict["sem_seg"] = torch.as_tensor(aug_input.sem_seg.astype(np.int64))
        return dataset_dict
