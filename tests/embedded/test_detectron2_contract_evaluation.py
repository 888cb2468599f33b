"""What detectron2.evaluation promises, installed or embedded.

The metrics were recorded on Detectron2.
"""

import json
import logging
import math
import re
import uuid
from pathlib import Path

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
import torch.multiprocessing as mp
from PIL import Image
from torch import nn

from d2_ctxseg.utils.runtime import is_embedded
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import (
    DatasetEvaluator,
    DatasetEvaluators,
    SemSegEvaluator,
    inference_context,
    inference_on_dataset,
    print_csv_format,
    verify_results,
)
from detectron2.evaluation.testing import flatten_results_dict

# "sky" is predicted but never true; "void" is neither.
CLASSES = ["road", "car", "sky", "void"]
IGNORE = 255
EXPECTED = {
    "mIoU": 75.692,
    "fwIoU": 81.2261,
    "IoU-road": 85.179,
    "BoundaryIoU-road": 88.5182,
    "min(IoU, B-Iou)-road": 85.179,
    "IoU-car": 66.205,
    "BoundaryIoU-car": 1.7391,
    "min(IoU, B-Iou)-car": 1.7391,
    "IoU-sky": math.nan,
    "BoundaryIoU-sky": 0.0,
    "min(IoU, B-Iou)-sky": math.nan,
    "IoU-void": math.nan,
    "BoundaryIoU-void": math.nan,
    "min(IoU, B-Iou)-void": math.nan,
    "mACC": 84.7018,
    "pACC": 87.6389,
    "ACC-road": 89.7368,
    "ACC-car": 79.6667,
    "ACC-sky": math.nan,
    "ACC-void": math.nan,
}


def truth(index):
    """(40, 60) uint8: two rectangles of cars on a road; the right edge is ignored."""
    labels = np.zeros((40, 60), dtype=np.uint8)
    labels[8 : 20 + index, 5:25] = 1
    labels[25:35, 30:50] = 1
    labels[:, 54:] = IGNORE
    return labels


def prediction(index):
    """(40, 60): the truth shifted, with a false patch of sky that reaches into the ignored edge."""
    labels = np.roll(np.where(truth(index) == IGNORE, 0, truth(index)), (1, 2 + index), (0, 1))
    labels[:6, 40:58] = 2
    return labels


def register(name, folder):
    """Register a dataset of two images whose label maps lie in ``folder``."""
    records = []
    for index in range(2):
        label_file = folder / f"{index}.png"
        if not label_file.exists():
            Image.fromarray(truth(index)).save(label_file)
        records.append({"file_name": f"image{index}.jpg", "sem_seg_file_name": str(label_file)})
    DatasetCatalog.register(name, lambda: records)
    MetadataCatalog.get(name).set(stuff_classes=CLASSES, ignore_label=IGNORE)


@pytest.fixture
def dataset(tmp_path):
    """The name of a registered dataset of two images."""
    name = f"contract_{uuid.uuid4().hex}"
    register(name, tmp_path)
    yield name
    DatasetCatalog.pop(name, None)
    MetadataCatalog.pop(name, None)


def feed(evaluator, indices):
    """Reset ``evaluator`` and give it the predictions of some images."""
    evaluator.reset()
    for index in indices:
        scores = nn.functional.one_hot(torch.from_numpy(prediction(index)).long(), len(CLASSES))
        evaluator.process(
            [{"file_name": f"image{index}.jpg"}], [{"sem_seg": scores.permute(2, 0, 1).float()}]
        )
    return evaluator


class TestSemSegEvaluator:
    def test_metrics(self, dataset):
        results = feed(SemSegEvaluator(dataset), [0, 1]).evaluate()
        assert list(results) == ["sem_seg"]
        assert list(results["sem_seg"]) == list(EXPECTED)
        assert results["sem_seg"] == pytest.approx(EXPECTED, abs=1e-4, nan_ok=True)

    def test_metrics_agree_with_counting(self, dataset):
        metrics = feed(SemSegEvaluator(dataset), [0, 1]).evaluate()["sem_seg"]
        labels = np.stack([truth(0), truth(1)])
        predicted = np.stack([prediction(0), prediction(1)])[labels != IGNORE]
        labels = labels[labels != IGNORE]
        for index, name in enumerate(CLASSES[:2]):
            hits = np.sum((labels == index) & (predicted == index))
            either = np.sum((labels == index) | (predicted == index))
            assert metrics[f"IoU-{name}"] == pytest.approx(100 * hits / either)
            assert metrics[f"ACC-{name}"] == pytest.approx(100 * hits / np.sum(labels == index))
        assert metrics["mIoU"] == pytest.approx((metrics["IoU-road"] + metrics["IoU-car"]) / 2)
        assert metrics["pACC"] == pytest.approx(100 * np.mean(labels == predicted))

    def test_absent_classes_have_no_value_and_do_not_count(self, dataset):
        metrics = feed(SemSegEvaluator(dataset), [0]).evaluate()["sem_seg"]
        for name in ("sky", "void"):
            assert math.isnan(metrics[f"IoU-{name}"])
            assert math.isnan(metrics[f"ACC-{name}"])
        assert math.isfinite(metrics["mIoU"])
        assert math.isfinite(metrics["mACC"])

    def test_ignored_pixels_do_not_count(self, dataset):
        evaluator = SemSegEvaluator(dataset)
        before = feed(evaluator, [0]).evaluate()["sem_seg"]["mIoU"]
        evaluator.reset()
        labels = prediction(0)
        labels[truth(0) == IGNORE] = 3
        scores = nn.functional.one_hot(torch.from_numpy(labels).long(), 4).permute(2, 0, 1)
        evaluator.process([{"file_name": "image0.jpg"}], [{"sem_seg": scores.float()}])
        assert evaluator.evaluate()["sem_seg"]["mIoU"] == before

    def test_reset_forgets(self, dataset):
        evaluator = SemSegEvaluator(dataset)
        fresh = feed(evaluator, [1]).evaluate()
        feed(evaluator, [0])
        again = feed(evaluator, [1]).evaluate()
        assert again["sem_seg"] == pytest.approx(fresh["sem_seg"], nan_ok=True)

    def test_saves_predictions_and_metrics(self, dataset, tmp_path):
        MetadataCatalog.get(dataset).stuff_dataset_id_to_contiguous_id = {7: 0, 26: 1, 23: 2, 0: 3}
        output = tmp_path / "inference"
        results = feed(SemSegEvaluator(dataset, output_dir=str(output)), [0]).evaluate()
        names = sorted(path.name for path in output.iterdir())
        assert names == ["sem_seg_evaluation.pth", "sem_seg_predictions.json"]

        entries = json.loads((output / "sem_seg_predictions.json").read_text())
        decoded = np.full((40, 60), -1)
        for entry in entries:
            assert entry["file_name"] == "image0.jpg"
            label = {7: 0, 26: 1, 23: 2}[entry["category_id"]]
            decoded[mask_util.decode(entry["segmentation"]) == 1] = label
        np.testing.assert_array_equal(decoded, prediction(0))

        saved = torch.load(output / "sem_seg_evaluation.pth", weights_only=False)
        assert saved == pytest.approx(results["sem_seg"], nan_ok=True)

    def test_without_an_output_folder_saves_nothing(self, dataset, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        before = sorted(tmp_path.iterdir())
        feed(SemSegEvaluator(dataset), [0]).evaluate()
        assert sorted(tmp_path.iterdir()) == before

    def test_reads_labels_with_a_function_of_ones_own(self, dataset):
        def swapped(file_name, dtype):
            labels = np.asarray(Image.open(file_name), dtype=dtype)
            return np.where(labels < 2, 1 - labels, labels)

        evaluator = SemSegEvaluator(dataset, sem_seg_loading_fn=swapped)
        assert feed(evaluator, [0]).evaluate()["sem_seg"]["pACC"] < 50

    def test_ignore_label_can_be_overwritten(self, dataset):
        evaluator = SemSegEvaluator(dataset, sem_seg_loading_fn=no_void, ignore_label=1)
        metrics = feed(evaluator, [0]).evaluate()["sem_seg"]
        assert math.isnan(metrics["IoU-car"])

    def test_checks_its_input(self, dataset):
        evaluator = SemSegEvaluator(dataset)
        evaluator.reset()
        with pytest.raises(KeyError):
            evaluator.process([{"file_name": "other.jpg"}], [{"sem_seg": torch.ones(4, 40, 60)}])
        with pytest.raises(ValueError):  # noqa: PT011  (the runtimes word it differently)
            evaluator.process([{"file_name": "image0.jpg"}], [{"sem_seg": torch.ones(4, 20, 30)}])
        with pytest.raises(AssertionError, match="4 != 5"):
            SemSegEvaluator(dataset, num_classes=5)

    @pytest.mark.skipif(not is_embedded(), reason="Detectron2 counts them as something else")
    def test_unknown_labels_are_refused(self, dataset):
        evaluator = SemSegEvaluator(dataset, ignore_label=0)
        with pytest.raises(ValueError, match=r"0\.png has the labels \[255\]"):
            feed(evaluator, [0])

    def test_many_classes_have_no_boundary_metrics(self, tmp_path):
        name = f"contract_{uuid.uuid4().hex}"
        DatasetCatalog.register(name, list)
        classes = [f"class{i}" for i in range(255)]
        MetadataCatalog.get(name).set(stuff_classes=classes, ignore_label=IGNORE)
        evaluator = SemSegEvaluator(name)
        evaluator.reset()
        assert not any("Boundary" in key for key in evaluator.evaluate()["sem_seg"])

    @pytest.mark.slow
    def test_gathers_the_results_of_all_processes(self, dataset, tmp_path):
        alone = feed(SemSegEvaluator(dataset), [0, 1]).evaluate()["sem_seg"]
        rendezvous, output = tmp_path / "rendezvous", tmp_path / "output"
        mp.spawn(evaluate_in_process, (str(tmp_path), str(rendezvous), str(output)), nprocs=2)
        assert (tmp_path / "rank1.json").read_text() == "null"
        together = json.loads((tmp_path / "rank0.json").read_text())
        assert together == pytest.approx(alone, nan_ok=True)
        entries = json.loads((output / "sem_seg_predictions.json").read_text())
        assert {entry["file_name"] for entry in entries} == {"image0.jpg", "image1.jpg"}


def no_void(file_name, dtype):
    labels = np.array(Image.open(file_name), dtype=dtype)
    labels[labels == IGNORE] = 0
    return labels


def evaluate_in_process(rank, folder, rendezvous, output):
    """Evaluate image ``rank`` in one of two processes and write down the results."""
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2
    )
    register("contract_distributed", Path(folder))
    evaluator = feed(SemSegEvaluator("contract_distributed", output_dir=output), [rank])
    results = evaluator.evaluate()
    metrics = None if results is None else {k: float(v) for k, v in results["sem_seg"].items()}
    (Path(folder) / f"rank{rank}.json").write_text(json.dumps(metrics))
    torch.distributed.destroy_process_group()


class Counter(DatasetEvaluator):
    """Counts what it is given."""

    def __init__(self, task="count"):
        self.task = task

    def reset(self):
        self.batches = []

    def process(self, inputs, outputs):
        self.batches.append((inputs, outputs))

    def evaluate(self):
        return {self.task: {"batches": len(self.batches)}}


class Doubler(nn.Module):
    def forward(self, inputs):
        assert not self.training
        assert not torch.is_grad_enabled()
        return [2 * x for x in inputs]


class TestInference:
    LOADER = tuple([i] for i in range(14))

    def test_gives_every_batch_to_the_evaluator(self):
        model, evaluator = Doubler().train(), Counter()
        results = inference_on_dataset(model, self.LOADER, evaluator)
        assert results == {"count": {"batches": 14}}
        assert evaluator.batches == [([i], [2 * i]) for i in range(14)]
        assert model.training

    def test_takes_functions_and_several_evaluators_or_none(self):
        def model(inputs):
            return inputs

        results = inference_on_dataset(model, self.LOADER, [Counter("a"), Counter("b")])
        assert results == {"a": {"batches": 14}, "b": {"batches": 14}}
        assert inference_on_dataset(model, self.LOADER, None) == {}
        assert inference_on_dataset(model, self.LOADER, DatasetEvaluator()) == {}

    def test_calls_back(self):
        calls = []
        names = ("on_start", "before_inference", "after_inference", "on_end")
        callbacks = {name: lambda name=name: calls.append(name) for name in names}
        inference_on_dataset(Doubler(), self.LOADER[:2], Counter(), callbacks)
        each = ["before_inference", "after_inference"]
        assert calls == ["on_start", *each, *each, "on_end"]

    def test_logs_progress_and_times(self, caplog, monkeypatch):
        monkeypatch.setattr(
            "detectron2.evaluation.evaluator.log_every_n_seconds",
            lambda level, message, n: logging.getLogger("progress").log(level, message),
        )
        with caplog.at_level(logging.INFO):
            inference_on_dataset(Doubler(), self.LOADER, Counter())
        text = caplog.text
        assert "Start inference on 14 batches" in text
        number = r"\d+\.\d{4} s/iter"
        assert re.search(
            rf"Inference done 11/14\. Dataloading: {number}\. Inference: {number}\. "
            rf"Eval: {number}\. Total: {number}\. ETA=0:00:00",
            text,
        )
        for what in ("Total inference time", "Total inference pure compute time"):
            times = r"0:00:00[.\d]* \(\d\.\d{6} s / iter per device, on 1 devices\)"
            assert re.search(f"{what}: {times}", text)

    def test_evaluators_must_not_share_a_task(self):
        evaluators = DatasetEvaluators([Counter("a"), Counter("a")])
        evaluators.reset()
        with pytest.raises(AssertionError, match="same key a"):
            evaluators.evaluate()

    def test_context_restores_the_mode(self):
        for training in (True, False):
            model = nn.Dropout().train(training)
            with inference_context(model):
                assert not model.training
            assert model.training == training


class TestResults:
    RESULTS = {"sem_seg": {"mIoU": 41.23456, "IoU-road": 80.0, "pACC": 90.0}}

    def test_are_printed_without_single_classes(self, caplog):
        with caplog.at_level(logging.INFO):
            print_csv_format(self.RESULTS)
        assert [record.getMessage() for record in caplog.records] == [
            "copypaste: Task: sem_seg",
            "copypaste: mIoU,pACC",
            "copypaste: 41.2346,90.0000",
        ]

    def test_are_flattened(self):
        assert flatten_results_dict({"a": {"b": {"c": 1}, "d": 2}, "e": 3}) == {
            "a/b/c": 1,
            "a/d": 2,
            "e": 3,
        }

    @pytest.mark.parametrize(
        ("expected", "passes"),
        [
            ([], True),
            ([["sem_seg", "mIoU", 41.0, 0.5]], True),
            ([["sem_seg", "mIoU", 41.0, 0.1]], False),
            ([["sem_seg", "mIoU", 41.0, 0.5], ["sem_seg", "AP", 1.0, 1.0]], False),
        ],
    )
    def test_are_verified(self, expected, passes):
        cfg = get_cfg()
        cfg.TEST.EXPECTED_RESULTS = expected
        if passes:
            assert verify_results(cfg, self.RESULTS)
        else:
            with pytest.raises(SystemExit, match="1"):
                verify_results(cfg, self.RESULTS)
