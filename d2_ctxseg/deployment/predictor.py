"""A model with its weights as a function from an image to a label map."""

import numpy as np
import torch

from detectron2.modeling import build_model

from ..checkpoint import load_weights
from ..data import metadata_of
from ..data.images import (
    ALL_CHANNELS,
    MOST_MEGAPIXELS,
    check_megapixels,
    read_image,
    to_display_image,
)
from ..data.resize import ResizeForTest
from ..engine.calibration import with_fitted_temperatures
from ..modeling.inference import Temperatures
from ..modeling.inference.test_time_augmentation import image_scores
from ..utils.errors import UserError, counted


class SemSegPredictor:
    """Predicts the class of every pixel of one image at a time.

    Attributes:
        metadata: Detectron2 ``Metadata`` of the first dataset of ``DATASETS.TEST``: the classes'
            names and colours.
        temperature: that class scores are divided by before they become confidences.
        is_calibrated: whether the temperature is of the config, or was fitted to the weights;
            otherwise it is 1.
    """

    def __init__(self, cfg):
        """Build the model that ``cfg`` describes, on ``MODEL.DEVICE``, with ``MODEL.WEIGHTS``.

        Raises:
            UserError: the config names no weights, no dataset, or an unknown image format.
            ValueError: the weights do not fit the model.
        """
        if not cfg.MODEL.WEIGHTS:
            raise UserError(
                "MODEL.WEIGHTS is empty: a prediction needs a trained model. "
                "Name its checkpoint at the end of the command: "
                "--opts MODEL.WEIGHTS path/to/model_final.pth"
            )
        if not cfg.DATASETS.TEST:
            raise UserError(
                "DATASETS.TEST is empty: the names and colours of the classes come from the "
                "dataset named there. Add --opts DATASETS.TEST \"('name',)\""
            )
        if cfg.INPUT.FORMAT not in ("RGB", "BGR", ALL_CHANNELS):
            raise UserError(
                f"INPUT.FORMAT is {cfg.INPUT.FORMAT!r}; predictions know 'RGB', 'BGR' and "
                f"'{ALL_CHANNELS}'"
            )
        self.metadata = metadata_of(cfg, cfg.DATASETS.TEST[0])
        self.image_format = cfg.INPUT.FORMAT
        self.max_megapixels = cfg.TEST.MAX_MEGAPIXELS
        self.num_channels = len(cfg.MODEL.PIXEL_MEAN)
        self.resize = ResizeForTest.from_config(cfg)
        cfg = with_fitted_temperatures(cfg)
        self.temperature = Temperatures.from_config(cfg).single
        self.is_calibrated = cfg.TEST.TEMPERATURE is not None
        self.model = build_model(cfg).eval()
        load_weights(self.model, cfg.MODEL.WEIGHTS)

    @torch.no_grad()
    def __call__(self, image: np.ndarray) -> np.ndarray:
        """The label map, int64 (H, W), of an image as :meth:`read` gives it."""
        (scores,) = image_scores(self.model, self.model_inputs(image))
        return scores.label_map().cpu().numpy()

    @torch.no_grad()
    def with_confidence(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The label map of an image, and how sure the model is of each pixel's class.

        Returns:
            Labels, int64 (H, W), the same as without confidence; and confidences, float32 (H, W) in
            [0, 1]: the classes' probabilities at ``temperature``.
        """
        (scores,) = image_scores(self.model, self.model_inputs(image))
        labels, confidence = scores.label_map_and_confidence(self.temperature)
        return labels.cpu().numpy(), confidence.cpu().numpy()

    def read(self, path, *, any_size: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """Read an image file: as the model is given it, and to be shown, uint8 RGB (H, W, 3).

        Both are the same, but for INPUT.FORMAT "ALL": then the former is float32 (H, W, C) with the
        file's channels. The dataset's ``value_range`` holds for files of more than 8 bits.

        Args:
            path: of the file.
            any_size: TEST.MAX_MEGAPIXELS does not count.

        Raises:
            DatasetError: the file cannot be read, or has more pixels than TEST.MAX_MEGAPIXELS.
        """
        check_megapixels(path, MOST_MEGAPIXELS if any_size else self.max_megapixels)
        value_range = self.metadata.get("value_range")
        if self.image_format == ALL_CHANNELS:
            image = read_image(path, ALL_CHANNELS, value_range)
            return image, to_display_image(image)
        image = read_image(path, "RGB", value_range)
        return image, image

    def model_inputs(self, image: np.ndarray) -> list[dict]:
        """What the model takes to predict an image as :meth:`read` gives it: a batch of one.

        Raises:
            UserError: it has other channels than the model takes.
        """
        height, width, channels = image.shape
        if channels != self.num_channels:
            raise UserError(
                f"The image has {counted(channels, 'channel')}, but the model takes "
                f"{self.num_channels} "
                f"(INPUT.FORMAT '{self.image_format}')."
            )
        if self.image_format == "BGR":
            image = image[:, :, ::-1]
        image = self.resize.get_transform(image).apply_image(image)
        image = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))).float()
        return [{"image": image, "height": height, "width": width}]
