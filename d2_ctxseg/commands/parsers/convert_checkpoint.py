"""Convert a checkpoint of the authors' code to one of this project.

    d2-ctxseg convert upernet_swin_tiny_cac.pth --output models/upernet_swin_t_context_aware.pth \\
        --config-file ade20k/upernet_swin_t_context_aware

The config must describe the same network. The result is a checkpoint of the whole model, for
--weights of the other commands. The command fails unless the file and the model have the same
weights. d2_ctxseg.checkpoint.official_models.convert_official_model lists the supported networks.

With --backbone-only, only the backbone is converted. The file holds a backbone pretrained on
ImageNet, or a whole model. The result is for MODEL.ENCODER.WEIGHTS:

    d2-ctxseg convert resnet101_v1c.pth --backbone-only --config-file ade20k/fcn_r101_linear \\
        --output models/resnet101_v1c.pth
"""

from pathlib import Path

from ..command_parser import CommandParser


def get_parser() -> CommandParser:
    """The command line."""
    parser = CommandParser(__doc__)
    parser.add_argument("input", metavar="INPUT", help="the authors' checkpoint (.pth)")
    parser.add_model(named=False, weights=False)
    parser.add_argument("--output", required=True, type=Path, metavar="FILE")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing --output")
    parser.add_argument(
        "--backbone-only", action="store_true", help="write weights for MODEL.ENCODER.WEIGHTS"
    )
    return parser
