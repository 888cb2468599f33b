"""What detectron2.engine's training loop promises, installed or embedded."""

import pytest
import torch
from tiny_training import AfterStep, Quadratic, detectron2_log, history, simple_trainer

from detectron2.engine import HookBase, TrainerBase
from detectron2.utils.events import EventStorage


class Recorder(HookBase):
    def __init__(self, name, events):
        self.name, self.events = name, events

    def before_train(self):
        self.events.append(f"{self.name} before_train")

    def before_step(self):
        self.events.append(f"{self.name} before_step {self.trainer.iter}")

    def after_backward(self):
        self.events.append(f"{self.name} after_backward {self.trainer.iter}")

    def after_step(self):
        self.events.append(f"{self.name} after_step {self.trainer.iter}")

    def after_train(self):
        self.events.append(f"{self.name} after_train {self.trainer.iter}")


def test_hooks_are_called_in_the_order_of_registration():
    events = []
    trainer = simple_trainer()
    trainer.register_hooks([Recorder("a", events), None, Recorder("b", events)])
    trainer.train(4, 5)
    assert events == [
        "a before_train", "b before_train",
        "a before_step 4", "b before_step 4",
        "a after_backward 4", "b after_backward 4",
        "a after_step 4", "b after_step 4",
        "a after_train 5", "b after_train 5",
    ]  # fmt: skip
    assert (trainer.start_iter, trainer.iter, trainer.max_iter) == (4, 5, 5)


def test_the_storage_knows_the_iteration_in_every_hook():
    iterations = []
    trainer = simple_trainer()

    trainer.register_hooks([AfterStep(lambda trainer: iterations.append(trainer.storage.iter))])
    trainer.train(2, 4)
    assert iterations == [2, 3]


def test_after_train_runs_when_training_fails():
    events = []
    trainer = simple_trainer(batches=(1.0,))
    trainer.register_hooks([Recorder("a", events)])
    with detectron2_log() as log, pytest.raises(StopIteration):
        trainer.train(0, 5)
    assert events[-1] == "a after_train 1"
    assert log == ["Starting training from iteration 0", "Exception during training:"]


def test_a_trainer_without_run_step():
    with detectron2_log(), pytest.raises(NotImplementedError):
        TrainerBase().train(0, 1)


def test_simple_trainer_descends_and_stores_metrics():
    trainer = simple_trainer(batches=(1.0, 0.5))
    trainer.train(0, 2)
    # d/dw (x^2 w^2 + w) = 2 x^2 w + 1: 2 - 0.1 * 5 = 1.5, then 1.5 - 0.1 * 1.75 = 1.325
    assert trainer.model.weight.item() == pytest.approx(1.325)
    assert history(trainer, "loss_square") == pytest.approx([4.0, 0.5625])
    assert history(trainer, "loss_abs") == pytest.approx([2.0, 1.5])
    assert history(trainer, "total_loss") == pytest.approx([6.0, 2.0625])
    assert set(trainer.storage.histories()) == {
        "data_time", "rank_data_time", "total_loss", "loss_square", "loss_abs",
    }  # fmt: skip
    assert trainer.storage.latest()["total_loss"][1] == 1


def test_a_model_may_return_one_tensor():
    class OneLoss(Quadratic):
        def forward(self, x):
            return sum(super().forward(x).values())

    trainer = simple_trainer(model=OneLoss())
    trainer.train(0, 1)
    assert history(trainer, "total_loss") == [6.0]
    assert set(trainer.storage.histories()) == {"data_time", "rank_data_time", "total_loss"}


def test_a_loss_that_is_not_finite_names_the_iteration():
    trainer = simple_trainer(batches=(1.0, 1.0, float("nan"), 1.0))
    with (
        detectron2_log() as log,
        pytest.raises(FloatingPointError, match=r"iteration=2!\nloss_dict = .*loss_square.*nan"),
    ):
        trainer.train(0, 4)
    assert "Exception in writing metrics: " in log


def test_a_model_in_eval_mode_is_an_error():
    trainer = simple_trainer()
    trainer.model.eval()
    with detectron2_log(), pytest.raises(AssertionError, match=r"\[SimpleTrainer\].*eval mode"):
        trainer.train(0, 1)


def test_reset_data_loader():
    trainer = simple_trainer(batches=(1.0,))
    trainer.train(0, 1)
    trainer.reset_data_loader(lambda: [torch.tensor(0.0)])
    with EventStorage():
        trainer.run_step()
    assert trainer.data_loader == [torch.tensor(0.0)]


def test_trainer_state():
    class Counter(HookBase):
        count = 0

        def after_step(self):
            self.count += 1

        def state_dict(self):
            return {"count": self.count}

        def load_state_dict(self, state):
            self.count = state["count"]

    trainer = simple_trainer()
    trainer.register_hooks([HookBase(), Counter()])
    trainer.train(0, 3)
    state = trainer.state_dict()
    assert state["iteration"] == 3
    assert state["hooks"] == {Counter.__qualname__: {"count": 3}}
    assert state["optimizer"]["param_groups"][0]["lr"] == 0.1

    other = simple_trainer()
    with detectron2_log() as log:
        other.load_state_dict(state)
    assert other.iter == 3
    assert log == [f"Cannot find the hook '{Counter.__qualname__}', its state_dict is ignored."]
    counter = Counter()
    other.register_hooks([counter])
    other.load_state_dict(state)
    assert counter.count == 3
