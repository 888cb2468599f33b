"""Results of several datasets, tasks and checkpoints, and the file that collects them."""

import json

from d2_ctxseg.evaluation import add_to_results_file, by_dataset, merge_tasks


def test_results_of_one_dataset_get_the_level_that_detectron2_leaves_out():
    results = {"sem_seg": {"mIoU": 1.0}}
    assert by_dataset(results, ("val",)) == {"val": results}
    of_two = {"val": results, "test": results}
    assert by_dataset(of_two, ("val", "test")) == of_two


def test_tasks_of_the_same_dataset_are_merged():
    plain = {"val": {"sem_seg": {"mIoU": 1.0}}, "test": {"sem_seg": {"mIoU": 2.0}}}
    averaged = {"val": {"sem_seg_EMA": {"mIoU": 3.0}}}
    assert merge_tasks(plain, averaged) == {
        "val": {"sem_seg": {"mIoU": 1.0}, "sem_seg_EMA": {"mIoU": 3.0}},
        "test": {"sem_seg": {"mIoU": 2.0}},
    }
    assert plain["val"].keys() == {"sem_seg"}


def test_a_damaged_file_is_renamed(tmp_path, caplog):
    path = tmp_path / "evaluation.json"
    path.write_bytes(b'{"a.pth": {"val"')
    add_to_results_file(path, "b.pth", {"val": {"sem_seg": {"mIoU": float("nan")}}})
    assert json.loads(path.read_text()) == {"b.pth": {"val": {"sem_seg": {"mIoU": None}}}}
    assert (tmp_path / "evaluation.json.damaged").read_bytes() == b'{"a.pth": {"val"'
    assert "is damaged and was renamed to evaluation.json.damaged" in caplog.text
