"""A model with its weights as a function from an image to a label map."""

import numpy as np
import torch

from detectron2.data import MetadataCatalog
from detectron2.data import transforms as T
from detectron2.modeling import build_model

from ..checkpoint import load_weights
from ..modeling.inference.test_time_augmentation import image_scores
from ..utils.errors import UserError


class SemSegPredictor:
    """Predicts the class of every pixel of one image at a time.

    Attributes:
        metadata: Detectron2 ``Metadata`` of the first dataset of ``DATASETS.TEST``: the classes'
            names and colours.
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
        if cfg.INPUT.FORMAT not in ("RGB", "BGR"):
            raise UserError(f"INPUT.FORMAT is {cfg.INPUT.FORMAT!r}; the demo knows RGB and BGR")
        self.metadata = MetadataCatalog.get(cfg.DATASETS.TEST[0])
        self.image_format = cfg.INPUT.FORMAT
        # The shortest side becomes MIN_SIZE_TEST, unless the longest then exceeds MAX_SIZE_TEST.
        self.resize = T.ResizeShortestEdge(
            [cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MIN_SIZE_TEST], cfg.INPUT.MAX_SIZE_TEST
        )
        self.model = build_model(cfg).eval()
        load_weights(self.model, cfg.MODEL.WEIGHTS)

    @torch.no_grad()
    def __call__(self, image_rgb: np.ndarray) -> np.ndarray:
        """The label map, int64 (H, W), of a uint8 RGB image (H, W, 3)."""
        (scores,) = image_scores(self.model, self.model_inputs(image_rgb))
        return scores.label_map().cpu().numpy()

    def model_inputs(self, image_rgb: np.ndarray) -> list[dict]:
        """What the model takes to predict a uint8 RGB image (H, W, 3): a batch of one."""
        height, width = image_rgb.shape[:2]
        image = image_rgb if self.image_format == "RGB" else image_rgb[:, :, ::-1]
        image = self.resize.get_transform(image).apply_image(image)
        image = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))).float()
        return [{"image": image, "height": height, "width": width}]
