#!/usr/bin/env python
"""Segment an image with an ONNX file of d2-ctxseg export.

    python onnx_inference.py model.onnx photo.jpg classes.png
    python onnx_inference.py model.onnx photo.jpg classes.png --blank-below 0.7

The second command leaves pixels of lower confidence black. The file must be exported with
--outputs labels+confidence.

The script needs numpy, pillow and onnxruntime, but not PyTorch or this project. It can be copied to
where the model runs.
"""

import argparse
import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

REQUIRED_METADATA = ("input_size", "test_size", "padding", "image_format", "output", "colors")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("model", "image", "output"):
        parser.add_argument(name, metavar=name.upper())
    parser.add_argument("--blank-below", type=float, metavar="CONFIDENCE", default=0.0)
    files = parser.parse_args()
    try:
        session = onnxruntime.InferenceSession(files.model, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has a separate class for each cause
        sys.exit(f"error: {files.model} cannot be read as an ONNX file: {error}")
    metadata = session.get_modelmeta().custom_metadata_map
    if any(name not in metadata for name in REQUIRED_METADATA):
        sys.exit(f"error: {files.model} lacks the metadata that d2-ctxseg export writes")
    if metadata["image_format"] not in ("RGB", "BGR"):
        sys.exit(f"error: {files.model} takes other channels than colours, which is not supported")
    try:
        image = ImageOps.exif_transpose(Image.open(files.image)).convert("RGB")
    except Exception as error:  # damaged data makes the decoders raise almost anything
        sys.exit(f"error: {files.image} cannot be read as an image: {error}")

    if files.blank_below > 0 and metadata["output"] != "labels+confidence":
        sys.exit(f"error: {files.model} has no confidences: export --outputs labels+confidence")
    labels, confidence = segment(session, metadata, image)
    unsure = confidence < files.blank_below
    colors, classes = (json.loads(metadata[name]) for name in ("colors", "classes"))
    pixels = np.uint8(colors)[labels]
    pixels[unsure] = 0
    try:
        Image.fromarray(pixels).resize(image.size, Image.NEAREST).save(files.output)
    except (OSError, ValueError) as error:  # ValueError: an unknown file type
        sys.exit(f"error: {files.output} cannot be written: {error}")
    for label, count in zip(*np.unique(labels[~unsure], return_counts=True)):
        print(f"{count / labels.size:6.1%}  {classes[label]}")
    if unsure.any():
        print(f"{unsure.mean():6.1%}  unsure")


def segment(session, metadata: dict[str, str], image: Image.Image) -> tuple[np.ndarray, np.ndarray]:
    """The class of each pixel (h, w) at the size of the model's input, and its confidence.

    The confidence is 1 if the file has none.
    """
    # The image keeps its aspect ratio; the rest of the model's input is padding.
    width, height = image.size
    size = json.loads(metadata["input_size"])
    shortest, longest = json.loads(metadata["test_size"])
    scale = min(shortest / min(height, width), longest / max(height, width)) if shortest else 1
    if size:
        scale = min(size[0] / height, size[1] / width)
    h, w = max(1, round(height * scale)), max(1, round(width * scale))
    pixels = np.tile(np.float32(json.loads(metadata["padding"])), (*(size or (h, w)), 1))
    rgb = np.asarray(image.resize((w, h), Image.BILINEAR))
    pixels[:h, :w] = rgb if metadata["image_format"] == "RGB" else rgb[..., ::-1]
    output, *confidence = session.run(None, {"image": pixels.transpose(2, 0, 1)[None]})
    labels = output.argmax(1) if metadata["output"] == "logits" else output
    confidence = confidence[0] if confidence else np.ones(labels.shape)
    return labels[0, :h, :w], confidence[0, :h, :w]


if __name__ == "__main__":
    main()
