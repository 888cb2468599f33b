"""Convert a checkpoint of the authors' code to one of this project.

    python tools/convert_checkpoint.py upernet_swin_tiny_cac.pth \\
        --config-file configs/ade20k/upernet_swin_t_context_aware.yaml \\
        --output models/upernet_swin_t_context_aware.pth

The config describes the same network; KEY VALUE pairs at the end change it. The result is a
checkpoint of the whole model, for MODEL.WEIGHTS, train_net.py --eval-only and the demos. The tool
fails unless every weight of the file has a place in the model and every weight of the model is in
the file. What is converted: d2_ctxseg.checkpoint.official_models.convert_official_model.

With --backbone-only the file is a backbone pretrained on ImageNet, or a whole model, of which the
backbone alone is taken. The result is for MODEL.ENCODER.WEIGHTS:

    python tools/convert_checkpoint.py resnet101_v1c.pth --backbone-only \\
        --config-file configs/ade20k/fcn_r101_linear.yaml --output models/resnet101_v1c.pth
"""

import argparse
from pathlib import Path

import torch

from detectron2.modeling import build_backbone, build_model

from ..checkpoint import read_checkpoint
from ..checkpoint.official_models import convert_official_backbone, convert_official_model
from ..engine import setup_config
from ..utils.errors import MissingFileError, UserError
from ..utils.files import atomic_write
from ..utils.outputs import check_output_file

WEIGHTS_ALONE = (
    "If it holds objects of the authors' code beside the weights, a file of the weights alone is "
    "needed: as its authors may offer one, or saved where their code made the model, with "
    "torch.save(model.state_dict(), 'weights.pth')."
)


def main(arguments: list[str] | None = None) -> None:
    """Run the tool with these command line arguments (default: those of the process)."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("input", metavar="INPUT", help="the authors' checkpoint (.pth)")
    parser.add_argument("--config-file", required=True, metavar="FILE")
    parser.add_argument("--output", required=True, type=Path, metavar="FILE")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing --output")
    parser.add_argument(
        "--backbone-only", action="store_true", help="write weights for MODEL.ENCODER.WEIGHTS"
    )
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="changes of the config")
    options = parser.parse_intermixed_args(arguments)
    if options.output.exists() and not options.overwrite:
        raise UserError(
            f"--output: '{options.output}' is there already. Name another file or add --overwrite."
        )
    check_output_file(options.output, "--output")
    official = read_official(options.input)
    changes = [*options.opts, "MODEL.DEVICE", "cpu"]
    cfg = setup_config(options.config_file, changes, for_inference=True)
    if options.backbone_only:
        weights, unused = convert_official_backbone(official, build_backbone(cfg))
        print(f"Not used: {', '.join(unused) or 'nothing'}.")
    else:
        weights = convert_official_model(official, build_model(cfg))
    with atomic_write(options.output, "wb") as file:
        torch.save({"model": weights}, file)
    print(f"Wrote {len(weights)} tensors to '{options.output}'.")


def read_official(path: str) -> dict:
    """The content of the authors' file, read without executing code from it.

    Raises:
        MissingFileError: there is no such file.
        UserError: it is no checkpoint, or holds more than tensors and plain containers.
    """
    try:
        return read_checkpoint(path)
    except MissingFileError:
        raise
    except UserError as error:
        raise UserError(f"{error}\n{WEIGHTS_ALONE}") from error
