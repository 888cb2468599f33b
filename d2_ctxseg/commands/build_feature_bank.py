"""Fill the bank of a FeatureBankSegmentor from a labelled dataset, without training."""

import argparse
import logging
import os
from pathlib import Path

import numpy as np
import torch
from torch import nn

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import build_model
from detectron2.utils.logger import setup_logger

from ..checkpoint import Checkpointer
from ..classifiers import FeatureBankClassifier
from ..data import generate_missing
from ..deployment.feature_bank import collect_features, fill_bank
from ..engine import keep_imports
from ..utils.errors import UserError
from ..utils.files import atomic_write
from ..utils.outputs import check_output_folder
from .model_config import config_of

WEIGHTS_NAME = "model_final.pth"

logger = logging.getLogger("d2_ctxseg.build_feature_bank")


def main(args: argparse.Namespace) -> None:
    check_output_folder(args.output, "--output")
    for name in (WEIGHTS_NAME, "config.yaml"):
        if (Path(args.output) / name).exists():
            raise UserError(
                f"--output: {Path(args.output) / name} already exists. Choose another folder."
            )
    setup_logger(args.output)
    setup_logger(args.output, name="d2_ctxseg", abbrev_name="ctxseg")
    cfg = config_of(args, for_inference=False)
    if cfg.DATASETS.GENERATE_MISSING:
        generate_missing(cfg.DATASETS.TRAIN + cfg.DATASETS.TEST)
    records = choose_images(cfg, args.num_images, args.seed)
    model = build_bank_model(cfg)
    support = collect_features(
        model, cfg, records, cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES, seed=args.seed
    )
    try:
        fill_bank(model.classifier, support)
    except ValueError as error:
        raise UserError(f"DATASETS.TRAIN: {error}") from error
    log_contents(cfg, support.counts.tolist(), model.classifier)
    write_bank_model(model, cfg, args.output)
    logger.info("The model is in %s: d2-ctxseg eval --run %s", args.output, args.output)


def choose_images(cfg, number: int | None, seed: int) -> list[dict]:
    """The records of DATASETS.TRAIN, or a random sample of ``number`` records."""
    if not cfg.DATASETS.TRAIN:
        raise UserError("DATASETS.TRAIN is empty: set the datasets to fill the bank from.")
    records = [record for name in cfg.DATASETS.TRAIN for record in DatasetCatalog.get(name)]
    if number is None or number >= len(records):
        return records
    chosen = np.random.default_rng(seed).choice(len(records), number, replace=False)
    return [records[index] for index in sorted(chosen)]


def build_bank_model(cfg) -> nn.Module:
    """The model with an empty bank, in evaluation mode."""
    model = build_model(cfg).eval()
    if not isinstance(getattr(model, "classifier", None), FeatureBankClassifier):
        raise UserError(
            f"The config describes a {cfg.MODEL.META_ARCHITECTURE}, which has no bank. Set "
            "MODEL.META_ARCHITECTURE to 'FeatureBankSegmentor'."
        )
    if cfg.MODEL.WEIGHTS:
        Checkpointer(model).load(cfg.MODEL.WEIGHTS)
    elif not cfg.MODEL.ENCODER.WEIGHTS:
        logger.warning(
            "MODEL.ENCODER.WEIGHTS and MODEL.WEIGHTS are empty: the features are random."
        )
    return model


def log_contents(cfg, counts: list[int], classifier: FeatureBankClassifier) -> None:
    """Log the number of features of each class in the images and in the bank."""
    kept = classifier.shares.argmax(dim=1).bincount(minlength=len(counts)).tolist()
    names = MetadataCatalog.get(cfg.DATASETS.TRAIN[0]).stuff_classes
    rows = [f"{name}: {number} of {seen}" for name, seen, number in zip(names, counts, kept)]
    logger.info(
        "%d features in the bank, by the class with the largest share: %s",
        len(classifier.features),
        ", ".join(rows),
    )


def write_bank_model(model: nn.Module, cfg, output: str) -> None:
    """Write the checkpoint, and a config with its path and the size of its bank."""
    path = os.path.join(output, WEIGHTS_NAME)
    cfg = sized_config(cfg, model.classifier)
    cfg.defrost()
    cfg.MODEL.WEIGHTS, cfg.OUTPUT_DIR = path, output
    cfg.freeze()
    keep_imports(cfg)
    with atomic_write(path, "wb") as file:
        torch.save({"model": model.state_dict()}, file)
    with atomic_write(os.path.join(output, "config.yaml")) as file:
        file.write(cfg.dump())


def sized_config(cfg, classifier: nn.Module):
    """``cfg`` with the size of the classifier's bank, if it has one."""
    if not isinstance(classifier, FeatureBankClassifier):
        return cfg
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.CLASSIFIER.FEATURE_BANK.SIZE = len(classifier.features)
    cfg.freeze()
    return cfg
