"""tools/publish_model.py: from a finished training to a small file, an index entry and a card."""

import json
import runpy
import shutil
import sys

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from train_net_runs import ROOT

from d2_ctxseg import model_zoo
from d2_ctxseg.checkpoint import FittedTemperature, read_temperatures, write_temperatures
from d2_ctxseg.checkpoint.temperature_file import temperature_file
from d2_ctxseg.engine.calibration import with_fitted_temperatures
from d2_ctxseg.model_zoo import publish
from d2_ctxseg.model_zoo.half_precision import Agreement, compare_models, half_precision
from d2_ctxseg.utils.errors import MissingFileError, UserError

FILE = "quickstart.safetensors"
OTHER = "camvid/fpn_resnet18_linear"


@pytest.fixture
def run(finished_run, tmp_path):
    """A finished run that is free to be changed."""
    return shutil.copytree(finished_run, tmp_path / "run")


class TestHalfPrecision:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))

    def test_kernels_are_float16_and_all_else_as_it_was(self):
        state = half_precision(self.model)
        assert state.keys() == self.model.state_dict().keys()
        half = [key for key, tensor in state.items() if tensor.dtype == torch.float16]
        assert half == ["0.weight"]
        assert state["1.running_var"].dtype == torch.float32
        assert state["1.num_batches_tracked"].dtype == torch.int64

    def test_what_float16_cannot_hold_is_refused(self):
        model = nn.Linear(2, 2)
        nn.init.constant_(model.weight, 1e5)
        with pytest.raises(UserError, match="'weight' has values that are not finite in.*1e"):
            half_precision(model)

    def test_two_models_are_compared_on_random_images(self):
        class Segmentor(nn.Module):
            def __init__(self, shift):
                super().__init__()
                self.shift = shift

            def forward(self, inputs):
                logits = inputs[0]["image"] + torch.tensor(self.shift).view(3, 1, 1)
                return [{"sem_seg": logits}]

        one = Segmentor([0.0, 0, 0])
        assert compare_models(one, one) == Agreement(0.0, 1.0)
        other = compare_models(one, Segmentor([1e6, 0, 0]))
        assert other.difference > 1 and other.equal_labels < 0.6


class TestFiles:
    def test_what_only_training_needs_is_left_out(self, zoo, finished_run):
        full = torch.load(finished_run / "model_final.pth", weights_only=True)["model"]
        published = load_file(zoo / FILE)
        assert {key for key in full if "oracle" not in key} == set(published)
        assert (zoo / FILE).stat().st_size < 0.6 * (finished_run / "model_final.pth").stat().st_size

    def test_the_entry_has_only_changes_that_predictions_depend_on(self, zoo):
        opts = model_zoo.read_trained_models(zoo)["quickstart"].opts
        assert opts["MODEL.ENCODER.NAME"] == "tu-test_resnet"
        assert not {"OUTPUT_DIR", "SOLVER.MAX_ITER", "MODEL.WEIGHTS"} & set(opts)

    def test_the_card_says_recipe_scores_data_and_limits(self, run, tmp_path):
        publication = publish.publish_run(
            run, "quickstart", tmp_path / "new", commit="abc123", data_terms="Free of charge."
        )
        card = publication.card.read_text()
        assert publication.card.name == "MODEL_CARD_quickstart.md"
        assert "SOLVER.MAX_ITER 4" in card and "SEED 7" in card and "`abc123`" in card
        assert "61.23" in card and "55.50" in card and "Free of charge." in card
        assert publication.model.sha256 in card and "limits" in card

    def test_no_folder_of_the_machine_that_trained_is_left(self, zoo, finished_run):
        for path in (zoo / "models.yaml", zoo / "MODEL_CARD_quickstart.md"):
            assert str(finished_run) not in path.read_text()

    def test_temperatures_that_were_fitted_go_with_the_weights(self, run, tmp_path):
        folder, fitted = tmp_path / "new", FittedTemperature(1.7, "val", 100, 0.6, 0.5)
        write_temperatures(run / "model_final.pth", {"sem_seg": fitted})
        publish.publish_run(run, "quickstart", folder)
        assert read_temperatures(folder / FILE) == {"sem_seg": fitted}
        cfg = model_zoo.get_config("quickstart", trained=True, folder=folder)
        assert with_fitted_temperatures(cfg).TEST.TEMPERATURE == 1.7
        # Those of the next model of this name are its own.
        temperature_file(run / "model_final.pth").unlink()
        publish.publish_run(run, "quickstart", folder)
        assert not temperature_file(folder / FILE).exists()

    def test_nothing_else_is_left(self, zoo):
        names = {path.name for path in zoo.iterdir()}
        assert names == {"models.yaml", FILE, "MODEL_CARD_quickstart.md"}

    def test_a_model_of_the_same_name_is_replaced_and_others_stay(self, zoo, run):
        publish.publish_run(run, OTHER, zoo)
        state = torch.load(run / "model_final.pth", weights_only=True)
        state["model"]["classifier.predictor.bias"] += 1
        torch.save(state, run / "model_final.pth")
        publish.publish_run(run, "quickstart", zoo)
        assert list(model_zoo.read_trained_models(zoo)) == [OTHER, "quickstart"]
        first, second = (
            model_zoo.get(name, trained=True, folder=zoo).classifier.predictor.bias
            for name in (OTHER, "quickstart")
        )
        torch.testing.assert_close(first + 1, second)


class TestRefusals:
    def publish(self, run, folder, **options):
        publish.publish_run(run, options.pop("name", "quickstart"), folder, **options)

    def test_an_unknown_name(self, run, tmp_path):
        with pytest.raises(UserError, match="Did you mean 'quickstart'"):
            self.publish(run, tmp_path / "new", name="quickstar")

    @pytest.mark.parametrize("name", ["config.yaml", "evaluation.json", "model_final.pth"])
    def test_a_run_that_did_not_end(self, run, tmp_path, name):
        (run / name).unlink()
        with pytest.raises(MissingFileError, match=f"{name}' does not exist, expected the"):
            self.publish(run, tmp_path / "new")

    def test_weights_that_were_not_evaluated(self, run, tmp_path):
        with pytest.raises(
            UserError, match="no scores for 'model_best.pth', only for model_final.pth"
        ):
            self.publish(run, tmp_path / "new", weights="model_best.pth")

    def test_the_latest_scores_count(self, run):
        results = json.loads((run / "evaluation.json").read_text())
        results["elsewhere/model_final.pth"] = {"val": {"sem_seg": {"mIoU": 1.0}}}
        (run / "evaluation.json").write_text(json.dumps(results))
        assert publish.read_results(run, "model_final.pth") == {"val": {"sem_seg": {"mIoU": 1.0}}}

    def test_a_file_that_is_too_large(self, run, tmp_path):
        with pytest.raises(UserError, match=r"more than --max-megabytes 0.1"):
            self.publish(run, tmp_path / "new", max_megabytes=0.1)

    def test_a_model_that_predicts_otherwise_leaves_the_folder_as_it_was(
        self, run, zoo, monkeypatch
    ):
        before = {path.name: path.read_bytes() for path in zoo.iterdir()}
        spoiled = {}

        def half_precision_of_another(model):
            spoiled.update(half_precision(model))
            spoiled["classifier.predictor.weight"] *= -1
            return spoiled

        monkeypatch.setattr(publish, "half_precision", half_precision_of_another)
        with pytest.raises(UserError, match="expected at most 0.02. Nothing was written"):
            self.publish(run, zoo)
        assert {path.name: path.read_bytes() for path in zoo.iterdir()} == before


def test_the_tool_publishes_a_run(finished_run, tmp_path, monkeypatch, capsys):
    arguments = [str(finished_run), "--name", "quickstart", "--output", str(tmp_path / "new")]
    monkeypatch.setattr(sys, "argv", ["publish_model.py", *arguments])
    runpy.run_path(str(ROOT / "tools" / "publish_model.py"), run_name="__main__")
    output = capsys.readouterr().out
    assert "Removed classifier.oracle_projector" in output and "Wrote" in output
    assert not model_zoo.get("quickstart", trained=True, folder=tmp_path / "new").training
