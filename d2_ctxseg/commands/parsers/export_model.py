"""Write a trained segmentor to a file that runs without this project.

    d2-ctxseg export --run output/mymodel --format onnx --output-file model.onnx --size 240 320
    d2-ctxseg export --config-file CONFIG --weights WEIGHTS --format torch_export --dynamic \\
        --outputs logits --output-file model.pt2

Formats:
  onnx          for onnxruntime and others; demo/onnx_inference.py runs it
  torchscript   for PyTorch in C++ and Python, torch.jit.load; one size; deprecated by PyTorch
  torch_export  for PyTorch, torch.export.load

The file takes a batch of images, float32 (B, C, H, W), pixel values 0 to 255 with the channels in
the order of INPUT.FORMAT ("ALL": as in the image files). It gives the class of every pixel, int64
(B, H, W), or with --outputs logits the classes' scores, (B, K, H, W). With --outputs
labels+confidence it gives two: the classes, and how sure the model is of them, float32 (B, H, W) in
[0, 1], at the temperature that d2-ctxseg calibrate fitted (TEST.TEMPERATURE).

Names and colours of the classes are inside. The file is read again and compared with the model; if
its outputs differ from the model's, nothing is written.

With --dynamic, batch and image may have any size. Not all models can be exported so: pyramid
pooling (PSPHead, UPerHead) and Swin are bound to one size. One view of the whole image is exported,
without sliding windows and test-time augmentation.
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
        "--outputs", default="labels", choices=OUTPUTS, help="what it gives (default: labels)"
    )
    parser.add_argument(
        "--size",
        nargs=2,
        type=integer_from(1),
        metavar=("HEIGHT", "WIDTH"),
        help="of the images (default: the sliding window's, the training crop's or the test size)",
    )
    parser.add_argument(
        "--batch-size", type=integer_from(1), default=1, help="images at once (default: 1)"
    )
    parser.add_argument("--dynamic", action="store_true", help="images of any size and number")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing file")
    return parser
