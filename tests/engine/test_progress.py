"""Progress of an evaluation."""

import io
import logging
import sys

import pytest

from d2_ctxseg.engine.progress import WithProgressBar


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def log_lines():
    logger = logging.getLogger("detectron2.evaluation.evaluator")
    records = []
    handler = logging.Handler()
    handler.emit = lambda record: records.append(record.getMessage())
    logger.addHandler(handler)
    level, logger.level = logger.level, logging.INFO
    yield records
    logger.removeHandler(handler)
    logger.level = level


def evaluate():
    loader = WithProgressBar([1, 2, 3], "camvid_sem_seg_val")
    assert len(loader) == 3
    batches = []
    for batch in loader:
        batches.append(batch)
        logger = logging.getLogger("detectron2.evaluation.evaluator")
        logger.info("Inference done %d/3. ETA=0:00:01", batch)
        logger.info("something else")
    assert batches == [1, 2, 3]


def test_a_terminal_shows_a_bar_instead_of_the_lines(monkeypatch, log_lines):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    evaluate()
    assert "camvid_sem_seg_val" in terminal.getvalue() and "3/3" in terminal.getvalue()
    assert log_lines == ["something else"] * 3
    logging.getLogger("detectron2.evaluation.evaluator").info("Inference done, as ever")
    assert log_lines[-1] == "Inference done, as ever"


def test_elsewhere_there_are_the_lines_only(monkeypatch, log_lines):
    output = io.StringIO()
    monkeypatch.setattr(sys, "stderr", output)
    evaluate()
    assert "camvid_sem_seg_val" not in output.getvalue() and "3/3" not in output.getvalue()
    assert sum(line.startswith("Inference done") for line in log_lines) == 3
