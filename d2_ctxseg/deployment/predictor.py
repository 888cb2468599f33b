"""A predictor: a model with its weights that maps an image to a label map."""

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
        metadata: Detectron2's ``Metadata`` of the first dataset in ``DATASETS.TEST``: the names and
            colours of the classes.
        image_format: INPUT.FORMAT: "RGB", "BGR" or "ALL".
        max_megapixels: TEST.MAX_MEGAPIXELS, the limit of :meth:`read`.
        num_channels: number of channels of the model's input.
        resize: the transform that resizes test images.
        temperature: the number that class scores are divided by before the softmax.
        is_calibrated: whether the temperature comes from the config or was fitted to the weights.
            Otherwise it is 1.
        model: the model in evaluation mode.
    """

    def __init__(self, cfg):
        """Build the model of ``cfg`` on ``MODEL.DEVICE`` and load ``MODEL.WEIGHTS``.

        Raises:
            UserError: the config names no weights or no dataset, its image format is unknown, or
                the weights do not fit the model.
        """
        if not cfg.MODEL.WEIGHTS:
            raise UserError(
                "MODEL.WEIGHTS is empty: a prediction needs a trained model. "
                "Add its checkpoint to the command: "
                "--opts MODEL.WEIGHTS path/to/model_final.pth"
            )
        if not cfg.DATASETS.TEST:
            raise UserError(
                "DATASETS.TEST is empty: the names and colours of the classes come from that "
                "dataset. Add --opts DATASETS.TEST \"('name',)\""
            )
        if cfg.INPUT.FORMAT not in ("RGB", "BGR", ALL_CHANNELS):
            raise UserError(
                f"INPUT.FORMAT is {cfg.INPUT.FORMAT!r}, expected 'RGB', 'BGR' or '{ALL_CHANNELS}'."
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
        """Predict the label map, int64 (H, W), of an image from :meth:`read`.

        Raises:
            UserError: the image has another number of channels than the model's input.
        """
        (scores,) = image_scores(self.model, self.model_inputs(image))
        return scores.label_map().cpu().numpy()

    @torch.no_grad()
    def with_confidence(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Predict the label map of an image from :meth:`read` and its confidences.

        Returns:
            The label map, int64 (H, W), as without confidences; and the confidences, float32 (H, W)
            in [0, 1], which are the probabilities of the predicted classes at ``temperature``.
        """
        (scores,) = image_scores(self.model, self.model_inputs(image))
        labels, confidence = scores.label_map_and_confidence(self.temperature)
        return labels.cpu().numpy(), confidence.cpu().numpy()

    def read(self, path, *, any_size: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """Read an image file for the model and for display.

        The dataset's ``value_range`` applies to files with more than 8 bits per channel.

        Args:
            path: path of the file.
            any_size: accept images of more than TEST.MAX_MEGAPIXELS.

        Returns:
            The image for the model, and the image for display, uint8 RGB (H, W, 3). They are the
            same array unless INPUT.FORMAT is "ALL"; then the former is float32 (H, W, C) with the
            channels of the file.

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
        """The model's input for an image from :meth:`read`: a batch with one dict.

        Raises:
            UserError: the image has another number of channels than the model's input.
        """
        height, width, channels = image.shape
        if channels != self.num_channels:
            raise UserError(
                f"The image has {counted(channels, 'channel')}, but the model takes "
                f"{self.num_channels} (INPUT.FORMAT '{self.image_format}')."
            )
        if self.image_format == "BGR":
            image = image[:, :, ::-1]
        image = self.resize.get_transform(image).apply_image(image)
        image = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))).float()
        return [{"image": image, "height": height, "width": width}]
