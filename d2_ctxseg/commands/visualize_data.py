#!/usr/bin/env python3
"""Draw what training feeds the model: images and labels after resizing, cropping and all else.

    python tools/visualize_data.py --config-file configs/camvid/fpn_resnet18_linear.yaml \
        --output output/data
    python tools/visualize_data.py --config-file CONFIG --output FOLDER INPUT.CROP.SIZE "[256, 256]"

FOLDER gets an overlay of each image, and sheet.png with all of them. Ignored pixels are hatched.
"""

import argparse
from pathlib import Path

import numpy as np
from tqdm import tqdm

from detectron2.data import MetadataCatalog, get_detection_dataset_dicts
from detectron2.data.detection_utils import convert_image_to_rgb
from detectron2.utils.env import seed_all_rng

from ..data import SemanticSegmentorMapper, generate_missing
from ..data.images import ALL_CHANNELS, to_display_image
from ..engine import setup_config
from ..utils.arguments import integer_from
from ..utils.errors import UserError
from ..utils.outputs import check_output_folder
from ..utils.png import write_png
from ..visualization import draw_labelled
from ..visualization.sample_sheet import labelled_sheet


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True)
    parser.add_argument("--output", type=Path, required=True, help="folder for the overlays")
    parser.add_argument("--num-images", type=integer_from(1), default=12, help="(%(default)s)")
    parser.add_argument("--seed", type=integer_from(0), default=0, help="another one draws others")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="config overrides")
    return parser.parse_args()


def training_samples(cfg, count: int, seed: int):
    """``count`` images uint8 (H, W, 3) in RGB with labels (H, W), as the model is given them."""
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
        # Detectron2 gives some formats as floating-point numbers.
        yield np.clip(image, 0, 255).round().astype(np.uint8), sample["sem_seg"].numpy()


def main() -> None:
    arguments = parse_arguments()
    check_output_folder(arguments.output, "--output")
    cfg = setup_config(arguments.config_file, arguments.opts, for_inference=True)
    if not cfg.DATASETS.TRAIN:
        raise UserError("DATASETS.TRAIN names no dataset.")
    if cfg.DATASETS.GENERATE_MISSING:
        generate_missing(cfg.DATASETS.TRAIN)
    metadata = MetadataCatalog.get(cfg.DATASETS.TRAIN[0])
    samples = list(training_samples(cfg, arguments.num_images, arguments.seed))
    for number, (image, labels) in enumerate(samples):
        picture = draw_labelled(image, labels, metadata)
        write_png(arguments.output / f"{number:04d}.png", picture)
    write_png(arguments.output / "sheet.png", labelled_sheet(samples, metadata, columns=3))
    print(f"Drew {len(samples)} images into {arguments.output}; sheet.png shows all of them.")
