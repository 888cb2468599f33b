"""The evaluator on files, in one process and in two, against Detectron2's."""

import csv
import json
import logging
from pathlib import Path

import cv2
import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
import torch.nn.functional as F
from data_folders import unique_name
from test_confusion import random_labels
from two_processes import run_in_two_processes

from d2_ctxseg.data import LabelFormat
from d2_ctxseg.evaluation import SegmentationEvaluator
from d2_ctxseg.evaluation.calibration import (
    NUM_BINS,
    area_under_risk_coverage,
    confidence_counts,
    expected_calibration_error,
)
from d2_ctxseg.evaluation.evaluator import original_ids
from d2_ctxseg.utils.errors import UserError
from d2_ctxseg.utils.runtime import is_embedded
from detectron2.data import DatasetCatalog, MetadataCatalog

NUM_CLASSES = 4
NAMES = ["road", "sky", "tree", "car"]
EVERYTHING = {
    "save_predictions": True,
    "boundary_iou": True,
    "num_examples": 2,
    "confidence_key": "confidence",
}
SHAPES = [(40, 60), (33, 21), (64, 64), (40, 60), (8, 90)]


def write_labels(path, labels):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), labels)
    return str(path)


@pytest.fixture
def make_dataset(tmp_path):
    """Registers a dataset of five labels, of which some pixels are ignored (255)."""

    def make(names=NAMES, unlabelled=(), **metadata):
        name, records = unique_name(), []
        for index, shape in enumerate(SHAPES):
            record = {"file_name": str(tmp_path / f"images/{index}.jpg")}
            if index not in unlabelled:
                # The last class never occurs in the ground truth.
                labels = random_labels(shape, len(names) - 1, index)
                labels[labels == len(names) - 1] = 255
                path = tmp_path / f"labels/{index}.png"
                record["sem_seg_file_name"] = write_labels(path, labels)
            records.append(record)
        register(name, records, names, **metadata)
        return name, records

    return make


def register(name, records, names=NAMES, **metadata):
    DatasetCatalog.register(name, lambda: records)
    MetadataCatalog.get(name).set(stuff_classes=list(names), ignore_label=255, **metadata)


def predictions(records, num_classes=NUM_CLASSES):
    """For each record the model's input and output."""
    for index, record in enumerate(records):
        labels = random_labels(SHAPES[index], num_classes - 1, 100 + index, patch=8)
        confidence = np.random.default_rng(index).random(SHAPES[index], np.float32)
        yield (
            {"file_name": record["file_name"]},
            {
                "label_map": torch.from_numpy(labels).long(),
                "confidence": torch.from_numpy(confidence),
            },
        )


def evaluate(evaluator, pairs):
    evaluator.reset()
    for input_, output in pairs:
        evaluator.process([input_], [output])
    return evaluator.evaluate()


# Recorded on Detectron2's SemSegEvaluator (commit 02b5c4e) for `cars_on_a_road`.
RECORDED_CLASSES = ["road", "car", "sky", "void"]
RECORDED = {
    "mIoU": 75.692,
    "fwIoU": 81.2261,
    "IoU-road": 85.179,
    "BoundaryIoU-road": 88.5182,
    "min(IoU, B-Iou)-road": 85.179,
    "IoU-car": 66.205,
    "BoundaryIoU-car": 1.7391,
    "min(IoU, B-Iou)-car": 1.7391,
    "IoU-sky": np.nan,  # predicted but never true
    "BoundaryIoU-sky": 0.0,
    "min(IoU, B-Iou)-sky": np.nan,
    "IoU-void": np.nan,  # neither
    "BoundaryIoU-void": np.nan,
    "min(IoU, B-Iou)-void": np.nan,
    "mACC": 84.7018,
    "pACC": 87.6389,
    "ACC-road": 89.7368,
    "ACC-car": 79.6667,
    "ACC-sky": np.nan,
    "ACC-void": np.nan,
}


def cars_on_a_road(index):
    """Ground truth and prediction (40, 60): shifted, with sky that reaches into "ignored"."""
    ground_truth = np.zeros((40, 60), dtype=np.uint8)
    ground_truth[8 : 20 + index, 5:25] = 1
    ground_truth[25:35, 30:50] = 1
    prediction = np.roll(ground_truth, (1, 2 + index), (0, 1))
    prediction[:6, 40:58] = 2
    ground_truth[:, 54:] = 255
    return ground_truth, prediction


class TestAgainstDetectron2:
    def test_figures_that_were_recorded_on_it(self, tmp_path):
        name, records, pairs = unique_name(), [], []
        for index in range(2):
            ground_truth, prediction = cars_on_a_road(index)
            label_file = write_labels(tmp_path / f"{index}.png", ground_truth)
            records.append({"file_name": f"{index}.jpg", "sem_seg_file_name": label_file})
            output = {"label_map": torch.from_numpy(prediction).long()}
            pairs.append(({"file_name": f"{index}.jpg"}, output))
        register(name, records, RECORDED_CLASSES)
        evaluator = SegmentationEvaluator(name, boundary_iou=True, distributed=False)
        results = evaluate(evaluator, pairs)["sem_seg"]
        assert list(results) == list(RECORDED)
        assert results == pytest.approx(RECORDED, abs=1e-4, nan_ok=True)

    @pytest.mark.skipif(is_embedded(), reason="needs Detectron2's SemSegEvaluator")
    @pytest.mark.parametrize("boundary_iou", [False, True])
    def test_all_figures_are_equal_to_the_last_digit(self, make_dataset, boundary_iou):
        name, records = make_dataset()
        pairs = list(predictions(records))
        ours = evaluate(
            SegmentationEvaluator(name, boundary_iou=boundary_iou, distributed=False), pairs
        )["sem_seg"]
        from detectron2.evaluation import SemSegEvaluator

        reference = SemSegEvaluator(name, distributed=False)
        theirs = evaluate(
            reference,
            [(i, {"sem_seg": F.one_hot(o["label_map"], 4).permute(2, 0, 1)}) for i, o in pairs],
        )["sem_seg"]
        if not boundary_iou:
            theirs = {k: v for k, v in theirs.items() if "B-Iou" not in k and "Boundary" not in k}
        assert list(ours) == list(theirs)
        np.testing.assert_array_equal(list(ours.values()), list(theirs.values()))
        assert np.isnan(ours["IoU-car"]) and 0 < ours["mIoU"] < 100

    def test_scores_are_taken_where_there_is_no_label_map(self, make_dataset):
        name, records = make_dataset()
        evaluator = SegmentationEvaluator(name, distributed=False)
        expected = evaluate(evaluator, predictions(records))["sem_seg"]
        scores = [
            (i, {"sem_seg": F.one_hot(o["label_map"], 4).permute(2, 0, 1)})
            for i, o in predictions(records)
        ]
        results = evaluate(evaluator, scores)["sem_seg"]
        assert results == pytest.approx(expected, nan_ok=True)


class TestCounting:
    def test_an_image_counts_once(self, make_dataset):
        name, records = make_dataset()
        evaluator = SegmentationEvaluator(name, distributed=False)
        expected = evaluate(evaluator, predictions(records))["sem_seg"]
        twice = [*predictions(records), *predictions(records)]
        results = evaluate(evaluator, twice)["sem_seg"]
        assert results == pytest.approx(expected, nan_ok=True)

    def test_reset_forgets(self, make_dataset):
        name, records = make_dataset()
        evaluator = SegmentationEvaluator(name, distributed=False)
        expected = evaluate(evaluator, predictions(records))["sem_seg"]
        results = evaluate(evaluator, predictions(records))["sem_seg"]
        assert results == pytest.approx(expected, nan_ok=True)

    def test_many_classes(self, make_dataset):
        names = [str(i) for i in range(300)]
        name, records = make_dataset(names)
        evaluator = SegmentationEvaluator(name, distributed=False, boundary_iou=True)
        results = evaluate(evaluator, predictions(records, 250))["sem_seg"]
        assert not any("Boundary" in key for key in results)
        assert sum(key.startswith("IoU-") for key in results) == 300

    def test_nothing_that_grows_with_the_dataset_but_counts_is_kept(self, make_dataset):
        name, records = make_dataset()
        evaluator = SegmentationEvaluator(name, distributed=False)
        evaluate(evaluator, predictions(records))
        arrays = [value for value in vars(evaluator).values() if isinstance(value, np.ndarray)]
        assert [array.shape for array in arrays] == [(5, 5)]
        assert not evaluator._examples.examples()


class TestConfidences:
    def ground_truths(self, records):
        for record in records:
            label = cv2.imread(record["sem_seg_file_name"], cv2.IMREAD_UNCHANGED)
            yield label, label != 255

    def test_of_all_labelled_pixels_are_evaluated(self, make_dataset, tmp_path):
        name, records = make_dataset()
        pairs = list(predictions(records))
        evaluator = SegmentationEvaluator(
            name, distributed=False, output_dir=str(tmp_path / "out"), confidence_key="confidence"
        )
        results = evaluate(evaluator, pairs)["sem_seg"]
        confidences, corrects = [], []
        for (_, output), (label, labelled) in zip(pairs, self.ground_truths(records)):
            confidences.append(output["confidence"].numpy()[labelled])
            corrects.append((output["label_map"].numpy() == label)[labelled])
        correct = np.concatenate(corrects)
        counts = confidence_counts(np.concatenate(confidences), correct)
        assert results["ECE"] == pytest.approx(100 * expected_calibration_error(counts))
        assert results["AURC"] == pytest.approx(100 * area_under_risk_coverage(counts))
        content = json.loads((tmp_path / "out" / "calibration.json").read_text())
        assert content["pixels"] == len(correct) and content["ECE"] == results["ECE"]
        assert len(content["reliability"]["share"]) == NUM_BINS
        assert content["risk_coverage"]["coverage"][-1] == 1
        assert content["risk_coverage"]["risk"][-1] == pytest.approx(1 - correct.mean())
        saved = json.loads((tmp_path / "out" / "results.json").read_text())["metrics"]
        assert saved["ECE"] == results["ECE"] and saved["AURC"] == results["AURC"]

    def test_of_a_model_that_gives_scores_are_their_softmax(self, make_dataset):
        name, records = make_dataset()
        scores = [5 * torch.rand(NUM_CLASSES, *shape) for shape in SHAPES]
        inputs = [{"file_name": record["file_name"]} for record in records]
        given = [
            {"label_map": one.argmax(0), "confidence": one.softmax(0).amax(0)} for one in scores
        ]
        evaluator = SegmentationEvaluator(name, distributed=False, confidence_key="confidence")
        outputs = [{"sem_seg": one} for one in scores]
        from_scores = evaluate(evaluator, zip(inputs, outputs))["sem_seg"]
        expected = evaluate(evaluator, zip(inputs, given))["sem_seg"]
        assert from_scores == pytest.approx(expected, nan_ok=True)

    def test_that_were_not_requested_leave_no_files(self, make_dataset, tmp_path):
        name, records = make_dataset()
        pairs, options = list(predictions(records)), {"output_dir": str(tmp_path / "out")}
        for key in ("confidence", None):
            evaluator = SegmentationEvaluator(
                name, distributed=False, confidence_key=key, **options
            )
            results = evaluate(evaluator, pairs)["sem_seg"]
        assert "ECE" not in results
        assert not (tmp_path / "out" / "calibration.json").exists()


def one_worker(rank, name, records, folder, shards):
    """Evaluates its share; the first one saves the results."""
    register(name, records)
    evaluator = SegmentationEvaluator(name, output_dir=folder, **EVERYTHING)
    pairs = [pair for index, pair in enumerate(predictions(records)) if index in shards[rank]]
    results = evaluate(evaluator, pairs)
    assert (results is None) == (rank == 1)
    if results:
        Path(f"{folder}.json").write_text(json.dumps(results))


class TestWorkers:
    def files(self, folder):
        return {
            str(path.relative_to(folder)): path.read_bytes()
            for path in folder.rglob("*")
            if path.is_file() and path.name != "sem_seg_predictions.json"
        }

    def run(self, name, records, folder, shards):
        run_in_two_processes(one_worker, folder.parent, name, records, str(folder), shards)
        return json.loads(Path(f"{folder}.json").read_text())["sem_seg"]

    @pytest.mark.slow
    def test_two_with_uneven_shares_have_the_results_and_files_of_one(self, make_dataset, tmp_path):
        name, records = make_dataset()
        alone = SegmentationEvaluator(name, output_dir=tmp_path / "one", **EVERYTHING)
        expected = evaluate(alone, predictions(records))["sem_seg"]
        results = self.run(name, records, tmp_path / "two", [[4, 0, 2, 1], [3]])
        assert list(results) == list(expected)
        np.testing.assert_array_equal(list(results.values()), list(expected.values()))
        assert self.files(tmp_path / "two") == self.files(tmp_path / "one")
        both = [
            json.loads((tmp_path / folder / "sem_seg_predictions.json").read_text())
            for folder in ("one", "two")
        ]
        assert sorted(both[0], key=json.dumps) == sorted(both[1], key=json.dumps)

    @pytest.mark.slow
    def test_an_image_of_two_workers_is_refused(self, make_dataset, tmp_path):
        name, records = make_dataset()
        with pytest.raises(Exception, match=r"Two workers evaluated the image \S*1\.jpg"):
            self.run(name, records, tmp_path / "out", [[0, 1], [1, 2]])


class TestFiles:
    def test_results_for_people_and_programs(self, make_dataset, tmp_path, caplog):
        name, records = make_dataset()
        evaluator = SegmentationEvaluator(
            name, output_dir=tmp_path / "out", distributed=False, num_examples=2
        )
        with caplog.at_level(logging.INFO):
            metrics = evaluate(evaluator, predictions(records))["sem_seg"]
        assert f"sem_seg on {name} (5 images), per class:" in caplog.text
        assert f"mIoU {metrics['mIoU']:.2f}, fwIoU {metrics['fwIoU']:.2f}" in caplog.text

        results = json.loads((tmp_path / "out/results.json").read_text())
        assert (results["dataset"], results["task"], results["num_images"]) == (name, "sem_seg", 5)
        assert results["metrics"]["IoU-car"] is None
        assert results["metrics"]["mIoU"] == metrics["mIoU"]
        matrix = np.load(tmp_path / "out/confusion_matrix.npy", allow_pickle=False)
        assert matrix.dtype == np.int64
        assert matrix.sum() == sum(height * width for height, width in SHAPES)
        with open(tmp_path / "out/classes.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        assert [row["class"] for row in rows] == NAMES
        assert rows[3]["IoU"] == "" and rows[3]["truth_pixels"] == "0"
        assert float(rows[0]["IoU"]) == metrics["IoU-road"]
        with open(tmp_path / "out/images.csv", newline="") as file:
            images = list(csv.DictReader(file))
        assert [image["file_name"] for image in images] == [r["file_name"] for r in records]

        examples = json.loads((tmp_path / "out/examples/examples.json").read_text())
        ranked = sorted(images, key=lambda image: float(image["mIoU"]))
        expected = [ranked[i]["file_name"] for i in (0, 1, 4, 3)]
        assert [example["file_name"] for example in examples] == expected
        assert [example["kind"] for example in examples] == ["worst"] * 2 + ["best"] * 2
        for example in examples:
            index = [record["file_name"] for record in records].index(example["file_name"])
            labels = cv2.imread(str(tmp_path / "out/examples" / example["prediction"]), -1)
            assert np.array_equal(labels, list(predictions(records))[index][1]["label_map"])

    def test_without_a_folder_nothing_is_written(self, make_dataset, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        name, records = make_dataset()
        before = {str(path) for path in tmp_path.rglob("*")}
        evaluate(SegmentationEvaluator(name, distributed=False), predictions(records))
        assert {str(path) for path in tmp_path.rglob("*")} == before

    def test_saved_predictions_have_the_dataset_own_ids(self, make_dataset, tmp_path):
        ids = [7, 11, 300, 33]
        name, records = make_dataset(original_ids=ids)
        options = {"output_dir": tmp_path / "out", "distributed": False, "save_predictions": True}
        stale = tmp_path / "out/predictions/old.png"
        write_labels(stale, np.zeros((2, 2), np.uint8))
        evaluate(SegmentationEvaluator(name, **options), predictions(records))
        assert not stale.exists()
        files = sorted((tmp_path / "out/predictions").iterdir())
        assert [path.name for path in files] == [f"{i}.png" for i in range(5)]
        entries = json.loads((tmp_path / "out/sem_seg_predictions.json").read_text())
        for path, (input_, output) in zip(files, predictions(records)):
            expected = np.array(ids)[output["label_map"].numpy()]
            assert np.array_equal(cv2.imread(str(path), -1), expected)
            own = [entry for entry in entries if entry["file_name"] == input_["file_name"]]
            masks = [mask_util.decode(entry["segmentation"]).astype(int) for entry in own]
            decoded = sum(entry["category_id"] * mask for entry, mask in zip(own, masks))
            assert np.array_equal(decoded, expected)
        assert not list((tmp_path / "out").glob(".*"))

    def test_images_without_labels_are_predicted_but_not_rated(self, make_dataset, tmp_path):
        name, records = make_dataset(unlabelled=(1,))
        options = {"output_dir": tmp_path / "out", "distributed": False, "save_predictions": True}
        evaluate(SegmentationEvaluator(name, **options), predictions(records))
        matrix = np.load(tmp_path / "out/confusion_matrix.npy")
        assert matrix.sum() == sum(h * w for i, (h, w) in enumerate(SHAPES) if i != 1)
        assert (tmp_path / "out/predictions/1.png").exists()

    def test_a_dataset_without_labels_has_no_metrics(self, make_dataset, tmp_path, caplog):
        name, records = make_dataset(unlabelled=range(5))
        options = {"output_dir": tmp_path / "out", "distributed": False, "save_predictions": True}
        assert evaluate(SegmentationEvaluator(name, **options), predictions(records)) == {}
        assert "there are no metrics" in caplog.text
        assert len(list((tmp_path / "out/predictions").iterdir())) == 5


class TestOriginalIds:
    def ids(self, **metadata):
        name = unique_name()
        MetadataCatalog.get(name).set(stuff_classes=NAMES, ignore_label=255, **metadata)
        return original_ids(
            MetadataCatalog.get(name), LabelFormat.from_metadata(MetadataCatalog.get(name))
        )

    def test_are_those_that_are_known(self):
        assert self.ids() is None
        assert self.ids(original_ids=[3, 1, 2, 9]) == {0: 3, 1: 1, 2: 2, 3: 9}
        dataset_ids = {10: 0, 20: 1, 30: 2, 40: 3}
        expected = {0: 10, 1: 20, 2: 30, 3: 40}
        assert self.ids(stuff_dataset_id_to_contiguous_id=dataset_ids) == expected

    def test_of_several_values_of_a_class_the_lowest(self):
        id_map = {5: 0, 4: 0, 1: 1, 2: 2, 3: 3, 0: 255}
        assert self.ids(id_map=id_map) == {0: 4, 1: 1, 2: 2, 3: 3}
        with pytest.raises(UserError, match="'id_map' maps no value to class 3"):
            self.ids(id_map={0: 0, 1: 1, 2: 2})


class TestAbsentClasses:
    def test_are_left_out_or_0_if_predicted(self, make_dataset):
        name, records = make_dataset()
        pairs = list(predictions(records))
        pairs[0][1]["label_map"][:] = NUM_CLASSES - 1  # a class that the ground truth does not show
        left_out = evaluate(SegmentationEvaluator(name, distributed=False), pairs)["sem_seg"]
        zero = evaluate(
            SegmentationEvaluator(name, absent_classes="zero_if_predicted", distributed=False),
            pairs,
        )["sem_seg"]
        assert np.isnan(left_out["IoU-car"]) and zero["IoU-car"] == 0
        assert zero["mIoU"] == pytest.approx(left_out["mIoU"] * 3 / 4)

    def test_an_unknown_rule_suggests_the_nearest(self, make_dataset):
        name, _ = make_dataset()
        with pytest.raises(UserError, match="ABSENT_CLASSES is 'leftout'.*mean 'left_out'"):
            SegmentationEvaluator(name, absent_classes="leftout", distributed=False)


class TestMistakes:
    def test_are_explained(self, make_dataset):
        name, records = make_dataset()
        evaluator = SegmentationEvaluator(name, distributed=False)
        evaluator.reset()
        (input_, output), *_ = predictions(records)
        with pytest.raises(UserError, match=r"other\.jpg is not in the dataset"):
            evaluator.process([{"file_name": "other.jpg"}], [output])
        small = {"label_map": output["label_map"][:10]}
        with pytest.raises(UserError, match=r"has the size \(10, 60\).* has \(40, 60\)"):
            evaluator.process([input_], [small])

    def test_a_label_that_is_no_class(self, make_dataset):
        name, records = make_dataset()
        write_labels(Path(records[0]["sem_seg_file_name"]), np.full(SHAPES[0], 9, np.uint8))
        evaluator = SegmentationEvaluator(name, distributed=False)
        with pytest.raises(UserError, match="holds the value 9"):
            evaluate(evaluator, predictions(records))
