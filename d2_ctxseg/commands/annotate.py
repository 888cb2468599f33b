"""Predict images, and write the predictions in the format of an annotation tool."""

import argparse
from collections.abc import Iterator
from pathlib import Path

import tqdm

from detectron2.utils.logger import setup_logger

from ..deployment import annotations
from ..deployment.segmentation import Segmentation
from ..deployment.segmentor import Segmentor
from ..utils.errors import UsageError, counted
from ..utils.files import atomic_write, write_json
from ..utils.image_files import find_images
from ..utils.outputs import check_output_file, confirm_overwrite
from .model_config import config_of


def main(arguments: argparse.Namespace) -> None:
    setup_logger(name="d2_ctxseg")
    images = find_images(arguments.input)
    _refuse_equal_names(images)
    files = _files(arguments)
    for file in files:
        check_output_file(file, "--output")
    confirm_overwrite(files, arguments.overwrite)
    segmentor = Segmentor(config_of(arguments))
    results = _predict(segmentor, images, arguments)
    if arguments.format == "coco":
        write_json(files[0], annotations.coco_dataset(results))
    elif arguments.format == "label-studio":
        tasks = annotations.label_studio_tasks(results, prefix=arguments.image_prefix)
        write_json(files[0], tasks)
        with atomic_write(files[1]) as file:
            file.write(annotations.label_studio_config(segmentor.classes, segmentor.palette))
    elif arguments.format == "cvat":
        with atomic_write(files[0]) as file:
            file.write(annotations.cvat_annotations(results))
    else:
        annotations.add_to_fiftyone(results, arguments.output)
    written = " and ".join(f"'{file}'" for file in files) or f"the dataset '{arguments.output}'"
    print(f"Wrote the predictions for {counted(len(images), 'image')} to {written}.")


def _files(arguments: argparse.Namespace) -> list[Path]:
    """The files to write; none for FiftyOne, which stores its datasets itself."""
    if arguments.format == "fiftyone":
        return []
    path = Path(arguments.output)
    suffix = ".xml" if arguments.format == "cvat" else ".json"
    if path.suffix.lower() != suffix:
        raise UsageError(f"--output {path}: expected the suffix {suffix} for {arguments.format}.")
    return [path, path.with_suffix(".xml")] if arguments.format == "label-studio" else [path]


def _predict(
    segmentor: Segmentor, images: list[Path], arguments: argparse.Namespace
) -> Iterator[Segmentation]:
    with_score = arguments.format == "label-studio"
    options = {"tiles": arguments.tiles, "confidence": with_score}
    yield from segmentor.predict_all(tqdm.tqdm(images), **options)


def _refuse_equal_names(images: list[Path]) -> None:
    """Raise UsageError for images of one name, which annotation tools cannot distinguish."""
    seen: dict[str, Path] = {}
    for path in images:
        if path.name in seen:
            raise UsageError(
                f"--input: '{seen[path.name]}' and '{path}' have the same name, and annotation "
                "tools identify images by name. Rename one, or write two files."
            )
        seen[path.name] = path
