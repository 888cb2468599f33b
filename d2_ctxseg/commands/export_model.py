"""Export a trained segmentor to a file that runs without this project."""

import argparse
import json
import logging
from pathlib import Path

from detectron2.modeling import build_model
from detectron2.utils.logger import setup_logger

from .. import __version__, deployment
from ..checkpoint import load_weights, strip_training_only
from ..data import metadata_of
from ..data.palette import generate_palette
from ..deployment.analysis import InputSize, input_size
from ..deployment.export import (
    INPUT_NAME,
    ImageShape,
    check_arguments,
    data_file,
    export_segmentor,
)
from ..deployment.export_check import Agreement
from ..engine.calibration import with_fitted_temperatures
from ..modeling import Temperatures
from ..utils.errors import UserError
from ..utils.outputs import check_output_file
from .model_config import config_of

# It imports nothing of this project, and can be copied to another machine.
ONNX_PROGRAM = Path(deployment.__file__).with_name("onnx_inference.py")

logger = logging.getLogger("d2_ctxseg.export_model")


def image_size(cfg, size: list[int] | None) -> InputSize:
    """Height and width of the images, and the config key that they come from."""
    if size:
        return InputSize(*size, "--size")
    if cfg.TEST.SLIDING_WINDOW.ENABLED:
        return InputSize(*cfg.TEST.SLIDING_WINDOW.SIZE, "TEST.SLIDING_WINDOW.SIZE")
    return input_size(cfg)


def metadata(cfg, shape: ImageShape, outputs: str) -> dict[str, str]:
    """The metadata that a program needs to run the file and to show its result; lists are JSON.

    ``input_size`` is [height, width], or null for any size; images are then brought to
    ``test_size``: [shortest, longest] side, 0 for as they are. ``padding`` is the pixel value that
    the model takes for no image. ``value_range`` is what the values of images with more than 8 bits
    range over, which become 0 to 255, or null. ``temperature`` is what logits are divided by before
    they become confidences.
    """
    num_classes = cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
    dataset = metadata_of(cfg, cfg.DATASETS.TEST[0]) if cfg.DATASETS.TEST else {}
    classes = dataset.get("stuff_classes") or [str(index) for index in range(num_classes)]
    colors = dataset.get("stuff_colors") or generate_palette(num_classes)
    lists = {
        "classes": list(classes),
        "colors": [list(color) for color in colors],
        "input_size": None if shape.dynamic else [shape.height, shape.width],
        "test_size": [cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST],
        "padding": list(cfg.MODEL.PIXEL_MEAN),
        "value_range": dataset.get("value_range"),
    }
    return {
        "image_format": cfg.INPUT.FORMAT,
        "output": outputs,
        "temperature": str(Temperatures.from_config(cfg).single),
        "d2_ctxseg_version": __version__,
        **{name: json.dumps(value) for name, value in lists.items()},
    }


def config_of_one_view(arguments: argparse.Namespace):
    """The config without features that are not exported, which are logged."""
    cfg = with_fitted_temperatures(config_of(arguments))
    if not cfg.MODEL.WEIGHTS:
        raise UserError(
            "MODEL.WEIGHTS is empty: only a trained model is worth exporting. Name its checkpoint "
            "with --weights path/to/model_final.pth"
        )
    for key, name in (("SLIDING_WINDOW", "sliding windows"), ("AUG", "test-time augmentation")):
        if cfg.TEST[key].ENABLED:
            logger.warning("TEST.%s is enabled, but the file predicts without %s.", key, name)
    if not cfg.TEST.PAD:
        logger.warning("TEST.PAD is False, but the file pads images.")
    return cfg


def build(cfg):
    """The trained model in eval mode, without modules that only training needs."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.TEST.SLIDING_WINDOW.ENABLED = False
    cfg.TEST.PAD = True
    # It is of no use without gradients, and exporters may stumble over it.
    cfg.MODEL.ENCODER.ACTIVATION_CHECKPOINTING = False
    model = build_model(cfg).eval()
    load_weights(model, cfg.MODEL.WEIGHTS)
    strip_training_only(model)
    return model


def report(arguments: argparse.Namespace, cfg, shape: ImageShape, agreement: Agreement) -> str:
    """Lines about the file and its check."""
    path, channels = arguments.output_file, len(cfg.MODEL.PIXEL_MEAN)
    sides = (shape.batch_size, shape.height, shape.width)
    batch, height, width = ("batch", "height", "width") if shape.dynamic else sides
    result = f"int64 ({batch}, {height}, {width})"
    if arguments.outputs == "logits":
        num_classes = cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
        result = f"float32 ({batch}, {num_classes}, {height}, {width})"
    if arguments.outputs == "labels+confidence":
        temperature = Temperatures.from_config(cfg).single
        fitted = "" if cfg.TEST.TEMPERATURE else ", which nobody fitted: see d2-ctxseg calibrate"
        result += f", float32 of the same shape at temperature {temperature:.4g}{fitted}"
    lines = [
        f"Wrote '{path}', {num_bytes(path) / 1e6:.1f} MB.",
        f"input   {INPUT_NAME}: float32 ({batch}, {channels}, {height}, {width}), "
        f"{cfg.INPUT.FORMAT} pixel values 0 to 255",
        f"output  {arguments.outputs}: {result}",
        f"check   {agreement.other_labels:.4%} of {agreement.pixels} pixels have another label "
        f"than the model gives; at {agreement.unclear:.4%} rounding may decide",
    ]
    if arguments.format == "onnx":
        lines.append(f"run     python {ONNX_PROGRAM} {path} IMAGE OUTPUT.png (without PyTorch)")
    if agreement.logit_difference is not None:
        lines.append(
            f"        logits differ by at most {agreement.logit_difference:.2g}; their range is "
            f"{agreement.logit_range:.3g}"
        )
    return "\n".join(lines)


def num_bytes(path: Path) -> int:
    """Size of the file and of the weights beside it."""
    return sum(file.stat().st_size for file in (path, data_file(path)) if file.exists())


def main(arguments: argparse.Namespace) -> None:
    setup_logger(name="d2_ctxseg")
    if arguments.format == "onnx":
        # Such files are not bound to a device, and constants of a GPU would only be copied.
        arguments.opts = [*arguments.opts, "MODEL.DEVICE", "cpu"]
    check_output_file(arguments.output_file, "--output-file")
    cfg = config_of_one_view(arguments)
    size = image_size(cfg, arguments.size)
    shape = ImageShape(arguments.batch_size, *size[:2], dynamic=arguments.dynamic)
    if not shape.dynamic:
        logger.info("Images of %dx%d (height x width), from %s.", *size)
    check_arguments(arguments.output_file, arguments.format, shape, arguments.overwrite)
    agreement = export_segmentor(
        build(cfg),
        arguments.output_file,
        arguments.format,
        shape,
        output=arguments.outputs,
        temperature=Temperatures.from_config(cfg).single,
        metadata=metadata(cfg, shape, arguments.outputs),
        overwrite=arguments.overwrite,
    )
    print(report(arguments, cfg, shape, agreement))
