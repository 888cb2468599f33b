#!/usr/bin/env python3
"""Write a trained segmentor as TorchScript, ONNX or torch.export file, and check it.

    python tools/export_model.py --config-file CONFIG --format onnx --output-file model.onnx \
        --opts MODEL.WEIGHTS model_final.pth

The file takes images (batch, 3, height, width), float32, 0 to 255, in the channel order of
INPUT.FORMAT, and gives label maps (batch, height, width) int64, or logits. Class names, colours and
the channel order are in the file's metadata; demo/onnx_inference.py shows how to use them.
"""

import argparse
import json
import logging
from pathlib import Path

import d2_ctxseg
from d2_ctxseg.checkpoint import load_weights, strip_training_only
from d2_ctxseg.engine import setup_config
from d2_ctxseg.errors import UserError, run_command
from d2_ctxseg.export import FORMATS, OUTPUTS, export_segmentor
from detectron2.data import MetadataCatalog
from detectron2.modeling import build_model
from detectron2.utils.logger import setup_logger

logger = logging.getLogger("d2_ctxseg.export_model")


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True, metavar="FILE", help="config of the model")
    parser.add_argument("--format", required=True, choices=FORMATS)
    parser.add_argument("--output-file", required=True, type=Path, metavar="FILE")
    parser.add_argument("--output", choices=OUTPUTS, default="labels", help="(%(default)s)")
    parser.add_argument(
        "--size",
        nargs=2,
        type=int,
        metavar=("HEIGHT", "WIDTH"),
        help="of the images; INPUT.CROP.SIZE unless given",
    )
    parser.add_argument("--batch-size", type=int, default=1, help="images at once (%(default)s)")
    parser.add_argument(
        "--dynamic", action="store_true", help="any batch, height and width (onnx, torch_export)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace OUTPUT_FILE")
    parser.add_argument(
        "--opts",
        nargs=argparse.REMAINDER,
        default=[],
        metavar="KEY VALUE",
        help="config keys to change, such as MODEL.WEIGHTS model_final.pth; the last option",
    )
    return parser.parse_args()


def image_size(cfg, size: list[int] | None) -> tuple[int, int]:
    """Height and width that were asked for, or that the config's crops have."""
    if size is None:
        if not cfg.INPUT.CROP.ENABLED or cfg.INPUT.CROP.TYPE != "absolute":
            raise UserError("The config has no crop size to take: name --size HEIGHT WIDTH.")
        size = [int(length) for length in cfg.INPUT.CROP.SIZE]
    if min(size) < 1:
        raise UserError(f"--size must be a positive height and width, got {tuple(size)}.")
    return tuple(size)


def metadata_of(cfg) -> dict[str, str]:
    """What a program needs to know to use the model; lists as JSON."""
    names = {"input_format": cfg.INPUT.FORMAT, "d2_ctxseg": d2_ctxseg.__version__}
    if cfg.DATASETS.TEST:
        metadata = MetadataCatalog.get(cfg.DATASETS.TEST[0])
        names["classes"] = json.dumps(list(metadata.stuff_classes))
        if metadata.get("stuff_colors"):
            names["colors"] = json.dumps([list(map(int, color)) for color in metadata.stuff_colors])
    return names


def main() -> None:
    arguments = parse_arguments()
    setup_logger(name="d2_ctxseg", abbrev_name="ctxseg")
    opts = ["MODEL.DEVICE", "cpu", *arguments.opts]
    cfg = setup_config(arguments.config_file, opts, for_inference=True)
    if not cfg.MODEL.WEIGHTS:
        raise UserError("MODEL.WEIGHTS is empty. Add --opts MODEL.WEIGHTS path/to/model_final.pth")
    if arguments.batch_size < 1:
        raise UserError(f"--batch-size must be at least 1, got {arguments.batch_size}.")
    for key, enabled in (
        ("TEST.SLIDING_WINDOW", cfg.TEST.SLIDING_WINDOW.ENABLED),
        ("TEST.AUG", cfg.TEST.AUG.ENABLED),
    ):
        if enabled:
            logger.warning("%s is not exported: the file predicts whole images, once.", key)
    size = image_size(cfg, arguments.size)
    model = build_model(cfg).eval()
    load_weights(model, cfg.MODEL.WEIGHTS)
    strip_training_only(model)
    report = export_segmentor(
        model,
        arguments.output_file,
        arguments.format,
        size=size,
        output=arguments.output,
        batch_size=arguments.batch_size,
        dynamic=arguments.dynamic,
        metadata=metadata_of(cfg),
        overwrite=arguments.overwrite,
    )
    shape = f"{arguments.batch_size}, 3, {size[0]}, {size[1]}"
    shape = "batch, 3, height, width" if arguments.dynamic else shape
    logger.info(
        "%s: %.1f MB, images (%s) to %s; differs from the model by %.1e of the logits' range",
        report.path,
        report.num_bytes / 1e6,
        shape,
        arguments.output,
        report.difference,
    )


if __name__ == "__main__":
    run_command(main)
