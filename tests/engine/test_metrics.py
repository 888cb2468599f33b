"""metrics.json of a resumed run is that of the uninterrupted one."""

import json
import shutil
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from d2_ctxseg.engine.metrics import (
    EARLIER_FILE,
    MetricsWriter,
    WriteMetrics,
    restore_events,
    save_events,
)
from d2_ctxseg.utils.files import WriteError
from detectron2.utils.events import EventStorage


def put(storage, iteration):
    """A loss in each step, a score in every seventh."""
    storage.iter = iteration
    storage.put_scalars(loss=(iteration * 37) % 11 / 10, data_time=0.5)
    if iteration % 7 == 6:
        storage.put_scalar("sem_seg/mIoU", iteration, smoothing_hint=False)


def train(storage, hook, start, end):
    for iteration in range(start, end):
        put(storage, iteration)
        hook.trainer.iter = iteration
        hook.after_step()


def hook_of(path, start_iter, period):
    hook = WriteMetrics(period)
    hook.trainer = SimpleNamespace(
        start_iter=start_iter,
        max_iter=100,
        build_writers=lambda: [MetricsWriter(path)],
        cfg=SimpleNamespace(OUTPUT_DIR=str(path.parent)),
    )
    return hook


def lines(path):
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [{key: row[key] for key in row if key != "data_time"} for row in rows]


@settings(max_examples=15, deadline=None)
@given(checkpoint=st.integers(0, 60), lost=st.integers(0, 30), period=st.sampled_from([3, 20]))
def test_lines_continue_as_if_there_had_been_no_interruption(
    tmp_path_factory, checkpoint, lost, period
):
    folder = tmp_path_factory.mktemp("run")
    without_waiting = pytest.MonkeyPatch()
    without_waiting.setattr("os.fsync", lambda number: None)
    path = folder / "metrics.json"
    with EventStorage() as storage:
        hook = hook_of(path, 0, period)
        hook.before_train()
        train(storage, hook, 0, checkpoint + 1)
        state, events = hook.state_dict(), save_events(storage, checkpoint)
        train(storage, hook, checkpoint + 1, min(checkpoint + 1 + lost, 95))
        killed = shutil.copy(path, folder / "killed.json") if path.exists() else folder / "none"
        train(storage, hook, min(checkpoint + 1 + lost, 95), 95)
    if killed != folder / "none":
        with open(killed, "a") as file:
            file.write('{"iteration": 9')  # cut off
    with EventStorage(checkpoint + 1) as storage:
        hook = hook_of(folder / "killed.json", checkpoint + 1, period)
        hook.load_state_dict(state)
        hook.before_train()
        restore_events(storage, events)
        train(storage, hook, checkpoint + 1, 95)
    assert lines(folder / "killed.json") == lines(path)
    shutil.rmtree(folder)
    without_waiting.undo()


# Of the training below, by Detectron2's JSONWriter (commit 02b5c4e).
LINES_OF_DETECTRON2 = [
    '{"data_time": 0.5, "iteration": 19, "loss": 0.5}',
    '{"data_time": 0.5, "iteration": 39, "loss": 0.45}',
    '{"iteration": 13, "sem_seg/mIoU": 13.0}',
    '{"iteration": 34, "sem_seg/mIoU": 34.0}',
]


def test_lines_are_those_of_detectron2(tmp_path):
    writer = MetricsWriter(tmp_path / "metrics.json")
    with EventStorage() as storage:
        for iteration in range(45):
            put(storage, iteration)
            if iteration % 20 == 19:
                writer.write()
    assert sorted((tmp_path / "metrics.json").read_text().splitlines()) == LINES_OF_DETECTRON2


class TestFile:
    def test_damaged_and_later_lines_are_left_out_and_said(self, tmp_path, caplog):
        caplog.set_level("INFO")
        path = tmp_path / "metrics.json"
        good = b'{"iteration": 19, "loss": 1.0}\n'
        path.write_bytes(good + b"\xff\x00\n[1]\n\n" + b'{"iteration": 39}\n{"iterat')
        MetricsWriter(path).start_after(19)
        assert path.read_bytes() == good
        assert "removed 4 damaged lines" in caplog.text
        assert "removed 1 line of iterations after 19" in caplog.text

    def test_of_an_earlier_run_is_kept_under_another_name(self, tmp_path, caplog):
        path = tmp_path / "metrics.json"
        path.write_text("earlier")
        MetricsWriter(path).start_new()
        assert not path.exists()
        assert (tmp_path / EARLIER_FILE).read_text() == "earlier"
        assert EARLIER_FILE in caplog.text

    def test_a_deleted_folder_is_one_message(self, tmp_path):
        writer = MetricsWriter(tmp_path / "gone" / "metrics.json")
        with (
            EventStorage() as storage,
            pytest.raises(WriteError, match="Its folder no longer exists"),
        ):
            put(storage, 0)
            writer.write()

    def test_without_its_state_a_resumed_run_keeps_what_came_before(self, tmp_path):
        path = tmp_path / "metrics.json"
        path.write_text('{"iteration": 19}\n{"iteration": 39}\n')
        hook = hook_of(path, 30, 20)
        hook.before_train()
        assert path.read_text() == '{"iteration": 19}\n'


def test_values_of_later_iterations_are_not_saved():
    with EventStorage() as storage:
        put(storage, 6)
        storage.put_scalar("sem_seg/mIoU", 1.0, smoothing_hint=False, cur_iter=7)
        events = save_events(storage, 6)
    assert events["sem_seg/mIoU"]["iterations"].tolist() == [6]
    assert "data_time" not in events
