"""Export a trained segmentor to a file that runs without this project.

    d2-ctxseg export --run output/mymodel --format onnx --output-file model.onnx --size 240 320
    d2-ctxseg export --config-file CONFIG --weights WEIGHTS --format torch_export --dynamic \\
        --outputs logits --output-file model.pt2

Formats:
  onnx          for onnxruntime and other runtimes; a program for it is included
  torchscript   for torch.jit.load in C++ and Python; one image size; deprecated by PyTorch
  torch_export  for torch.export.load

The input of the file is a batch of images, float32 (B, C, H, W), pixel values 0 to 255 with the
channels in the order of INPUT.FORMAT ("ALL": as in the image files). The output is the class of
every pixel, int64 (B, H, W); with --outputs logits, the logits (B, K, H, W); with --outputs
labels+confidence, the classes and their probabilities, float32 (B, H, W) in [0, 1], at the
temperature that d2-ctxseg calibrate fitted (TEST.TEMPERATURE).

The file contains the names and colours of the classes. It is read again and compared with the
model. If its outputs differ from the model's, nothing is written.

With --dynamic, batch and image may have any size. Some models do not support it: pyramid pooling
(PSPHead, UPerHead) and Swin need one size. Sliding windows and test-time augmentation are not
exported.
"""

from pathlib import Path

from ...utils.arguments import integer_from
from ..command_parser import CommandParser

FORMATS = ("torchscript", "onnx", "torch_export")
OUTPUTS = ("labels", "logits", "labels+confidence")


def get_parser() -> CommandParser:
    """The command line."""
    parser = CommandParser(__doc__)
    parser.add_model()
    parser.add_argument("--format", required=True, choices=FORMATS)
    parser.add_argument("--output-file", required=True, type=Path, metavar="FILE")
    parser.add_argument(
        "--outputs", default="labels", choices=OUTPUTS, help="outputs of the file (default: labels)"
    )
    parser.add_argument(
        "--size",
        nargs=2,
        type=integer_from(1),
        metavar=("HEIGHT", "WIDTH"),
        help="size of the images (default: that of sliding windows, training crops or test images)",
    )
    parser.add_argument(
        "--batch-size", type=integer_from(1), default=1, help="images per batch (default: 1)"
    )
    parser.add_argument("--dynamic", action="store_true", help="images of any size and number")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing file")
    return parser
