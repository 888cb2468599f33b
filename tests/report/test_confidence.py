"""The report's section about confidences."""

import numpy as np
import pytest
from report_runs import read_page, write_dataset, write_run

from d2_ctxseg.evaluation.calibration import confidence_counts
from d2_ctxseg.evaluation.calibration_file import FILE_NAME, Calibration
from d2_ctxseg.report import write_report


def calibration(sure=0.9, right=0.6):
    """All pixels but a few are equally sure; a share of them is correct."""
    confidence = np.append(np.full(1000, sure), np.full(20, 0.3))
    correct = np.append(np.arange(1000) < 1000 * right, np.full(20, True))
    return Calibration.of_counts(confidence_counts(confidence, correct))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("data"))


@pytest.fixture
def make_run(tmp_path, dataset):
    def make(name, **calibrations):
        run = write_run(tmp_path / name, dataset)
        for task, one in calibrations.items():
            one.write(run / "inference" / task / dataset[1])
        return run

    return make


def rows(page):
    return next(rows for rows in page.tables.values() if "ECE" in rows[0])


def test_the_file_is_read_as_it_was_written(tmp_path):
    written = calibration()
    written.write(tmp_path)
    read = Calibration.read(tmp_path / FILE_NAME)
    assert read.pixels == written.pixels == 1020 and read.metrics == written.metrics
    np.testing.assert_array_equal(read.reliability.accuracy, written.reliability.accuracy)
    np.testing.assert_array_equal(read.risk, written.risk)


def test_a_run_shows_its_errors_for_several_coverages(make_run):
    page = read_page(write_report([make_run("run", sem_seg=calibration())]))
    assert rows(page)[0] == ["ECE", "AURC", *(f"errors at {n} %" for n in (100, 90, 80, 50))]
    (values,) = rows(page)[1:]
    # 400 of 1020 are wrong; without the 20 that are unsure, 400 of 1000.
    assert [float(value) for value in values[2:]] == [39.22, 40, 40, 40]
    assert float(values[0]) == pytest.approx(100 * (0.3 * 1000 + 0.7 * 20) / 1020, abs=0.01)
    assert "Reliability" in page.text and "Risk and coverage" in page.text


def test_runs_and_tasks_are_reported(make_run):
    runs = [
        make_run("linear", sem_seg=calibration(), sem_seg_TTA=calibration(0.7)),
        make_run("context", sem_seg=calibration(right=0.8)),
    ]
    names = [row[0] for row in rows(read_page(write_report(runs)))[1:]]
    assert names == [
        "linear, single-scale",
        "linear, multi-scale and flip",
        "context, single-scale",
    ]


def test_a_run_without_confidences_has_no_such_section(make_run):
    page = read_page(write_report([make_run("run")]))
    assert "Reliability" not in page.text and "ECE" not in page.text


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"reliability": {"share": "x"}}'])
def test_a_damaged_file_is_left_out_and_said(make_run, dataset, content):
    run = make_run("run", sem_seg=calibration())
    (run / "inference" / "sem_seg" / dataset[1] / FILE_NAME).write_text(content)
    text = read_page(write_report([run])).text
    assert "No confidences" in text and "Reliability" not in text
