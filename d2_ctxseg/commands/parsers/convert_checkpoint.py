"""Convert a checkpoint of the authors' code to one of this project.

    d2-ctxseg convert upernet_swin_tiny_cac.pth --output models/upernet_swin_t_context_aware.pth \\
        --config-file ade20k/upernet_swin_t_context_aware

The config describes the same network. The result is a checkpoint of the whole model, for
--weights of the other commands. The command fails unless every weight of the file has a place in
the model and every weight of the model is in the file. What is converted:
d2_ctxseg.checkpoint.official_models.convert_official_model.

With --backbone-only the file is a backbone pretrained on ImageNet, or a whole model, of which the
backbone alone is taken. The result is for MODEL.ENCODER.WEIGHTS:

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
