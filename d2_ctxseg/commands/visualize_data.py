"""Draw the training inputs of a config: images and labels after augmentation."""

import argparse

import numpy as np
from tqdm import tqdm

from detectron2.data import MetadataCatalog, get_detection_dataset_dicts
from detectron2.data.detection_utils import convert_image_to_rgb
from detectron2.utils.env import seed_all_rng

from ..data import SemanticSegmentorMapper, generate_missing
from ..data.images import ALL_CHANNELS, to_display_image
from ..utils.errors import UserError, counted
from ..utils.outputs import check_output_folder
from ..utils.png import write_png
from ..visualization import draw_labelled
from ..visualization.sample_sheet import labelled_sheet
from .model_config import config_of


def training_samples(cfg, count: int, seed: int):
    """Yield ``count`` random training inputs: images, uint8 RGB (H, W, 3), and labels (H, W).

    Args:
        cfg: the config.
        count: number of inputs.
        seed: seed of the choice of images and of the augmentations.
    """
    seed_all_rng(seed)
    records = get_detection_dataset_dicts(cfg.DATASETS.TRAIN, filter_empty=False)
    mapper = SemanticSegmentorMapper(cfg, is_train=True)
    chosen = np.random.default_rng(seed).choice(len(records), count, len(records) < count)
    for index in tqdm(chosen, unit="image"):
        sample = mapper(records[index])
        image = sample["image"].permute(1, 2, 0).numpy()
        if cfg.INPUT.FORMAT == ALL_CHANNELS:
            image = to_display_image(image)
        else:
            image = convert_image_to_rgb(image, cfg.INPUT.FORMAT)
        # Detectron2 converts some formats to floating-point numbers.
        yield np.clip(image, 0, 255).round().astype(np.uint8), sample["sem_seg"].numpy()


def main(arguments: argparse.Namespace) -> None:
    check_output_folder(arguments.output, "--output")
    cfg = config_of(arguments)
    if not cfg.DATASETS.TRAIN:
        raise UserError("DATASETS.TRAIN is empty: set the dataset to draw.")
    if cfg.DATASETS.GENERATE_MISSING:
        generate_missing(cfg.DATASETS.TRAIN)
    metadata = MetadataCatalog.get(cfg.DATASETS.TRAIN[0])
    samples = list(training_samples(cfg, arguments.num_images, arguments.seed))
    for number, (image, labels) in enumerate(samples):
        overlay = draw_labelled(image, labels, metadata)
        write_png(arguments.output / f"{number:04d}.png", overlay)
    write_png(arguments.output / "sheet.png", labelled_sheet(samples, metadata, columns=3))
    images = counted(len(samples), "image")
    print(f"Drew {images} into {arguments.output}; sheet.png shows all of them.")
