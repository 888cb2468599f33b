"""The state of the page: models, sample images, and results as HTML."""

import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from detectron2.data import DatasetCatalog

from ...deployment.predictor import SemSegPredictor
from ...engine.setup import setup_config
from ...utils.errors import MissingFileError, UserError
from ...utils.image_files import find_images
from ...visualization.classifier_views import draw_classifier_views
from ..model_config import named_config, run_config_file, run_weights
from .result import Prediction, draw_message, draw_result, draw_views, shrink
from .uploads import read_upload

logger = logging.getLogger(__name__)

FEW_SAMPLES, MOST_SAMPLES = 6, 24
THUMBNAIL_SIDE = 256


@dataclass(frozen=True)
class Session:
    """Models, samples and limits of a page.

    Attributes:
        models: {name: predictor}, at least one.
        samples: {image file: thumbnail of it, uint8 RGB}.
        max_megapixels: the size limit of an image.
    """

    models: dict[str, SemSegPredictor]
    samples: dict[Path, np.ndarray]
    max_megapixels: float

    def segment(self, path: str | None, names: list[str]) -> str:
        """The result of the named models for an image, as HTML.

        What is wrong with the image, or stops a model, becomes a message in its place.

        Args:
            path: the image's file; None if none is chosen yet.
            names: names of models.
        """
        return self._draw(path, names, self._result)

    def views(self, path: str | None, names: list[str]) -> str:
        """Figures of how the classifiers of the named models work, as HTML.

        Arguments and messages as in :meth:`segment`.
        """
        return self._draw(path, names, self._views)

    def _draw(self, path: str | None, names: list[str], draw: Callable) -> str:
        if path is None:
            return draw_message("Drop an image on the left or choose a sample.")
        try:
            return draw(read_upload(path, self.max_megapixels), names, Path(path).stem)
        except UserError as error:
            return draw_message(str(error), is_problem=True)
        except Exception as error:
            return draw_message(_explain(error, path), is_problem=True)

    def _result(self, image: np.ndarray, names: list[str], file_stem: str) -> str:
        return draw_result(image, [self._predict(name, image) for name in names], file_stem)

    def _views(self, image: np.ndarray, names: list[str], _) -> str:
        return draw_views({name: draw_classifier_views(self.models[name], image) for name in names})

    def _predict(self, name: str, image: np.ndarray) -> Prediction:
        predictor = self.models[name]
        start = time.perf_counter()
        labels, confidence = predictor.with_confidence(image)
        seconds = time.perf_counter() - start
        return Prediction(
            name, labels, predictor.metadata, seconds, confidence, predictor.is_calibrated
        )


def _explain(error: Exception, path: str) -> str:
    """The message for an error inside a model; the terminal shows the traceback."""
    logger.error("%s: the model failed", path, exc_info=error)
    return (
        f"The model failed on {Path(path).name} ({type(error).__name__}). The terminal in which "
        "this page was started shows the traceback. If memory ran out, a smaller image may work."
    )


def load_runs(folders: list[str], opts: list[str]) -> dict[str, SemSegPredictor]:
    """The models of training runs, by the names of their output folders.

    Args:
        folders: each with config.yaml and weights, see ``run_weights``.
        opts: config keys to change, for all models alike.

    Raises:
        MissingFileError: a folder lacks one of these files.
        UserError: two folders have the same name, or a config is wrong.
    """
    if "MODEL.WEIGHTS" in opts[::2]:
        raise UserError(
            "--run takes the weights from its folders: leave MODEL.WEIGHTS out of --opts, or name "
            "the model with --config-file"
        )
    models = {}
    for folder in map(Path, folders):
        name = Path(os.path.abspath(folder)).name  # of a link: its own
        if name in models:
            raise UserError(f"--run: two folders are called {name}; rename one of them")
        config_file = run_config_file(folder)
        weights = ["MODEL.WEIGHTS", str(run_weights(folder))]
        models[name] = SemSegPredictor(
            setup_config(str(config_file), weights + opts, for_inference=True)
        )
    return models


def load_trained_models(names: list[str], opts: list[str]) -> dict[str, SemSegPredictor]:
    """The trained models of these names.

    Args:
        names: names of configs with trained weights.
        opts: config keys to change, for all models alike.

    Raises:
        UserError: there is no such model, or its weights are damaged.
    """
    return {name: SemSegPredictor(named_config(name, opts)) for name in names}


def find_samples(folder: str | None, predictor: SemSegPredictor) -> list[Path]:
    """The images of a folder; without a folder, a few of the model's dataset, if they are here.

    Returns ``MOST_SAMPLES`` at most, spread evenly over all.

    Raises MissingFileError if a folder was named that is missing or holds no image.
    """
    if folder is not None:
        return _spread(_images_in(folder), MOST_SAMPLES)
    name = predictor.metadata.name
    try:
        if name not in DatasetCatalog:
            raise UserError(f"The dataset '{name}' is not registered.")
        records = DatasetCatalog.get(name)
    except (OSError, AssertionError, UserError):  # Detectron2's own datasets raise the first two
        logger.info(f"The images of {name} are not on this machine, so the page has no samples.")
        return []
    return _spread([Path(record["file_name"]) for record in records], FEW_SAMPLES)


def draw_thumbnails(samples: list[Path], max_megapixels: float) -> dict[Path, np.ndarray]:
    """Small images, uint8 RGB, of the samples; those that the page would refuse are left out."""
    thumbnails = {}
    for path in samples:
        try:
            image = read_upload(path, max_megapixels)
        except UserError as error:
            logger.warning(f"A sample is left out: {error}")
            continue
        thumbnails[path] = shrink(image, THUMBNAIL_SIDE)
    return thumbnails


def _images_in(folder: str) -> list[Path]:
    if not Path(folder).expanduser().is_dir():
        raise MissingFileError(f"--samples {folder}: there is no such folder")
    try:
        return find_images([folder])
    except MissingFileError as error:
        raise MissingFileError(f"--samples {folder}: this folder contains no image") from error


def _spread(items: list, count: int) -> list:
    indices = np.linspace(0, len(items) - 1, min(count, len(items))).round().astype(int)
    return [items[index] for index in indices]
