"""Add classes to a PrototypeSegmentor or FeatureBankSegmentor, without training."""

import argparse
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
import tqdm
from tabulate import tabulate
from torch import Tensor, nn

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import build_model
from detectron2.utils.logger import setup_logger

from ..checkpoint import load_weights
from ..classifiers import FeatureBankClassifier, PrototypeClassifier
from ..data import (
    LabelFormat,
    SemanticSegmentorMapper,
    build_augmentations,
    dataset_names,
    register_builtin_datasets,
    register_folder_datasets,
)
from ..data.registration import has_labels
from ..deployment.feature_bank import collect_features, extend_bank
from ..deployment.prototype_extension import SupportPixels, add_classes
from ..engine import Trainer, keep_imports
from ..engine.calibration import with_fitted_temperatures
from ..engine.setup import setup_config
from ..evaluation import SegmentationEvaluator, add_to_results_file, by_dataset
from ..evaluation.confusion import iou_per_class
from ..evaluation.evaluator import label_loader
from ..losses.functional import resize_labels
from ..utils.errors import UsageError, UserError, counted, suggest
from ..utils.files import atomic_write
from ..utils.outputs import check_output_folder
from .build_feature_bank import sized_config
from .model_config import config_of

WEIGHTS_NAME = "model_extended.pth"
# Rows of the table: what they are called, and the metric.
MEANS = {
    "mean of all": "mIoU",
    "mean of the old": "mIoU-old",
    "mean of the old, without pixels of the new": "mIoU-old-without-new-pixels",
    "mean of the new": "mIoU-new",
}

logger = logging.getLogger("d2_ctxseg.add_classes")


def main(args: argparse.Namespace) -> None:
    check_output_folder(args.output, "--output")
    refuse_to_overwrite(Path(args.output))
    setup_logger(args.output)
    setup_logger(args.output, name="d2_ctxseg", abbrev_name="ctxseg")
    cfg = config_of(args)
    if not cfg.MODEL.WEIGHTS:
        raise UsageError("--weights: name the trained checkpoint, or its run with --run.")
    if args.folder:
        register_folder_datasets([args.folder])
    names = class_names(args.images)
    old_names = trained_classes(cfg)
    new_names, order = match_classes(old_names, names, args.images)
    new_cfg = extended_config(cfg, args, len(names))

    model = build_extensible_model(cfg)
    records = choose_images(args, [names.index(name) for name in new_names])
    position = torch.tensor(order)
    if isinstance(model.classifier, FeatureBankClassifier):
        support = collect_features(
            model, new_cfg, records, len(names), position=position, seed=args.seed
        )
        check_support(support, new_names, args.images)
        classifier = extend_bank(model.classifier, support, order=order)
    else:
        support = collect_pixels(model, new_cfg, records, position, args.seed)
        check_support(support, new_names, args.images)
        classifier = add_classes(
            model.classifier, support.sample(), len(new_names), order=order, seed=args.seed
        )
    new_cfg = sized_config(new_cfg, classifier)
    write_extended(model, classifier, new_cfg)
    logger.info("Added %s; the model is in %s", ", ".join(new_names), new_cfg.MODEL.WEIGHTS)
    if with_fitted_temperatures(cfg).TEST.TEMPERATURE is not None:
        logger.warning(
            "The model's temperature was fitted to its old classes and is left behind: confidences "
            "are not calibrated until you run d2-ctxseg calibrate --run %s",
            args.output,
        )
    if args.evaluate:
        compare(cfg, new_cfg, model, [names.index(name) for name in old_names])


def refuse_to_overwrite(output: Path) -> None:
    """Raise UserError if ``output`` already contains a model or a config."""
    for name in (WEIGHTS_NAME, "config.yaml"):
        if (output / name).exists():
            raise UserError(f"--output: {output / name} already exists. Choose another folder.")


def class_names(dataset_name: str) -> list[str]:
    """The classes of a registered dataset; UserError if it does not exist."""
    register_builtin_datasets([dataset_name])
    known = dataset_names()
    if dataset_name not in known:
        raise UserError(
            f"No dataset is registered as '{dataset_name}'.{suggest(dataset_name, known)} For your "
            "own dataset, set --folder to its YAML description (docs/DATASETS.md)."
        )
    metadata = MetadataCatalog.get(dataset_name)
    LabelFormat.from_metadata(metadata)  # raises if there are no classes
    return list(metadata.stuff_classes)


def trained_classes(cfg) -> list[str]:
    """The names of the model's classes: those of the datasets in its config."""
    datasets = [*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST]
    if not datasets:
        raise UserError(
            "The names of the model's classes are unknown, because DATASETS.TRAIN is empty. Set it "
            "to the dataset that the model was trained on: --opts DATASETS.TRAIN \"('name',)\""
        )
    return class_names(datasets[0])


def match_classes(old: list[str], names: list[str], source: str) -> tuple[list[str], list[int]]:
    """Find the model's classes ``old`` among ``names``, those of the dataset ``source``.

    Returns:
        the new classes, and for each of ``names`` its index in the old classes and then the new.

    Raises:
        UserError: an old class is missing, or none is new.
    """
    new = [name for name in names if name not in old]
    missing = [f"class '{name}'.{suggest(name, new)}" for name in old if name not in names]
    if missing:
        raise UserError(
            f"'{source}' lacks the model's {' It lacks '.join(missing)} It has {', '.join(names)}. "
            "Its YAML must list all classes of the model, under the same names, and the new ones."
        )
    if not new:
        raise UserError(
            f"'{source}' has no new class: the model already has {', '.join(names)}. Add the new "
            "classes to 'classes' in its YAML."
        )
    joined = [*old, *new]
    return new, [joined.index(name) for name in names]


def extended_config(cfg, args, num_classes: int):
    """The frozen config of the extended model, with --evaluate as the test dataset if given."""
    test = args.evaluate or args.images
    if class_names(test) != class_names(args.images):
        raise UserError(
            f"--evaluate: '{test}' has other classes than '{args.images}', or another order: "
            f"{', '.join(class_names(test))} instead of {', '.join(class_names(args.images))}."
        )
    if 0 <= cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE < num_classes:
        raise UserError(
            f"The ignore label would be the index of one of the {num_classes} classes. Set another "
            "one: --opts MODEL.SEM_SEG_HEAD.IGNORE_VALUE 65535"
        )
    folders = [*cfg.DATASETS.FOLDERS, *([args.folder] if args.folder else [])]
    changes = {
        "MODEL.WEIGHTS": os.path.join(args.output, WEIGHTS_NAME),
        "MODEL.SEM_SEG_HEAD.NUM_CLASSES": num_classes,
        # It knows the old classes only, and the extended model is not trained.
        "MODEL.AUXILIARY_HEAD.ENABLED": False,
        # They were fitted to scores of the old classes alone.
        "TEST.TEMPERATURE": None,
        "TEST.AUG.TEMPERATURE": None,
        "DATASETS.FOLDERS": list(dict.fromkeys(folders)),
        "DATASETS.TRAIN": (args.images,),
        "DATASETS.TEST": (test,),
        "OUTPUT_DIR": args.output,
    }
    opts = [item for change in changes.items() for item in change]
    with TemporaryDirectory() as folder:
        # The trained model's, wherever that comes from: a file, a run, a name.
        file = Path(folder) / "config.yaml"
        file.write_text(cfg.dump(), encoding="utf-8")
        return setup_config(str(file), opts, for_inference=True)


def build_extensible_model(cfg) -> nn.Module:
    """The trained model, in evaluation mode."""
    model = build_model(cfg).eval()
    extensible = (PrototypeClassifier, FeatureBankClassifier)
    if not isinstance(getattr(model, "classifier", None), extensible):
        raise UserError(
            f"The config describes a {cfg.MODEL.META_ARCHITECTURE} whose classifier has no "
            "prototypes and no bank. Classes can be added to a PrototypeSegmentor or a "
            "FeatureBankSegmentor only."
        )
    load_weights(model, cfg.MODEL.WEIGHTS)
    return model


def choose_images(args, new_classes: list[int]) -> list[dict]:
    """The records of --images, or --num-images of them that show a new class."""
    records = DatasetCatalog.get(args.images)
    if args.num_images is None:
        return records
    if not has_labels(args.images):
        raise UserError(f"--images: '{args.images}' has no labels; name a split that has some.")
    load = label_loader(args.images)
    shows = np.array(
        [
            np.isin(new_classes, load(record["sem_seg_file_name"]))
            for record in tqdm.tqdm(records, desc="Reading labels", unit="image")
        ]
    )
    chosen = spread_over_classes(shows, args.num_images, np.random.default_rng(args.seed))
    records = [records[index] for index in chosen]
    logger.info("Support images: %s", ", ".join(record["file_name"] for record in records))
    return records


def spread_over_classes(shows: np.ndarray, number: int, rng: np.random.Generator) -> list[int]:
    """Draw images so that every new class is on about as many; never one without a new class.

    Args:
        shows: (images, new classes) bool.
        number: number of images to sample; fewer if fewer images show a new class.
        rng: draws among those that are as good.
    """
    left = list(rng.permutation(np.flatnonzero(shows.any(axis=1))))
    chosen: list[int] = []
    while left and len(chosen) < number:
        # Of the classes that can still be shown, the one on the fewest of the chosen images.
        counts = np.where(shows[left].any(axis=0), shows[chosen].sum(axis=0), np.inf)
        image = next(index for index in left if shows[index, counts.argmin()])
        left.remove(image)
        chosen.append(int(image))
    return chosen


@torch.no_grad()
def collect_pixels(
    model: nn.Module, cfg, records: list[dict], position: Tensor, seed: int
) -> SupportPixels:
    """Embeddings and labels of the records' pixels, at the size that testing uses.

    Args:
        model: the trained model, in evaluation mode.
        cfg: config of the extended model, whose training dataset the records are of.
        records: dataset records of the labelled images.
        position: (K + J,) int64: for each class of the labels the class it is collected as.
        seed: seed of the sampling.
    """
    as_tested = build_augmentations(cfg, is_train=False)
    mapper = SemanticSegmentorMapper(cfg, is_train=True, augmentations=as_tested)
    support = SupportPixels(len(position), seed=seed)
    for record in tqdm.tqdm(records, desc="Embedding pixels", unit="image"):
        inputs = [mapper(record)]
        images = model.normalized_images(inputs)
        labels = model.padded_labels(inputs, images.tensor.shape[-2:])
        features = model.sem_seg_head.layers(model.backbone(images.tensor))
        labels = resize_labels(labels, features.shape[-2:]).flatten().cpu()
        labelled = labels != model.ignore_label
        labels = position[labels.where(labelled, 0)].where(labelled, -1)
        support.add(model.classifier.embed(features), labels)
    return support


def check_support(support: SupportPixels, new_names: list[str], source: str) -> None:
    """Log the collected pixels; UserError if a new class has none."""
    num_old = support.num_classes - len(new_names)
    counts = support.counts.tolist()
    for name, count in zip(new_names, counts[num_old:]):
        logger.info("New class '%s': %d pixels at the size of the features", name, count)
    empty = [name for name, count in zip(new_names, counts[num_old:]) if count == 0]
    if empty:
        raise UserError(
            f"{counted(support.num_images, 'support image')} of '{source}' without a pixel of the "
            f"new class {', '.join(map(repr, empty))} (at the size of the features, where very "
            "small objects disappear). Label images that show it, raise --num-images, or remove "
            "the class from the dataset's 'classes'."
        )
    if not any(counts[:num_old]):
        logger.warning(
            "The support images have no pixel of an old class, so the extent of the new classes is "
            "unknown, and they may be predicted too often. Label the images completely."
        )


def write_extended(model: nn.Module, classifier: PrototypeClassifier, cfg) -> None:
    """Write the checkpoint and the config of ``model`` with another classifier."""
    state = {
        key: value
        for key, value in model.state_dict().items()
        if not key.startswith(("classifier.", "auxiliary_head."))
    }
    state.update((f"classifier.{key}", value) for key, value in classifier.state_dict().items())
    keep_imports(cfg)
    with atomic_write(os.path.join(cfg.OUTPUT_DIR, "config.yaml")) as file:
        file.write(cfg.dump())
    with atomic_write(cfg.MODEL.WEIGHTS, "wb") as file:
        torch.save({"model": state}, file)


def among_more_classes(model: nn.Module, positions: list[int], num_classes: int) -> Callable:
    """``model`` as a function with logits of ``num_classes``; its classes are at ``positions``."""

    def spread(logits: Tensor) -> Tensor:
        result = logits.new_full((num_classes, *logits.shape[1:]), -torch.inf)
        result[positions] = logits
        return result

    return lambda inputs: [{"sem_seg": spread(output["sem_seg"])} for output in model(inputs)]


class OldAndNewEvaluator(SegmentationEvaluator):
    """Adds the means of ``MEANS``; ``old_classes`` are the indices of the old classes."""

    def __init__(self, dataset_name: str, old_classes: Sequence[int]):
        super().__init__(dataset_name, distributed=False)
        self.old_classes = list(old_classes)

    def evaluate(self) -> dict:
        """``{"sem_seg": {metric: per cent}}``."""
        results = super().evaluate()
        confusion = self.confusion[:-1, :-1]
        is_old = np.isin(np.arange(len(confusion)), self.old_classes)
        is_true = confusion.sum(axis=0) > 0
        iou, without_new = (
            np.where(is_true, 100 * iou_per_class(counted), np.nan)
            for counted in (confusion, confusion * is_old)
        )
        results["sem_seg"]["mIoU-old"] = _mean(iou[is_old])
        results["sem_seg"]["mIoU-old-without-new-pixels"] = _mean(without_new[is_old])
        results["sem_seg"]["mIoU-new"] = _mean(iou[~is_old])
        return results


def _mean(values: np.ndarray) -> float:
    present = values[~np.isnan(values)]
    return float(present.mean()) if len(present) else np.nan


def compare(cfg, new_cfg, model: nn.Module, old_classes: list[int]) -> None:
    """Evaluate both models on the extended one's test dataset; write and log the results."""
    num_classes = new_cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
    # As a user will load it, not as it lies in memory.
    extended = build_model(new_cfg).eval()
    load_weights(extended, new_cfg.MODEL.WEIGHTS)
    models = {
        cfg.MODEL.WEIGHTS: among_more_classes(model, old_classes, num_classes),
        new_cfg.MODEL.WEIGHTS: extended,
    }
    (dataset,) = new_cfg.DATASETS.TEST
    path = os.path.join(new_cfg.OUTPUT_DIR, "evaluation.json")
    metrics = []
    for weights, candidate in models.items():
        logger.info("Evaluating %s", weights)
        results = Trainer.test(new_cfg, candidate, [OldAndNewEvaluator(dataset, old_classes)])
        add_to_results_file(path, weights, by_dataset(results, (dataset,)))
        metrics.append(results["sem_seg"])
    table = format_comparison(class_names(dataset), old_classes, *metrics)
    logger.info("IoU on %s before and after (also in %s):\n%s", dataset, path, table)


def format_comparison(names: list[str], old_classes: Sequence[int], before: dict, after: dict):
    """The metrics of OldAndNewEvaluator before and after as a table (a string)."""
    is_new = [index not in old_classes for index in range(len(names))]
    rows = {f"{name} (new)" if new else name: f"IoU-{name}" for name, new in zip(names, is_new)}
    cells = [
        [label, *("-" if np.isnan(m[metric]) else f"{m[metric]:.2f}" for m in (before, after))]
        for label, metric in {**rows, **MEANS}.items()
    ]
    headers = ["class", "IoU before", "IoU after"]
    return tabulate(
        cells, headers, "pipe", disable_numparse=True, colalign=("left", *["right"] * 2)
    )
