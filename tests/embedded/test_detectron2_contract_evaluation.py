"""What detectron2.evaluation promises, installed or embedded."""

import logging
import re

import pytest
import torch
from torch import nn

from detectron2.config import get_cfg
from detectron2.evaluation import (
    DatasetEvaluator,
    DatasetEvaluators,
    inference_context,
    inference_on_dataset,
    print_csv_format,
    verify_results,
)
from detectron2.evaluation.testing import flatten_results_dict
from detectron2.utils import logger


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

    def test_an_evaluator_may_have_no_results(self):
        assert inference_on_dataset(Doubler(), self.LOADER, DatasetEvaluator()) == {}

    def test_logs_progress_and_times(self, caplog):
        # Detectron2 remembers between calls when it last logged.
        vars(logger).get("_LOG_TIMER", {}).clear()
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
