"""Whether a training waits for its data or for its model."""

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
from ..utils.errors import UserError

# Images differ, and so do the times of workers that share the cores.
_RESERVE = 1.25


class LoadingTime(NamedTuple):
    """Time of one training image, from its files to its tensors, in one thread."""

    seconds: float
    """The mean, which decides how many images a worker loads in a second."""
    slowest: float
    images: int


def measure_loading(cfg: CfgNode, *, images: int = 60, warm_up: int = 3) -> LoadingTime:
    """Load random training images of a config, with all augmentations, in this process.

    What sends an image from a worker to the training is not included.

    Args:
        cfg: its INPUT and DATASETS.TRAIN; the images and labels have to be on the disk.
        images: number of images that are timed.
        warm_up: number of images that are loaded before them.

    Raises:
        UserError: the training sets hold no image.
        DatasetError: as of the mapper.
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
    """Cores that this process may use."""
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
    """Which of data and model is the bottleneck, and what to do about it.

    Args:
        image_seconds: one worker's time of an image.
        step_seconds: the model's time of a training step whose images are there.
        batch_size: images of a step.
        num_workers: DATALOADER.NUM_WORKERS; 0: the training process loads images between steps.
        cores: of the machine.
        device: MODEL.DEVICE. Workers and a model on "cpu" share the cores.

    Returns:
        ``bottleneck`` ("data" or "model"), ``waiting`` (fraction of the training's time in which
        the model waits for data), ``workers_needed`` (with a reserve of a quarter) and
        ``sentence``, for people.
    """
    loading = batch_size * image_seconds
    # Without workers the two alternate, with workers they run side by side.
    total = loading + step_seconds if num_workers == 0 else max(loading / num_workers, step_seconds)
    waiting = (total - step_seconds) / total
    needed = max(math.ceil(_RESERVE * loading / step_seconds), 1)
    bottleneck = "data" if waiting > 0.05 else "model"
    if bottleneck == "model":
        sentence = (
            f"The model is the bottleneck: it takes {step_seconds / loading:.1f} times as long for "
            f"a batch as one worker takes to load it. DATALOADER.NUM_WORKERS {num_workers} is "
            "enough."
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
            f"{needed} workers would be needed, and this machine has {cores} cores: store images "
            "that are larger than the training sizes need in a smaller size."
        )
    return " ".join(advice)


def loading_as_text(result: dict) -> str:
    """The comparison and its figures in a few lines."""
    figures = (
        f"loading: {1e3 * result['image_seconds']:.1f} ms per image in one thread (mean of "
        f"{result['images']}; slowest {1e3 * result['slowest']:.1f} ms); training step: "
        f"{1e3 * result['step_seconds']:.1f} ms for {result['batch_size']} images on "
        f"'{result['device']}'"
    )
    return "\n".join([figures, *textwrap.wrap(result["sentence"], width=100)])
