"""Find out whether data loading or the model is the bottleneck of a training."""

import math
import os
import statistics
import textwrap
import time
from typing import NamedTuple

import cv2
import numpy as np
import torch

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog

from ..data import SemanticSegmentorMapper
from ..utils.errors import UserError, counted

# A margin for images that take longer, and for workers that compete for cores.
_RESERVE = 1.25


class LoadingTime(NamedTuple):
    """The time in which one thread loads a training image, from its files to its tensors.

    Attributes:
        seconds: the mean, which determines how many images per second a worker loads.
        slowest: the longest time in seconds.
        images: number of measured images.
    """

    seconds: float
    slowest: float
    images: int


def measure_loading(cfg: CfgNode, *, images: int = 60, warm_up: int = 3) -> LoadingTime:
    """Measure the loading of random training images, with all augmentations, in this process.

    The transfer of images from a worker to the training process is not included.

    Args:
        cfg: the config, of which INPUT and DATASETS.TRAIN are used. The datasets must be on disk.
        images: number of measured images.
        warm_up: number of images that are loaded before the measurement.

    Raises:
        UserError: the training datasets contain no image.
        DatasetError: an image or a label cannot be read.
    """
    mapper = SemanticSegmentorMapper(cfg, is_train=True)
    records = [record for name in cfg.DATASETS.TRAIN for record in DatasetCatalog.get(name)]
    if not records:
        raise UserError(f"DATASETS.TRAIN: {tuple(cfg.DATASETS.TRAIN)} has no images to load.")
    generator, seconds = np.random.default_rng(0), []
    threads = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    try:
        for index in generator.integers(len(records), size=warm_up + images):
            start = time.perf_counter()
            mapper(records[index])
            seconds.append(time.perf_counter() - start)
    finally:
        torch.set_num_threads(threads[0])
        cv2.setNumThreads(threads[1])
    seconds = seconds[warm_up:]
    return LoadingTime(statistics.mean(seconds), max(seconds), images)


def number_of_cores() -> int:
    """The number of CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def compare_loading_with_training(
    image_seconds: float,
    step_seconds: float,
    *,
    batch_size: int,
    num_workers: int,
    cores: int,
    device: str,
) -> dict[str, object]:
    """Compare the times of data loading and of the model, and recommend a number of workers.

    Args:
        image_seconds: seconds in which one worker loads an image.
        step_seconds: seconds of a training step on images that are already loaded.
        batch_size: number of images per step.
        num_workers: DATALOADER.NUM_WORKERS; 0: the training process loads images between steps.
        cores: number of CPU cores of the machine.
        device: MODEL.DEVICE. Workers and a model on "cpu" share the cores.

    Returns:
        ``bottleneck`` ("data" or "model"), ``waiting`` (fraction of the training time in which the
        model waits for data), ``workers_needed`` (with a margin of 25 %) and ``sentence``, a
        summary with a recommendation.
    """
    loading = batch_size * image_seconds
    # Without workers, loading and training alternate; with workers, they run in parallel.
    total = loading + step_seconds if num_workers == 0 else max(loading / num_workers, step_seconds)
    waiting = (total - step_seconds) / total
    needed = max(math.ceil(_RESERVE * loading / step_seconds), 1)
    bottleneck = "data" if waiting > 0.05 else "model"
    if bottleneck == "model":
        sentence = (
            "The model is the bottleneck: a training step takes "
            f"{step_seconds / loading:.1f} times as long as one worker takes to load the batch. "
            f"DATALOADER.NUM_WORKERS {num_workers} is enough."
        )
    else:
        sentence = (
            f"The data is the bottleneck: with DATALOADER.NUM_WORKERS {num_workers} the model "
            f"waits for images {waiting:.0%} of the time."
        )
        sentence = f"{sentence} {_advice(needed, num_workers, cores)}"
        if device == "cpu":
            sentence += " On a CPU the workers take cores from the model."
    return {
        "bottleneck": bottleneck,
        "waiting": waiting,
        "workers_needed": needed,
        "sentence": sentence,
    }


def _advice(needed: int, num_workers: int, cores: int) -> str:
    advice = []
    if min(needed, cores) > num_workers:
        advice.append(f"Set DATALOADER.NUM_WORKERS to {min(needed, cores)}.")
    if needed > cores:
        advice.append(
            f"{needed} workers would be needed, but this machine has {counted(cores, 'core')}: "
            "store the images in a smaller size if they are larger than the training sizes."
        )
    return " ".join(advice)


def loading_as_text(result: dict) -> str:
    """The result of :func:`compare_loading_with_training` with its figures as text."""
    figures = (
        f"loading: {1e3 * result['image_seconds']:.1f} ms per image in one thread (mean of "
        f"{result['images']}; slowest {1e3 * result['slowest']:.1f} ms); training step: "
        f"{1e3 * result['step_seconds']:.1f} ms for {result['batch_size']} images on "
        f"'{result['device']}'"
    )
    return "\n".join([figures, *textwrap.wrap(result["sentence"], width=100)])
