"""Predictions in the formats of annotation tools, read as their documentation says."""

import io
import json
import sys
from contextlib import redirect_stdout
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pytest
from daylight import half_bright, make_run
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image
from pycocotools.coco import COCO

from d2_ctxseg.commands.annotate import main
from d2_ctxseg.commands.parsers.annotate import get_parser
from d2_ctxseg.deployment.annotations import (
    add_to_fiftyone,
    coco_dataset,
    cvat_annotations,
    encode_brush,
    label_studio_config,
    label_studio_tasks,
)
from d2_ctxseg.deployment.segmentation import Segmentation
from d2_ctxseg.utils.errors import UsageError, UserError

CLASSES = ("road", 'tree & "bush"', "car", "sky")
PALETTE = np.array([[255, 0, 0], [0, 255, 16], [0, 0, 255], [9, 9, 9]], np.uint8)


def result_of(labels, path=None, confidence=None):
    image = np.zeros((*labels.shape, 3), np.uint8)
    return Segmentation(image, labels, confidence, CLASSES, PALETTE, path=path)


@pytest.fixture
def results(tmp_path):
    """Of two images; no class of the second is one of the first but the tree."""
    rng = np.random.default_rng(0)
    first, second = rng.integers(0, 2, (13, 17)), rng.integers(1, 4, (5, 6))
    confidence = np.full((5, 6), 0.75, np.float32)
    return [
        result_of(first, tmp_path / "a.jpg"),
        result_of(second, tmp_path / "b.png", confidence),
    ]


label_maps = arrays(
    np.int64, array_shapes(min_dims=2, max_dims=2, max_side=9), elements=st.integers(0, 3)
)


def decode_brush(content):
    """Label Studio's decoder (thi.ng/rle-pack), bit by bit: the flat array of four channels."""
    bits = "".join(f"{byte:08b}" for byte in content)
    place = 0

    def take(count):
        nonlocal place
        place += count
        return int(bits[place - count : place], 2)

    total, word = take(32), take(5) + 1
    sizes = [take(4) + 1 for _ in range(4)]
    values = []
    while len(values) < total:
        is_run, size = take(1), sizes[take(2)]
        length = take(size) + 1
        values += [take(word)] * length if is_run else [take(word) for _ in range(length)]
    return np.array(values)


def decode_cvat(mask, shape):
    """A mask element as bool (H, W): its runs alternate, the first of zeros, in its box."""
    left, top, width, height = (int(mask.get(key)) for key in ("left", "top", "width", "height"))
    runs = [int(text) for text in mask.get("rle").split(",")]
    values = np.repeat(np.arange(len(runs)) % 2, runs).astype(bool)
    whole = np.zeros(shape, bool)
    whole[top : top + height, left : left + width] = values.reshape(height, width)
    return whole


class TestCoco:
    def test_pycocotools_reads_the_label_maps_back(self, results, tmp_path):
        path = tmp_path / "coco.json"
        path.write_text(json.dumps(coco_dataset(results)))
        with redirect_stdout(io.StringIO()):
            coco = COCO(str(path))
        assert [c["name"] for c in coco.loadCats(coco.getCatIds())] == list(CLASSES)
        for image, result in zip(coco.loadImgs(coco.getImgIds()), results, strict=True):
            assert image["file_name"] == result.path.name
            assert (image["height"], image["width"]) == result.labels.shape
            labels = np.zeros(result.labels.shape, int)
            for annotation in coco.loadAnns(coco.getAnnIds(image["id"])):
                mask = coco.annToMask(annotation)
                labels += mask * annotation["category_id"]
                rows, columns = np.nonzero(mask)
                x, y, w, h = annotation["bbox"]
                assert (x, y) == (columns.min(), rows.min())
                assert (x + w, y + h) == (columns.max() + 1, rows.max() + 1)
                assert annotation["area"] == mask.sum()
            assert np.array_equal(labels - 1, result.labels)


class TestLabelStudio:
    @settings(max_examples=60, deadline=None)
    @given(arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=9)))
    def test_its_decoder_reads_every_mask_back(self, mask):
        values = decode_brush(encode_brush(mask)).reshape(*mask.shape, 4)
        assert (values == 255 * mask[:, :, None]).all()

    @pytest.mark.parametrize("shape", [(300, 217), (1, 2**14), (1, 2**14 + 1)])
    def test_runs_that_are_longer_than_a_length_can_say(self, shape):
        mask = np.ones(shape, bool)
        assert (decode_brush(encode_brush(mask)) == 255).all()

    def test_tasks_have_a_region_for_each_class(self, results):
        tasks = label_studio_tasks(results, prefix="/data/local-files/?d=p/")
        assert [task["data"]["image"] for task in tasks] == [
            "/data/local-files/?d=p/a.jpg",
            "/data/local-files/?d=p/b.png",
        ]
        for task, result in zip(tasks, results):
            (prediction,) = task["predictions"]
            labels = np.full(result.labels.shape, -1)
            for region in prediction["result"]:
                size = region["original_height"], region["original_width"]
                value = region["value"]
                assert size == labels.shape and value["format"] == "rle"
                assert (region["type"], region["from_name"]) == ("brushlabels", "label")
                mask = decode_brush(value["rle"]).reshape(*size, 4)[:, :, 3] > 0
                labels[mask] = CLASSES.index(value["brushlabels"][0])
            assert np.array_equal(labels, result.labels)
        assert "score" not in tasks[0]["predictions"][0]
        assert tasks[1]["predictions"][0]["score"] == 0.75
        json.dumps(tasks)

    def test_the_labelling_config_has_names_and_colours(self):
        view = ElementTree.fromstring(label_studio_config(CLASSES, PALETTE))
        (brush,) = view.iter("BrushLabels")
        assert (brush.get("name"), brush.get("toName")) == ("label", view.find("Image").get("name"))
        labels = [(label.get("value"), label.get("background")) for label in brush]
        assert labels[:2] == [("road", "#ff0000"), ('tree & "bush"', "#00ff10")]


class TestCvat:
    @settings(max_examples=60, deadline=None)
    @given(label_maps)
    def test_masks_put_together_are_the_label_map(self, labels):
        root = ElementTree.fromstring(cvat_annotations([result_of(labels)]))
        read = np.full(labels.shape, -1)
        for mask in root.iter("mask"):
            where = decode_cvat(mask, labels.shape)
            assert (read[where] == -1).all()
            read[where] = CLASSES.index(mask.get("label"))
        assert np.array_equal(read, labels)

    def test_images_and_labels_are_reported(self, results):
        root = ElementTree.fromstring(cvat_annotations(results))
        assert root.findtext("version") == "1.1"
        assert [label.findtext("name") for label in root.iter("label")] == list(CLASSES)
        assert root.findtext("meta/task/labels/label/color") == "#ff0000"
        images = [(i.get("name"), i.get("width"), i.get("height")) for i in root.iter("image")]
        assert images == [("a.jpg", "17", "13"), ("b.png", "6", "5")]

    def test_runs_begin_with_zeros(self):
        labels = np.array([[0, 1, 1], [1, 0, 0]])
        road, tree = ElementTree.fromstring(cvat_annotations([result_of(labels)])).iter("mask")
        assert road.get("rle") == "0, 1, 3, 2" and tree.get("rle") == "1, 3, 2"


class TestFiftyOne:
    @pytest.fixture
    def fiftyone(self, monkeypatch):
        """FiftyOne as far as it is used here: Dataset, Sample, Segmentation."""

        class Dataset:
            def __init__(self, name, persistent):
                self.name, self.persistent, self.samples = name, persistent, []

            def add_samples(self, samples):
                self.samples += samples

        class Sample(dict):
            def __init__(self, filepath):
                self.filepath = filepath

        module = SimpleNamespace(
            Dataset=Dataset,
            Sample=Sample,
            Segmentation=lambda mask: SimpleNamespace(mask=mask),
            dataset_exists=lambda name: name == "taken",
        )
        monkeypatch.setitem(sys.modules, "fiftyone", module)

    def test_masks_count_from_1_as_0_is_background_there(self, fiftyone, results):
        dataset = add_to_fiftyone(results, "mine")
        assert dataset.name == "mine" and dataset.persistent
        assert dataset.default_mask_targets == dict(enumerate(CLASSES, start=1))
        for sample, result in zip(dataset.samples, results, strict=True):
            assert sample.filepath == str(result.path)
            assert np.array_equal(sample["prediction"].mask, result.labels + 1)
            assert sample["prediction"].mask.dtype == np.uint8

    def test_what_it_cannot_take(self, fiftyone, results):
        with pytest.raises(UserError, match="already has a dataset 'taken'"):
            add_to_fiftyone(results, "taken")
        with pytest.raises(UserError, match="predict paths"):
            add_to_fiftyone([result_of(np.zeros((2, 2), int))], "mine")

    def test_without_it(self, monkeypatch, results):
        monkeypatch.setitem(sys.modules, "fiftyone", None)
        with pytest.raises(UserError, match="pip install fiftyone"):
            add_to_fiftyone(results, "mine")


class TestCommand:
    @pytest.fixture(scope="class")
    def model(self, tmp_path_factory):
        folder = tmp_path_factory.mktemp("model") / "run"
        return make_run(folder, "LinearSegmentor", "daylight_annotations")

    @pytest.fixture
    def run(self, model, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        for name in ("one", "two"):
            Image.fromarray(half_bright()).save(f"{name}.png")
        return lambda *words: main(
            get_parser().parse_args(["--run", str(model), "--input", "*.png", *words])
        )

    def test_each_format_is_written(self, run, tmp_path):
        run("--format", "coco", "--output", "coco.json")
        run("--format", "cvat", "--output", "cvat.xml", "--tiles", "96")
        run("--format", "label-studio", "--output", "tasks.json", "--image-prefix", "http://x/")
        coco = json.loads((tmp_path / "coco.json").read_text())
        assert [image["file_name"] for image in coco["images"]] == ["one.png", "two.png"]
        assert len(ElementTree.parse("cvat.xml").findall("image")) == 2
        tasks = json.loads((tmp_path / "tasks.json").read_text())
        assert tasks[0]["data"]["image"] == "http://x/one.png"
        assert 0.5 < tasks[0]["predictions"][0]["score"] <= 1
        assert "night" in (tmp_path / "tasks.xml").read_text()

    def test_wrong_files_are_refused_before_the_model_is_built(self, run, tmp_path):
        with pytest.raises(UsageError, match=r"the suffix \.xml for cvat"):
            run("--format", "cvat", "--output", "cvat.json")
        (tmp_path / "more").mkdir()
        Image.fromarray(half_bright()).save("more/one.png")
        with pytest.raises(UsageError, match="have the same name"):
            run("--format", "coco", "--output", "coco.json", "--input", "one.png", "more")
