"""Convert a checkpoint of the authors' code to one of this project."""

import argparse

import torch

from detectron2.modeling import build_backbone, build_model

from ..checkpoint import read_checkpoint
from ..checkpoint.official_models import convert_official_backbone, convert_official_model
from ..utils.errors import MissingFileError, UserError
from ..utils.files import atomic_write
from ..utils.outputs import check_output_file
from .model_config import config_of

WEIGHTS_ALONE = (
    "If it holds objects of the authors' code beside the weights, a file of the weights alone is "
    "needed: as its authors may offer one, or saved where their code made the model, with "
    "torch.save(model.state_dict(), 'weights.pth')."
)


def main(options: argparse.Namespace) -> None:
    if options.output.exists() and not options.overwrite:
        raise UserError(
            f"--output: '{options.output}' already exists. Choose another file or add --overwrite."
        )
    check_output_file(options.output, "--output")
    official = read_official(options.input)
    cfg = config_of(options, "MODEL.DEVICE", "cpu")
    if options.backbone_only:
        weights, unused = convert_official_backbone(official, build_backbone(cfg))
        print(f"Not used: {', '.join(unused) or 'nothing'}.")
    else:
        weights = convert_official_model(official, build_model(cfg))
    with atomic_write(options.output, "wb") as file:
        torch.save({"model": weights}, file)
    print(f"Wrote {len(weights)} tensors to '{options.output}'.")


def read_official(path: str) -> dict:
    """Read the authors' file without executing code from it.

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
