"""Take out of a checkpoint what only training needs.

    python tools/strip_checkpoint.py --config-file configs/camvid/fpn_resnet18_context_aware.yaml \\
        --weights output/model_final.pth --output output/model_stripped.pth

Left out are the context-aware classifier's oracle, the memory of Gaussian mixtures, auxiliary
heads, and the state of optimizer and schedule. The result predicts exactly as before, in
train_net.py --eval-only, the demos and any code that calls d2_ctxseg.checkpoint.load_weights; it
cannot be trained further.
"""

import argparse
from pathlib import Path

import torch

from detectron2.modeling import build_model

from ..checkpoint import load_weights, strip_training_only
from ..engine import setup_config
from ..utils.errors import UserError
from ..utils.files import atomic_write
from ..utils.outputs import check_output_file


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config-file", required=True, metavar="FILE")
    parser.add_argument("--weights", required=True, metavar="FILE", help="the full checkpoint")
    parser.add_argument("--output", required=True, type=Path, metavar="FILE")
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="KEY VALUE ... of the config")
    arguments = parser.parse_args()
    if arguments.output.exists():
        raise UserError(f"--output: '{arguments.output}' is there already. Name another file.")
    check_output_file(arguments.output, "--output")
    options = [*arguments.opts, "MODEL.DEVICE", "cpu"]
    model = build_model(setup_config(arguments.config_file, options, for_inference=True))
    load_weights(model, arguments.weights)
    removed = strip_training_only(model)
    with atomic_write(arguments.output, "wb") as file:
        torch.save({"model": model.state_dict()}, file)
    print(f"Removed {', '.join(removed) or 'no part of the model'}; wrote '{arguments.output}'.")
