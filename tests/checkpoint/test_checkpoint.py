"""Checkpoints are written atomically, read safely, and fill the whole model."""

import json
import os
import pickle
import runpy
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from d2_ctxseg.checkpoint import (
    Checkpointer,
    load_weights,
    read_checkpoint,
    strip_training_only,
)
from d2_ctxseg.engine import setup_config
from d2_ctxseg.evaluation import add_to_results_file
from d2_ctxseg.utils.errors import UserError
from d2_ctxseg.utils.files import WriteError
from detectron2.modeling import build_model


class RunsCode:
    def __reduce__(self):
        return print, ("executed",)


class TestCheckpointer:
    def test_saves_and_names_the_last_one(self, tmp_path):
        model = nn.Linear(2, 2)
        Checkpointer(model, str(tmp_path)).save("model_0000009", iteration=9)
        assert (tmp_path / "last_checkpoint").read_text() == "model_0000009.pth"
        other = nn.Linear(2, 2)
        state = Checkpointer(other, str(tmp_path)).resume_or_load("", resume=True)
        assert state["iteration"] == 9
        assert torch.equal(other.weight, model.weight)

    def test_a_failure_while_writing_leaves_the_earlier_file(self, tmp_path):
        checkpointer = Checkpointer(nn.Linear(2, 2), str(tmp_path))
        checkpointer.save("model_final", iteration=1)
        before = (tmp_path / "model_final.pth").read_bytes()
        with pytest.raises((AttributeError, pickle.PicklingError)):
            checkpointer.save("model_final", iteration=lambda: None)
        assert (tmp_path / "model_final.pth").read_bytes() == before
        assert not list(tmp_path.glob("*.part"))

    def test_a_deleted_folder_is_not_created_again(self, tmp_path):
        checkpointer = Checkpointer(nn.Linear(2, 2), str(tmp_path / "gone"))
        with pytest.raises(
            WriteError, match="model_final.pth' cannot be written.*no longer exists"
        ):
            checkpointer.save("model_final")
        assert not (tmp_path / "gone").exists()

    def test_one_can_be_written_beside_the_one_to_resume_from(self, tmp_path):
        checkpointer = Checkpointer(nn.Linear(2, 2), str(tmp_path))
        checkpointer.save("model_final")
        checkpointer.write("model_best")
        assert checkpointer.get_checkpoint_file() == str(tmp_path / "model_final.pth")

    def test_weights_of_which_a_part_fits_start_a_training(self, tmp_path, caplog):
        source, target = nn.Linear(2, 3), nn.Linear(2, 4)
        source.bias, target.bias = nn.Parameter(torch.ones(4)), nn.Parameter(torch.zeros(4))
        torch.save(source.state_dict(), tmp_path / "model.pth")
        Checkpointer(target).resume_or_load(str(tmp_path / "model.pth"), resume=False)
        assert torch.equal(target.bias, torch.ones(4))
        assert "weight" in caplog.text

    def test_weights_of_which_nothing_fits_are_refused(self, tmp_path):
        torch.save({"encoder.weight": torch.ones(3)}, tmp_path / "model.pth")
        with pytest.raises(UserError, match="has weight, bias; not used from the file: encoder.w"):
            Checkpointer(nn.Linear(2, 2)).resume_or_load(str(tmp_path / "model.pth"), resume=False)


class TestResume:
    """The checkpoint that a training resumes from."""

    ITERATIONS = (9, 19, 29)

    @pytest.fixture
    def folder(self, tmp_path):
        """Three checkpoints; the second was written last, as after a copy."""
        checkpointer = Checkpointer(nn.Linear(4, 4), str(tmp_path))
        for iteration in self.ITERATIONS:
            checkpointer.save(f"model_{iteration:07d}", iteration=iteration)
        os.utime(tmp_path / "model_0000019.pth", (2e9, 2e9))
        return tmp_path

    def resumed(self, folder):
        """The iteration that is resumed."""
        checkpointer = Checkpointer(nn.Linear(4, 4), str(folder))
        return checkpointer.resume_or_load("", resume=True)["iteration"]

    def test_the_one_that_last_checkpoint_names(self, folder):
        (folder / "last_checkpoint").write_text("model_0000019.pth\n")
        assert self.resumed(folder) == 19

    def test_there_may_be_none(self, tmp_path):
        assert not Checkpointer(nn.Linear(4, 4), str(tmp_path)).has_checkpoint()

    @pytest.mark.parametrize("content", [None, b"", b"\xff\x00\x01", b"\x00\x00", b"model_1.pth"])
    def test_without_its_name_the_latest(self, folder, content, caplog):
        (folder / "last_checkpoint").unlink()
        if content is not None:
            (folder / "last_checkpoint").write_bytes(content)
        assert self.resumed(folder) == 29
        assert "model_0000029.pth, the latest complete checkpoint" in caplog.text

    @pytest.mark.parametrize("name", ["/elsewhere/model_final.pth", "../model_final.pth"])
    def test_not_one_of_another_folder(self, folder, name):
        (folder / "last_checkpoint").write_text(name)
        with pytest.raises(UserError, match="is not in that folder"):
            self.resumed(folder)

    def test_a_folder_in_the_place_of_its_name_is_one_message(self, folder):
        (folder / "last_checkpoint").unlink()
        (folder / "last_checkpoint").mkdir()
        with pytest.raises(UserError, match="last_checkpoint' is a folder"):
            self.resumed(folder)

    def truncated(path):
        path.write_bytes(path.read_bytes()[:500])

    def damaged_tensors(path):
        content = path.read_bytes()
        weights = torch.load(path, weights_only=True)["model"]["weight"].numpy().tobytes()
        assert content.count(weights) == 1
        path.write_bytes(content.replace(weights, bytes(len(weights))))

    def other_content(path):
        torch.save([1, 2], path)

    @pytest.mark.parametrize("damage", [truncated, damaged_tensors, other_content])
    def test_damaged_ones_are_skipped_for_the_one_before(self, folder, damage, caplog):
        damage(folder / "model_0000029.pth")
        assert self.resumed(folder) == 19
        assert "model_0000029.pth is" in caplog.text
        damage(folder / "model_0000019.pth")
        assert self.resumed(folder) == 9

    def test_none_whole_is_an_error(self, folder):
        for path in folder.glob("*.pth"):
            path.write_bytes(b"half")
        with pytest.raises(UserError, match="No complete checkpoint to resume from"):
            self.resumed(folder)

    def test_without_the_state_of_a_training_it_is_refused(self, folder):
        class Trainer:
            def state_dict(self):
                return {"iteration": 39}

            load_state_dict = state_dict

        checkpointer = Checkpointer(nn.Linear(4, 4), str(folder), trainer=Trainer())
        with pytest.raises(UserError, match="contains weights, but not the state of a training"):
            checkpointer.get_checkpoint_file()
        checkpointer.save("model_0000039", iteration=39)
        (folder / "last_checkpoint").unlink()
        (folder / "model_0000049.pth").write_bytes((folder / "model_0000029.pth").read_bytes())
        assert checkpointer.get_checkpoint_file().endswith("model_0000039.pth")


class TestReadCheckpoint:
    def test_code_in_a_file_is_not_executed(self, tmp_path, capsys):
        torch.save({"model": RunsCode()}, tmp_path / "bad.pth")
        with pytest.raises(UserError, match="cannot be read safely|can be read safely"):
            read_checkpoint(str(tmp_path / "bad.pth"))
        assert "executed" not in capsys.readouterr().out

    def test_missing_file_is_reported(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="nowhere.pth"):
            read_checkpoint(str(tmp_path / "nowhere.pth"))

    def test_text_is_refused(self, tmp_path):
        (tmp_path / "text.pth").write_text("not a checkpoint")
        with pytest.raises(UserError, match="text.pth"):
            read_checkpoint(str(tmp_path / "text.pth"))

    def test_of_detectron2s_zoo_says_what_reads_it(self, tmp_path):
        (tmp_path / "R-50.pkl").write_bytes(b"pickled")
        with pytest.raises(UserError, match="R-50.pkl.*d2-ctxseg train.*Detectron2 is installed"):
            read_checkpoint(str(tmp_path / "R-50.pkl"))


class TestLoadWeights:
    @pytest.mark.parametrize("wrap", [lambda s: {"model": s}, lambda s: s])
    def test_fills_the_model(self, tmp_path, wrap):
        source, target = nn.Linear(2, 3), nn.Linear(2, 3)
        torch.save(wrap(source.state_dict()), tmp_path / "model.pth")
        load_weights(target, str(tmp_path / "model.pth"))
        assert torch.equal(source.weight, target.weight)

    def test_safetensors(self, tmp_path):
        source, target = nn.Linear(2, 3), nn.Linear(2, 3)
        save_file(source.state_dict(), tmp_path / "model.safetensors")
        load_weights(target, str(tmp_path / "model.safetensors"))
        assert torch.equal(source.weight, target.weight)

    def test_what_does_not_fit_is_listed_and_the_model_left_alone(self, tmp_path):
        target = nn.Linear(2, 3)
        before = target.weight.clone()
        torch.save({"weight": torch.ones(4, 2), "scale": torch.ones(1)}, tmp_path / "model.pth")
        with pytest.raises(UserError) as error:
            load_weights(target, str(tmp_path / "model.pth"))
        assert "1 missing in the file: bias" in str(error.value)
        assert "1 not in the model: scale" in str(error.value)
        assert "weight (file (4, 2), model (3, 2))" in str(error.value)
        assert torch.equal(target.weight, before)

    def test_no_path_says_what_to_set(self):
        with pytest.raises(UserError, match="set MODEL.WEIGHTS"):
            load_weights(nn.Linear(2, 2), "")


class TestResultsFile:
    def test_results_of_other_weights_stay(self, tmp_path):
        path = tmp_path / "run" / "evaluation.json"
        add_to_results_file(path, "a.pth", {"val": {"sem_seg": {"mIoU": 1.0}}})
        add_to_results_file(path, "b.pth", {"val": {"sem_seg": {"mIoU": float("nan")}}})
        assert json.loads(path.read_text()) == {
            "a.pth": {"val": {"sem_seg": {"mIoU": 1.0}}},
            "b.pth": {"val": {"sem_seg": {"mIoU": None}}},
        }

    @pytest.mark.parametrize("content", [b"{", b"[]", b"\xff\x00", b""])
    def test_a_damaged_one_is_kept_aside(self, tmp_path, content, caplog):
        path = tmp_path / "evaluation.json"
        path.write_bytes(content)
        add_to_results_file(path, "a.pth", {})
        assert json.loads(path.read_text()) == {"a.pth": {}}
        assert (tmp_path / "evaluation.json.damaged").read_bytes() == content
        assert "is damaged" in caplog.text


class TestStripping:
    """Deployment removes the modules that only training needs."""

    @pytest.fixture
    def cfg(self, tiny_config):
        tiny_config.MODEL.AUXILIARY_HEAD.ENABLED = True
        return tiny_config

    inputs = [{"image": torch.randint(0, 255, (3, 64, 64), dtype=torch.uint8)}]

    def test_oracle_and_auxiliary_head_go_and_predictions_stay(self, cfg):
        model = build_model(cfg).eval()
        before = model(self.inputs)[0]["sem_seg"]
        removed = strip_training_only(model)
        assert set(removed) == {"auxiliary_head", "classifier.oracle_projector"}
        assert torch.equal(model(self.inputs)[0]["sem_seg"], before)
        assert not any("oracle" in key or "auxiliary" in key for key in model.state_dict())
        assert strip_training_only(model) == []

    def test_a_stripped_checkpoint_fills_a_model_for_inference(self, cfg, tmp_path):
        stripped = build_model(cfg).eval()
        strip_training_only(stripped)
        torch.save({"model": stripped.state_dict()}, tmp_path / "stripped.pth")
        model = build_model(cfg).eval()
        load_weights(model, str(tmp_path / "stripped.pth"))
        expected = stripped(self.inputs)[0]["sem_seg"]
        assert torch.equal(model(self.inputs)[0]["sem_seg"], expected)

    def test_the_memory_of_gaussian_mixtures_goes_and_predictions_stay(self, cfg, tmp_path):
        cfg.MODEL.META_ARCHITECTURE = "GaussianMixtureSegmentor"
        model = build_model(cfg).eval()
        before = model(self.inputs)[0]["sem_seg"]
        assert set(strip_training_only(model)) == {"auxiliary_head", "classifier.memory"}
        torch.save({"model": model.state_dict()}, tmp_path / "stripped.pth")
        assert not any("memory" in key for key in model.state_dict())
        other = build_model(cfg).eval()
        load_weights(other, str(tmp_path / "stripped.pth"))
        assert torch.equal(other(self.inputs)[0]["sem_seg"], before)
        labels = torch.zeros(64, 64, dtype=torch.long)
        with pytest.raises(ValueError, match="stripped for deployment.*full checkpoint"):
            other.train()([{**self.inputs[0], "sem_seg": labels}])

    def test_a_stripped_checkpoint_without_more_than_that_is_refused(self, cfg, tmp_path):
        model = build_model(cfg)
        strip_training_only(model)
        state = model.state_dict()
        del state["classifier.predictor.bias"]
        torch.save(state, tmp_path / "stripped.pth")
        with pytest.raises(UserError, match="1 missing in the file: classifier.predictor.bias"):
            load_weights(build_model(cfg), str(tmp_path / "stripped.pth"))

    def test_a_stripped_classifier_says_that_it_has_no_oracle(self, cfg):
        model = build_model(cfg)
        strip_training_only(model)
        labels = torch.zeros(64, 64, dtype=torch.long)
        with pytest.raises(ValueError, match="stripped for deployment.*full checkpoint"):
            model([{**self.inputs[0], "sem_seg": labels}])

    def test_tool(self, tiny_run, tmp_path, capsys, monkeypatch):
        cfg = setup_config(str(tiny_run), [], for_inference=True)
        full, stripped = tmp_path / "full.pth", tmp_path / "stripped.pth"
        torch.save({"model": build_model(cfg).state_dict(), "optimizer": {}}, full)
        arguments = ["--config-file", str(tiny_run), "--weights", str(full)]
        command = ["strip_checkpoint.py", *arguments, "--output", str(stripped)]
        monkeypatch.setattr("sys.argv", command)
        tool = Path(__file__).parents[2] / "tools" / "strip_checkpoint.py"
        runpy.run_path(str(tool), run_name="__main__")
        assert "Removed classifier.oracle_projector" in capsys.readouterr().out
        keys, kept = (torch.load(file, weights_only=True)["model"] for file in (full, stripped))
        assert {key for key in keys if "oracle" not in key} == set(kept)
        load_weights(build_model(cfg), str(stripped))
        with pytest.raises(SystemExit, match="already exists"):
            runpy.run_path(str(tool), run_name="__main__")
