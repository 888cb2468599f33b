"""Segments an image with an exported ONNX file: NumPy, Pillow and onnxruntime are enough.

python demo/onnx_inference.py model.onnx photo.jpg labels.png
"""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image

model_file, image_file, output_file = sys.argv[1:]
session = onnxruntime.InferenceSession(model_file)
metadata = session.get_modelmeta().custom_metadata_map
model_input = session.get_inputs()[0]  # (batch, 3, height, width), float32, 0 to 255

image = Image.open(image_file).convert("RGB")
height, width = model_input.shape[2:]
if isinstance(height, int):  # a model of one size
    resized = image.resize((width, height), Image.Resampling.BILINEAR)
else:
    resized = image
pixels = np.asarray(resized, dtype=np.float32)
if metadata["input_format"] == "BGR":
    pixels = pixels[:, :, ::-1]
batch = np.ascontiguousarray(pixels.transpose(2, 0, 1)[None])
(result,) = session.run(None, {model_input.name: batch})
labels = result[0] if result.ndim == 3 else result[0].argmax(axis=0)  # a label map, or logits

picture = Image.fromarray(labels.astype(np.uint8)).resize(image.size, Image.Resampling.NEAREST)
if "colors" in metadata:
    picture.putpalette(np.array(json.loads(metadata["colors"]), dtype=np.uint8).tobytes())
picture.save(output_file)
for label, count in zip(*np.unique(labels, return_counts=True)):
    print(f"{json.loads(metadata['classes'])[label]}: {100 * count / labels.size:.1f} %")
