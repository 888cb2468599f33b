#!/usr/bin/env python
"""Segment an image with an ONNX file of tools/export_model.py.

    python demo/onnx_inference.py model.onnx photo.jpg classes.png

It needs numpy, pillow and onnxruntime; neither PyTorch nor this project.
"""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

model_file, image_file, output_file = sys.argv[1:]
session = onnxruntime.InferenceSession(model_file, providers=["CPUExecutionProvider"])
metadata = session.get_modelmeta().custom_metadata_map
if metadata["image_format"] not in ("RGB", "BGR"):
    sys.exit("error: the model takes other channels than colours, which this demo does not read")
image = ImageOps.exif_transpose(Image.open(image_file)).convert("RGB")

# The image keeps its proportions; what it leaves of the model's size is padding.
height, width = image.height, image.width
size = json.loads(metadata["input_size"])
shortest, longest = json.loads(metadata["test_size"])
scale = min(shortest / min(height, width), longest / max(height, width)) if shortest else 1
if size:
    scale = min(size[0] / height, size[1] / width)
h, w = max(1, round(height * scale)), max(1, round(width * scale))
pixels = np.tile(np.float32(json.loads(metadata["padding"])), (*(size or (h, w)), 1))
rgb = np.asarray(image.resize((w, h), Image.BILINEAR))
pixels[:h, :w] = rgb if metadata["image_format"] == "RGB" else rgb[..., ::-1]

output = session.run(None, {"image": pixels.transpose(2, 0, 1)[None]})[0][0]
labels = (output if metadata["output"] == "labels" else output.argmax(0))[:h, :w]
colors, classes = (json.loads(metadata[name]) for name in ("colors", "classes"))
picture = Image.fromarray(np.uint8(colors)[labels])
picture.resize((width, height), Image.NEAREST).save(output_file)
for label, count in zip(*np.unique(labels, return_counts=True)):
    print(f"{count / labels.size:6.1%}  {classes[label]}")
