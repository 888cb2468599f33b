"""What this project relies on in Detectron2's event storage and writers, on either runtime."""

import logging

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from detectron2.utils.events import (
    CommonMetricPrinter,
    EventStorage,
    EventWriter,
    TensorboardXWriter,
    get_event_storage,
)


@pytest.fixture
def lines():
    """Collects what CommonMetricPrinter logs."""
    messages = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())
    logger = logging.getLogger("detectron2.utils.events")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield messages
    logger.removeHandler(handler)
    logger.setLevel(level)


class TestEventStorage:
    def test_is_found_while_it_is_open(self):
        with pytest.raises(AssertionError, match="EventStorage"):
            get_event_storage()
        with EventStorage() as outer:
            with EventStorage() as inner:
                assert get_event_storage() is inner
            assert get_event_storage() is outer

    def test_scalars_belong_to_the_current_iteration(self):
        storage = EventStorage(start_iter=5)
        storage.put_scalar("loss", torch.tensor(2.0))
        storage.iter += 1
        storage.put_scalars(loss=1.0, lr=0.5)
        storage.put_scalar("late", 3, cur_iter=2)
        assert storage.iter == 6
        assert storage.latest() == {"loss": (1.0, 6), "lr": (0.5, 6), "late": (3.0, 2)}
        assert storage.history("loss").values() == [(2.0, 5), (1.0, 6)]
        assert set(storage.histories()) == {"loss", "lr", "late"}

    def test_noisy_scalars_are_shown_as_the_median_of_the_last_iterations(self):
        storage = EventStorage()
        for storage.iter, value in enumerate([100.0, 9.0, 1.0, 5.0]):
            storage.put_scalar("noisy", value)
            storage.put_scalar("exact", value, smoothing_hint=False)
        assert storage.smoothing_hints() == {"noisy": True, "exact": False}
        assert storage.count_samples("noisy", 3) == 3
        assert storage.latest_with_smoothing_hint(3) == {"noisy": (5.0, 3), "exact": (5.0, 3)}
        assert storage.latest_with_smoothing_hint(4)["noisy"] == (7.0, 3)

    def test_window_is_in_iterations_not_in_values(self):
        storage = EventStorage()
        for storage.iter in (0, 10, 20):
            storage.put_scalar("rare", storage.iter)
        assert storage.count_samples("rare", 10) == 1
        assert storage.count_samples("rare", 11) == 2

    def test_smoothing_hint_must_not_change(self):
        storage = EventStorage()
        storage.put_scalar("loss", 1.0)
        with pytest.raises(AssertionError, match="smoothing_hint"):
            storage.put_scalar("loss", 1.0, smoothing_hint=False)

    def test_unknown_scalar_is_an_error(self):
        with pytest.raises(KeyError, match="accuracy"):
            EventStorage().history("accuracy")


@pytest.fixture
def training():
    """Plays a training of ten iterations and calls ``write`` after each of the given ones."""

    def play(write, after):
        with EventStorage() as storage:
            for i in range(10):
                storage.iter = i
                storage.put_scalar("total_loss", 10 - i * 0.7123456)
                storage.put_scalars(loss_ce=1 / (i + 1))
                if i > 2:
                    storage.put_scalars(time=0.5 + i * 0.01, data_time=0.01 * i)
                storage.put_scalar("lr", 0.01 * (1 - i / 100) ** 0.9, smoothing_hint=False)
                if i == 4:
                    storage.put_scalar("[metric]acc", 0.5)
                if i in after:
                    write()
            storage.put_scalar("val/miou", 55.5, smoothing_hint=False)
            write()

    return play


class TestWriters:
    def test_base_class_only_says_what_a_writer_has(self):
        EventWriter().close()
        with pytest.raises(NotImplementedError):
            EventWriter().write()

    def test_console_line(self, training, lines, monkeypatch):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        training(CommonMetricPrinter(100, window_size=4).write, after=[0, 6])
        assert lines == [
            " iter: 0  total_loss: 10  loss_ce: 1     lr: 0.01  ",
            " eta: 0:00:50  iter: 6  total_loss: 6.794  loss_ce: 0.1833  [metric]acc: 0.5  "
            "time: 0.5450  last_time: 0.5600  data_time: 0.0450  last_data_time: 0.0600   "
            "lr: 0.0094583  ",
            " eta: 0:00:50  iter: 9  total_loss: 4.657  loss_ce: 0.1181  [metric]acc: 0.5  "
            "time: 0.5600  last_time: 0.5900  data_time: 0.0750  last_data_time: 0.0900   "
            "lr: 0.0091862  ",
        ]

    def test_console_line_without_end_has_no_remaining_time(self, training, lines):
        training(CommonMetricPrinter().write, after=[])
        assert lines[0].startswith(" iter: 9  total_loss: ")

    def test_nothing_is_printed_when_training_is_over(self, lines):
        with EventStorage(start_iter=100):
            CommonMetricPrinter(100).write()
        assert lines == []

    def test_remaining_time_is_estimated_while_iterations_are_not_timed(self, lines):
        printer = CommonMetricPrinter(3)
        with EventStorage() as storage:
            printer.write()
            storage.iter += 1
            printer.write()
        assert lines[0].startswith(" iter: 0")
        assert lines[1].startswith(" eta: 0:00:00  iter: 1")
        assert " lr: N/A " in lines[1]

    def test_tensorboard_gets_scalars_and_images(self, tmp_path):
        writer = TensorboardXWriter(str(tmp_path))
        with EventStorage(3) as storage:
            storage.put_scalar("loss", 0.25)
            storage.put_image("drawing", torch.full((3, 4, 5), 255, dtype=torch.uint8))
            writer.write()
            storage.iter += 1
            writer.write()
        writer.close()
        events = EventAccumulator(str(tmp_path)).Reload()
        assert [(e.step, e.value) for e in events.Scalars("loss")] == [(3, 0.25)]
        (image,) = events.Images("drawing")
        assert (image.step, image.width, image.height) == (3, 5, 4)

    def test_tensorboard_that_never_wrote_leaves_no_file(self, tmp_path):
        TensorboardXWriter(str(tmp_path)).close()
        assert list(tmp_path.iterdir()) == []
