"""Convert predictions to the formats of annotation tools: COCO, Label Studio, CVAT, FiftyOne.

Each class in an image becomes one annotation, which is a mask. The formats are documented at
https://cocodataset.org/#format-data, https://labelstud.io/tags/brushlabels,
https://docs.cvat.ai/docs/dataset_management/formats/format-cvat and https://docs.voxel51.com.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pycocotools.mask as mask_util

from ..evaluation.saved_predictions import encode_coco
from ..utils.errors import UserError
from .segmentation import Segmentation

# Label Studio's encoding of masks: bits of a value, and the possible bits of a run's length.
_WORD_BITS = 8
_LENGTH_BITS = (3, 4, 8, 16)
# A mask of Label Studio is an image with four channels.
_CHANNELS = 4


def coco_dataset(results: Iterable[Segmentation]) -> dict:
    """A COCO dataset: images, categories with ids from 1, and an RLE mask for each class.

    The masks are not marked as crowds, because programs ignore crowds in training.
    """
    images, annotations, categories = [], [], []
    for number, result in enumerate(results, start=1):
        height, width = result.labels.shape
        name = image_name(result, number)
        images.append({"id": number, "file_name": name, "width": width, "height": height})
        categories = [
            {"id": index, "name": name, "supercategory": ""}
            for index, name in enumerate(result.classes, start=1)
        ]
        for entry in encode_coco(result.labels, name):
            rle = entry["segmentation"]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": entry["category_id"] + 1,
                    "segmentation": rle,
                    "area": int(mask_util.area(rle)),
                    "bbox": [float(side) for side in mask_util.toBbox(rle)],
                    "iscrowd": 0,
                }
            )
    return {"images": images, "annotations": annotations, "categories": categories}


def label_studio_tasks(
    results: Iterable[Segmentation], *, prefix: str = "", model_version: str = "d2_ctxseg"
) -> list[dict]:
    """Tasks with predictions for Label Studio, with masks as brush regions.

    Args:
        results: the predictions. Images without a path are named image_1, image_2, ...
        prefix: the beginning of the images' URLs, such as "/data/local-files/?d=photos/" for Label
            Studio's local storage; the image's file name is appended.
        model_version: text that Label Studio shows beside the predictions.
    """
    tasks = []
    for number, result in enumerate(results, start=1):
        height, width = result.labels.shape
        regions = [
            {
                "id": f"{number}-{index}",
                "type": "brushlabels",
                "from_name": "label",
                "to_name": "image",
                "original_width": width,
                "original_height": height,
                "image_rotation": 0,
                "value": {
                    "format": "rle",
                    "rle": encode_brush(result.labels == index),
                    "brushlabels": [result.classes[index]],
                },
            }
            for index in np.unique(result.labels).tolist()
        ]
        prediction = {"model_version": model_version, "result": regions}
        if result.confidence is not None:
            prediction["score"] = float(result.confidence.mean())
        image = f"{prefix}{image_name(result, number)}"
        tasks.append({"data": {"image": image}, "predictions": [prediction]})
    return tasks


def label_studio_config(classes: Sequence[str], palette: np.ndarray) -> str:
    """The labelling config (XML) of a Label Studio project for these tasks.

    Args:
        classes: names of the classes.
        palette: colours of the classes, uint8 RGB (K, 3).
    """
    view = ElementTree.Element("View")
    ElementTree.SubElement(view, "Image", name="image", value="$image", zoom="true")
    labels = ElementTree.SubElement(view, "BrushLabels", name="label", toName="image")
    for name, color in zip(classes, palette):
        ElementTree.SubElement(labels, "Label", value=name, background=_hex(color))
    ElementTree.indent(view)
    return ElementTree.tostring(view, encoding="unicode")


def encode_brush(mask: np.ndarray) -> list[int]:
    """Encode a mask, bool (H, W), as Label Studio's brush regions do.

    The header holds the number of values (32 bits), the bits of a value and the four possible bits
    of a length. Each run is a 1, the index of its length's bits (2 bits), the length minus one, and
    the value. The values are those of an image with four channels, row by row.

    Returns:
        The bytes of the encoding, integers from 0 to 255.
    """
    values, lengths = _runs(mask.ravel())
    bits = [f"{_CHANNELS * mask.size:032b}{_WORD_BITS - 1:05b}"]
    bits += [f"{size - 1:04b}" for size in _LENGTH_BITS]
    longest = 2 ** _LENGTH_BITS[-1]
    for value, length in zip(values.tolist(), (_CHANNELS * lengths).tolist()):
        word = f"{255 * value:08b}"
        for part in [longest] * (length // longest) + [length % longest]:
            if part:
                place = next(i for i, size in enumerate(_LENGTH_BITS) if part <= 2**size)
                bits.append(f"1{place:02b}{part - 1:0{_LENGTH_BITS[place]}b}{word}")
    text = np.frombuffer("".join(bits).encode(), np.uint8) - ord("0")
    return np.packbits(text).tolist()


def cvat_annotations(results: Iterable[Segmentation]) -> str:
    """The content of annotations.xml, "CVAT for images 1.1", with a mask for each class.

    It can be imported into a CVAT task whose images have the same names and whose labels have the
    names of the classes.
    """
    root = ElementTree.Element("annotations")
    ElementTree.SubElement(root, "version").text = "1.1"
    labels = ElementTree.SubElement(
        ElementTree.SubElement(ElementTree.SubElement(root, "meta"), "task"), "labels"
    )
    for number, result in enumerate(results):
        if number == 0:
            for name, color in zip(result.classes, result.palette):
                label = ElementTree.SubElement(labels, "label")
                ElementTree.SubElement(label, "name").text = name
                ElementTree.SubElement(label, "color").text = _hex(color)
                ElementTree.SubElement(label, "type").text = "mask"
        height, width = map(str, result.labels.shape)
        image = ElementTree.SubElement(
            root,
            "image",
            {"id": str(number), "name": image_name(result, number + 1)}
            | {"width": width, "height": height},
        )
        for attributes in _cvat_masks(result):
            ElementTree.SubElement(image, "mask", attributes)
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def add_to_fiftyone(results: Iterable[Segmentation], name: str, field: str = "prediction"):
    """Create a FiftyOne dataset with the images and their predictions as masks.

    In FiftyOne the value 0 is the background, so class index 0 has the value 1 in the masks.

    Args:
        results: predictions for image files.
        name: the name of the dataset, which must not exist.
        field: the field of the samples that holds the masks.

    Returns:
        The dataset, which is persistent.

    Raises:
        UserError: FiftyOne is not installed, it has a dataset of this name, or a result has no
            path.
    """
    try:
        import fiftyone
    except ModuleNotFoundError as error:
        raise UserError("FiftyOne is not installed: pip install fiftyone") from error
    if fiftyone.dataset_exists(name):
        raise UserError(f"FiftyOne already has a dataset '{name}': choose another name.")
    samples, classes = [], ()
    for result in results:
        if result.path is None:
            raise UserError("FiftyOne needs image files: predict paths, not arrays.")
        classes = result.classes
        mask = (result.labels + 1).astype(np.uint8 if len(classes) < 256 else np.uint16)
        sample = fiftyone.Sample(filepath=str(result.path.resolve()))
        sample[field] = fiftyone.Segmentation(mask=mask)
        samples.append(sample)
    dataset = fiftyone.Dataset(name, persistent=True)
    dataset.default_mask_targets = dict(enumerate(classes, start=1))
    dataset.add_samples(samples)
    return dataset


def image_name(result: Segmentation, number: int) -> str:
    """The file name of a result's image, or "image_{number}" if it has no path."""
    return f"image_{number}" if result.path is None else Path(result.path).name


def _cvat_masks(result: Segmentation) -> Iterator[dict[str, str]]:
    """The attributes of each class's mask: run lengths in its box, row by row, zeros first."""
    for index in np.unique(result.labels).tolist():
        mask = result.labels == index
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        box = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        values, lengths = _runs(box.ravel())
        runs = [*([0] if values[0] else []), *lengths.tolist()]
        bounds = {"left": columns[0], "top": rows[0], "width": box.shape[1], "height": box.shape[0]}
        yield {
            "label": result.classes[index],
            "source": "auto",
            "occluded": "0",
            "rle": ", ".join(map(str, runs)),
            **{key: str(value) for key, value in bounds.items()},
            "z_order": "0",
        }


def _runs(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The values and lengths of the runs in an array, bool (N,)."""
    starts = np.flatnonzero(np.diff(values, prepend=~values[:1]))
    return values[starts], np.diff(starts, append=len(values))


def _hex(color: np.ndarray) -> str:
    return "#{:02x}{:02x}{:02x}".format(*map(int, color))
