"""The dataset mapper: from a dataset's record to the input of a semantic segmentor."""

import logging
from collections.abc import Mapping, Sequence

import cv2
import numpy as np
import torch

from detectron2.config import configurable
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data import transforms as T

from ..utils.errors import suggest
from .augmentation import (
    BrightnessShift,
    PadToSize,
    PhotometricDistortion,
    RandomFlip,
    ResizeRatioRange,
)
from .crop import ResizeAndCrop
from .errors import DatasetError
from .images import check_channels, read_image
from .labels import LabelFormat, check_label_values, check_same_size, read_label
from .registration import NEEDS_MAPPER, dataset_names, has_labels, register_builtin_datasets
from .resize import ResizeForTest, ResizeShortestEdge

logger = logging.getLogger(__name__)


class SemanticSegmentorMapper:
    """Reads an image and, for training, its label, augments them and makes tensors of them.

    It takes a record (``file_name``, ``sem_seg_file_name``, ``dataset_name``, ``value_range`` ...)
    and gives a new dict with the record's entries and

    - ``image``: (C, H, W), uint8, or float32 with INPUT.FORMAT "ALL" (and others that Detectron2
      reads as floats);
    - ``sem_seg`` (training only): (H, W) int64 class indices, or ``ignore_value``;
    - ``height``, ``width``: of the image as it is on disk;
    - ``original_image`` (if asked for): that image, (C, H, W), for views made of it.
    """

    @configurable
    def __init__(
        self,
        is_train: bool,
        *,
        augmentations: Sequence,
        image_format: str,
        ignore_value: int,
        label_formats: Mapping[str, LabelFormat],
        num_channels: int | None = None,
        keep_original: bool = False,
    ):
        """
        Args:
            is_train: whether labels are read.
            augmentations: Detectron2 augmentations or transforms, applied in this order. Labels
                reach them with class indices and ``ignore_value``.
            image_format: see :func:`d2_ctxseg.data.images.read_image`.
            ignore_value: the label of ignored pixels, whatever the dataset's own one is.
            label_formats: dataset name -> what its label files hold. May be empty for testing.
            num_channels: number of channels of the model's input; None: not checked.
            keep_original: give the image as it was read, too.

        Raises:
            DatasetError: ``ignore_value`` is the index of a class.
        """
        for name, label_format in label_formats.items():
            if 0 <= ignore_value < label_format.num_classes:
                raise DatasetError(
                    f"The ignore value {ignore_value} is the index of a class of '{name}', which "
                    f"has {label_format.num_classes} classes. Set MODEL.SEM_SEG_HEAD.IGNORE_VALUE "
                    "to another value."
                )
        self.is_train = is_train
        self.augmentations = T.AugmentationList(augmentations)
        self.image_format = image_format
        self.ignore_value = ignore_value
        self.label_formats = dict(label_formats)
        self.num_channels = num_channels
        self.keep_original = keep_original
        mode = "training" if is_train else "inference"
        logger.info("Augmentations used in %s: %s", mode, self.augmentations)

    @classmethod
    def from_config(cls, cfg, is_train: bool = True) -> dict:
        check_channels(cfg)
        return {
            "is_train": is_train,
            "augmentations": build_augmentations(cfg, is_train),
            "image_format": cfg.INPUT.FORMAT,
            "ignore_value": cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE,
            "label_formats": label_formats(cfg.DATASETS.TRAIN) if is_train else {},
            "num_channels": len(cfg.MODEL.PIXEL_MEAN),
            "keep_original": not is_train and cfg.TEST.AUG.ENABLED and cfg.TEST.AUG.FROM_ORIGINAL,
        }

    def __call__(self, record: dict) -> dict:
        """
        Raises:
            DatasetError: a file cannot be read, an image has other channels than the model or, to
                train on, no label, image and label differ in size, or a label is neither a class
                index nor ignored.
        """
        record = dict(record)
        record.pop(NEEDS_MAPPER, None)  # this is the mapper
        image = self._read_image(record)
        record["height"], record["width"] = image.shape[:2]
        if self.keep_original:
            record["original_image"] = _image_tensor(image)
        label = self._read_label(record, image) if self.is_train else None
        inputs = T.AugInput(image, sem_seg=label)
        self.augmentations(inputs)
        record["image"] = _image_tensor(inputs.image)
        if self.is_train:
            record["sem_seg"] = torch.from_numpy(inputs.sem_seg.astype(np.int64))
        return record

    def _read_image(self, record: dict) -> np.ndarray:
        path = record["file_name"]
        image = read_image(path, self.image_format, record.get("value_range"))
        if self.num_channels not in (None, image.shape[2]):
            raise DatasetError(
                f"The image {path} has {image.shape[2]} channels, but MODEL.PIXEL_MEAN has "
                f"{self.num_channels} values. All images must have one number of channels, and "
                "MODEL.PIXEL_MEAN and PIXEL_STD a value for each."
            )
        return image

    def _read_label(self, record: dict, image: np.ndarray) -> np.ndarray:
        """The label (H, W) with class indices and ``self.ignore_value``."""
        path = record.get("sem_seg_file_name")
        if path is None:
            raise DatasetError(
                f"The image {record['file_name']} has no label, so it cannot be trained on. Its "
                "dataset must not be in DATASETS.TRAIN."
            )
        label_format = self._label_format_of(record)
        label = read_label(path, label_format.id_map)
        check_same_size(image, label, record["file_name"], path)
        check_label_values(label, label_format, path)
        # Detectron2's resizing takes uint8, or else floating point, which holds all labels exactly.
        fits_uint8 = 0 <= self.ignore_value <= 255 and label_format.num_classes <= 256
        result = label.astype(np.uint8 if fits_uint8 else np.float32, copy=False)
        if label_format.ignore_label != self.ignore_value:
            result[label == label_format.ignore_label] = self.ignore_value
        return result

    def _label_format_of(self, record: dict) -> LabelFormat:
        name = record.get("dataset_name")
        if name in self.label_formats:
            return self.label_formats[name]
        # Records of datasets that others registered do not say where they come from.
        formats = list(self.label_formats.values())
        if name is None and formats and all(other == formats[0] for other in formats):
            return formats[0]
        raise DatasetError(
            f"The record of {record['file_name']} has the 'dataset_name' {name!r}, but the labels "
            f"can be read for {', '.join(self.label_formats) or 'no dataset'} only. Its dataset "
            "must be in DATASETS.TRAIN, and if that names several, its records need a "
            "'dataset_name'."
        )


def _image_tensor(image: np.ndarray) -> torch.Tensor:
    """(H, W, C) to (C, H, W), uint8 or float32."""
    image = image if image.dtype == np.uint8 else image.astype(np.float32, copy=False)
    planes = np.empty((image.shape[2], *image.shape[:2]), image.dtype)
    cv2.split(image, list(planes))
    return torch.from_numpy(planes)


def build_augmentations(cfg, is_train: bool) -> list:
    """The augmentations that ``cfg.INPUT`` asks for, in the order of the papers.

    Training: resize, crop, flip, change of colours, padding to the crop size. The padding needs
    INPUT.CROP.TYPE "absolute": only then is there one size to pad to. Testing: resize.
    """
    if not is_train:
        return [ResizeForTest.from_config(cfg)]
    crop, ignore_value = cfg.INPUT.CROP, cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE
    augmentations = [build_resize(cfg)]
    if crop.ENABLED:
        max_area = crop.SINGLE_CATEGORY_MAX_AREA
        augmentations = [
            ResizeAndCrop(augmentations[0], crop.TYPE, crop.SIZE, max_area, ignore_value)
        ]
    if cfg.INPUT.RANDOM_FLIP != "none":
        horizontal = cfg.INPUT.RANDOM_FLIP == "horizontal"
        augmentations.append(RandomFlip(horizontal=horizontal, vertical=not horizontal))
    if cfg.INPUT.COLOR_AUG_SSD:
        augmentations.append(PhotometricDistortion(cfg.INPUT.FORMAT))
    if cfg.INPUT.BRIGHTNESS_SHIFT:
        augmentations.append(BrightnessShift(cfg.INPUT.BRIGHTNESS_SHIFT))
    if cfg.INPUT.PAD_TO_CROP and crop.ENABLED and crop.TYPE == "absolute":
        augmentations.append(PadToSize(crop.SIZE, cfg.MODEL.PIXEL_MEAN, ignore_value))
    return augmentations


def build_resize(cfg) -> T.Augmentation:
    """The resize for training that ``cfg.INPUT`` asks for."""
    sizes, max_size = cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN
    sampling, antialias = cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING, cfg.INPUT.ANTIALIAS
    ratios, aspects = tuple(cfg.INPUT.RATIO_RANGE), tuple(cfg.INPUT.ASPECT_RANGE)
    if ratios == aspects == (1.0, 1.0):
        return ResizeShortestEdge(sizes, max_size, sampling, antialias)
    return ResizeRatioRange(sizes, max_size, ratios, sampling, aspects, antialias)


def label_formats(names: Sequence[str]) -> dict[str, LabelFormat]:
    """What the label files of some datasets hold, by dataset: an argument of the mapper.

    Raises:
        DatasetError: a dataset is not registered, or has no labels.
    """
    register_builtin_datasets(names)
    unknown = [name for name in names if name not in DatasetCatalog]
    if unknown:
        raise DatasetError(
            f"DATASETS.TRAIN names '{unknown[0]}', which is not registered."
            f"{suggest(unknown[0], dataset_names())} Describe your own dataset in a YAML "
            "file and list that in DATASETS.FOLDERS."
        )
    for name in names:
        if not has_labels(name):
            raise DatasetError(
                f"DATASETS.TRAIN names '{name}', whose images have no labels: it can be predicted, "
                "not trained on."
            )
    return {name: LabelFormat.from_metadata(MetadataCatalog.get(name)) for name in names}
