"""What this project relies on in Detectron2's checkpoints, on either runtime."""

import logging
import os
import pickle

import pytest
import torch
from torch import nn
from two_processes import run_in_two_processes

from detectron2.checkpoint import DetectionCheckpointer


def small_model(fill, with_mean=False):
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    nn.init.constant_(model[0].weight, fill)
    if with_mean:
        model.register_buffer("pixel_mean", torch.full((3, 1, 1), fill))
    return model


def optimizer_of(model):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    model(torch.ones(4, 2)).sum().backward()
    optimizer.step()
    return optimizer


def weight(model):
    return model[0].weight.detach().unique().tolist()


@pytest.fixture
def warnings():
    """Collects the warnings about keys that do not fit."""
    messages = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: messages.append(record.getMessage())
    logger = logging.getLogger("fvcore.common.checkpoint")
    logger.addHandler(handler)
    yield messages
    logger.removeHandler(handler)


class TestSave:
    def test_what_is_in_the_file(self, tmp_path):
        model = small_model(1.0)
        checkpointer = DetectionCheckpointer(model, str(tmp_path), optimizer=optimizer_of(model))
        checkpointer.save("model_0000019", iteration=19)
        saved = torch.load(tmp_path / "model_0000019.pth", weights_only=True)
        assert set(saved) == {"model", "optimizer", "iteration"}
        assert set(saved["model"]) == set(model.state_dict())
        assert set(saved["optimizer"]) == {"state", "param_groups"}
        assert saved["iteration"] == 19
        assert (tmp_path / "last_checkpoint").read_text() == "model_0000019.pth"

    def test_the_module_inside_a_parallel_model_is_saved(self, tmp_path):
        DetectionCheckpointer(nn.DataParallel(small_model(1.0)), str(tmp_path)).save("x")
        saved = torch.load(tmp_path / "x.pth", weights_only=True)
        assert set(saved["model"]) == set(small_model(1.0).state_dict())

    def test_a_process_that_does_not_save_writes_nothing(self, tmp_path):
        DetectionCheckpointer(small_model(1.0), str(tmp_path), save_to_disk=False).save("x")
        DetectionCheckpointer(small_model(1.0)).save("x")
        assert os.listdir(tmp_path) == []


class TestLoad:
    def test_everything_comes_back(self, tmp_path):
        model = small_model(1.0)
        optimizer = optimizer_of(model)
        DetectionCheckpointer(model, str(tmp_path), optimizer=optimizer).save("x", iteration=7)

        other = small_model(2.0)
        other_optimizer = torch.optim.SGD(other.parameters(), lr=0.1, momentum=0.9)
        checkpointer = DetectionCheckpointer(other, optimizer=other_optimizer)
        assert checkpointer.load(str(tmp_path / "x.pth")) == {"iteration": 7}
        for name, value in model.state_dict().items():
            assert torch.equal(other.state_dict()[name], value)
        assert other_optimizer.param_groups[0]["lr"] == 0.5
        momentum = other_optimizer.state_dict()["state"][0]["momentum_buffer"]
        assert torch.equal(momentum, optimizer.state_dict()["state"][0]["momentum_buffer"])

    def test_only_what_is_requested(self, tmp_path):
        model = small_model(1.0)
        DetectionCheckpointer(model, str(tmp_path), optimizer=optimizer_of(model)).save("x")
        optimizer = torch.optim.SGD(small_model(2.0).parameters(), lr=0.1)
        rest = DetectionCheckpointer(small_model(2.0), optimizer=optimizer).load(
            str(tmp_path / "x.pth"), checkpointables=[]
        )
        assert optimizer.param_groups[0]["lr"] == 0.1
        assert set(rest) == {"optimizer"}

    def test_a_file_that_holds_weights_only(self, tmp_path):
        torch.save(small_model(4.0).state_dict(), tmp_path / "torchvision.pth")
        model = small_model(0.0)
        assert DetectionCheckpointer(model).load(str(tmp_path / "torchvision.pth")) == {}
        assert weight(model) == [4.0]

    def test_weights_of_a_parallel_model(self, tmp_path):
        torch.save({"model": nn.DataParallel(small_model(4.0)).state_dict()}, tmp_path / "x.pth")
        model = small_model(0.0)
        DetectionCheckpointer(model).load(str(tmp_path / "x.pth"))
        assert weight(model) == [4.0]

    def test_no_path_loads_nothing(self):
        model = small_model(3.0)
        assert DetectionCheckpointer(model).load("") == {}
        assert weight(model) == [3.0]

    def test_missing_file_is_an_error(self, tmp_path):
        with pytest.raises(AssertionError, match="missing.pth not found"):
            DetectionCheckpointer(small_model(1.0)).load(str(tmp_path / "missing.pth"))

    def test_parameters_that_do_not_fit_stay_and_are_reported(self, tmp_path, warnings):
        state = small_model(4.0).state_dict()
        state["0.weight"] = torch.zeros(5, 2)
        state["extra.weight"] = torch.zeros(1)
        del state["1.running_var"]
        torch.save({"model": state}, tmp_path / "x.pth")
        model = small_model(3.0)
        DetectionCheckpointer(model).load(str(tmp_path / "x.pth"))
        assert weight(model) == [3.0]
        report = "\n".join(warnings)
        assert "(5, 2) in the checkpoint but (3, 2) in the model" in report
        assert "not found in the checkpoint" in report
        assert "1.running_var" in report
        assert "extra.weight" in report

    def test_pixel_mean_comes_from_the_config_so_its_absence_is_not_reported(
        self, tmp_path, warnings
    ):
        torch.save({"model": small_model(4.0).state_dict()}, tmp_path / "x.pth")
        model = small_model(3.0, with_mean=True)
        DetectionCheckpointer(model).load(str(tmp_path / "x.pth"))
        assert warnings == []
        assert model.pixel_mean.flatten().tolist() == [3.0] * 3

    def test_code_in_a_file_is_not_run(self, tmp_path):
        torch.save({"model": {}, "payload": Payload(tmp_path / "ran")}, tmp_path / "x.pth")
        with pytest.raises((ValueError, pickle.UnpicklingError), match="x.pth|[Ww]eights"):
            DetectionCheckpointer(small_model(1.0)).load(str(tmp_path / "x.pth"))
        assert not (tmp_path / "ran").exists()


class Payload:
    """Unpickling this makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


class TestResume:
    def test_from_the_last_checkpoint(self, tmp_path):
        model = small_model(1.0)
        checkpointer = DetectionCheckpointer(model, str(tmp_path))
        assert not checkpointer.has_checkpoint()
        checkpointer.save("a", iteration=1)
        nn.init.constant_(model[0].weight, 2.0)
        checkpointer.save("b", iteration=2)

        model = small_model(0.0)
        checkpointer = DetectionCheckpointer(model, str(tmp_path))
        assert checkpointer.has_checkpoint()
        assert checkpointer.get_checkpoint_file() == str(tmp_path / "b.pth")
        assert sorted(checkpointer.get_all_checkpoint_files()) == [
            str(tmp_path / "a.pth"),
            str(tmp_path / "b.pth"),
        ]
        assert checkpointer.resume_or_load("not used", resume=True) == {"iteration": 2}
        assert weight(model) == [2.0]

    def test_without_resuming_only_the_models_weights_are_loaded(self, tmp_path):
        model = small_model(1.0)
        DetectionCheckpointer(model, str(tmp_path), optimizer=optimizer_of(model)).save("last")
        torch.save({"model": small_model(5.0).state_dict()}, tmp_path / "start.pth")
        model = small_model(0.0)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        checkpointer = DetectionCheckpointer(model, str(tmp_path), optimizer=optimizer)
        checkpointer.resume_or_load(str(tmp_path / "start.pth"), resume=False)
        assert weight(model) == [5.0]
        assert optimizer.param_groups[0]["lr"] == 0.1

    def test_without_checkpoint_resuming_starts_from_the_given_weights(self, tmp_path):
        torch.save({"model": small_model(5.0).state_dict()}, tmp_path / "start.pth")
        model = small_model(0.0)
        checkpointer = DetectionCheckpointer(model, str(tmp_path))
        checkpointer.resume_or_load(str(tmp_path / "start.pth"), resume=True)
        assert weight(model) == [5.0]


@pytest.mark.slow
def test_processes_of_a_parallel_training_load_the_same_weights(tmp_path):
    torch.save({"model": small_model(6.0).state_dict()}, tmp_path / "x.pth")
    run_in_two_processes(_load_in_parallel, tmp_path, str(tmp_path))


def _load_in_parallel(rank, folder):
    model = nn.parallel.DistributedDataParallel(small_model(0.0))
    checkpointer = DetectionCheckpointer(model, folder)
    checkpointer.load(f"{folder}/x.pth")
    assert weight(model.module) == [6.0]
    assert checkpointer.load("") == {}
    checkpointer.save("own", rank=rank)
    torch.distributed.barrier()
    rest = checkpointer.load(f"{folder}/own.pth")
    assert rest == {"rank": 0}, "only the main process saves"
