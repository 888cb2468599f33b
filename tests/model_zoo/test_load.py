"""load_segmentor: a run's folder, a checkpoint, a name; without the training's dataset."""

import shutil

import numpy as np
import pytest
import torch
import yaml
from daylight import half_bright, make_run

import d2_ctxseg
from d2_ctxseg import model_zoo
from d2_ctxseg.engine import setup_config
from d2_ctxseg.model_zoo.load import choose_device, trained_config
from d2_ctxseg.utils.errors import MissingFileError, UserError


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run whose dataset's YAML was deleted; its checkpoint contains the config."""
    folder = make_run(tmp_path_factory.mktemp("runs") / "run", "LinearSegmentor", "daylight_load")
    cfg = setup_config(str(folder / "config.yaml"), [])
    (folder / "config.yaml").write_text(cfg.dump())
    content = torch.load(folder / "model_final.pth", weights_only=True)
    torch.save({**content, "config": cfg.dump()}, folder / "model_final.pth")
    (folder.parent / "daylight_load.yaml").unlink()
    return folder


@pytest.fixture
def run(finished, tmp_path):
    """A copy of it, in another place."""
    return shutil.copytree(finished, tmp_path / "copied")


def labels_of(source, **options):
    segmentor = d2_ctxseg.load_segmentor(source, device="cpu", **options)
    assert segmentor.classes == ("night", "day")
    return segmentor.predict(half_bright()).labels


class TestSources:
    def test_a_runs_folder_a_checkpoint_alone_and_weights_beside_a_config(self, run, tmp_path):
        expected = labels_of(run)
        alone = shutil.copy(run / "model_final.pth", tmp_path / "anything.pth")
        assert np.array_equal(labels_of(alone), expected)
        assert np.array_equal(labels_of(str(run / "model_final.pth")), expected)
        assert np.array_equal(labels_of(run, weights="model_final.pth"), expected)

    def test_a_checkpoint_of_an_old_version_takes_the_config_beside_it(self, run):
        content = torch.load(run / "model_final.pth", weights_only=True)
        torch.save({"model": content["model"]}, run / "model_final.pth")
        assert labels_of(run / "model_final.pth").shape == (96, 128)
        (run / "config.yaml").unlink()
        with pytest.raises(MissingFileError, match="does not contain its config"):
            labels_of(run / "model_final.pth")

    def test_a_folder_without_config_is_read_from_its_checkpoint(self, run):
        (run / "config.yaml").unlink()
        assert labels_of(run).shape == (96, 128)

    def test_a_training_without_test_dataset_has_the_training_datasets_classes(self, run):
        assert labels_of(run, opts=["DATASETS.TEST", ()]).shape == (96, 128)

    def test_names_are_those_of_trained_models(self):
        for name in model_zoo.read_trained_models():
            segmentor = d2_ctxseg.load_segmentor(name, device="cpu")
            assert len(segmentor.classes) == 11 and "Road" in segmentor.classes


class TestWrongSources:
    def test_a_folder_without_weights_says_which_there_are(self, run):
        (run / "model_final.pth").rename(run / "model_0000099.pth")
        with pytest.raises(
            MissingFileError, match=r"has no model_final.pth or .*weights='model_0000099.pth'"
        ):
            d2_ctxseg.load_segmentor(run)
        assert labels_of(run, weights="model_0000099.pth").shape == (96, 128)

    def test_an_empty_folder_is_no_run(self, tmp_path):
        with pytest.raises(MissingFileError, match="Expected the OUTPUT_DIR"):
            d2_ctxseg.load_segmentor(tmp_path)

    def test_safetensors_without_config(self, run):
        (run / "model_final.pth").unlink()
        (run / "config.yaml").unlink()
        (run / "model.safetensors").write_bytes(b"")
        for source in (run, run / "model.safetensors"):
            with pytest.raises(MissingFileError, match=r"config\.yaml"):
                d2_ctxseg.load_segmentor(source)

    def test_a_name_suggests_the_nearest(self):
        with pytest.raises(MissingFileError, match="Did you mean 'camvid/fpn_efficientnet_lite0_l"):
            d2_ctxseg.load_segmentor("camvid/fpn_efficientnet_lite0_liner")

    def test_a_config_without_trained_weights_is_reported(self):
        with pytest.raises(UserError, match="config without trained weights.*Trained models: camv"):
            d2_ctxseg.load_segmentor("camvid/fpn_resnet18_linear")

    @pytest.mark.parametrize("source", ["", "nowhere.pth", "./here/there", "a/b/c", "/nowhere"])
    def test_what_is_nothing_is_not_looked_for_on_the_hub(self, source, monkeypatch, tmp_path):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr("d2_ctxseg.model_zoo.load.download", None)
        with pytest.raises(MissingFileError):
            d2_ctxseg.load_segmentor(source)

    def test_a_file_of_another_kind(self, tmp_path):
        path = tmp_path / "photo.jpg"
        path.write_bytes(b"")
        with pytest.raises(UserError, match=r"photo\.jpg' is not a checkpoint, expected the"):
            d2_ctxseg.load_segmentor(path)

    def test_a_damaged_checkpoint(self, run):
        (run / "model_final.pth").write_bytes(b"damaged")
        for source in (run, run / "model_final.pth"):
            with pytest.raises(UserError, match=r"model_final\.pth"):
                d2_ctxseg.load_segmentor(source)

    def test_weights_of_another_model(self, run):
        content = yaml.safe_load((run / "config.yaml").read_text())
        content["MODEL"]["SEM_SEG_HEAD"]["DECODER"]["OPTIONS"] = ["pyramid_channels", 16]
        (run / "config.yaml").write_text(yaml.safe_dump(content))
        with pytest.raises(UserError, match="do not fit the model of this config"):
            d2_ctxseg.load_segmentor(run)

    def test_weights_need_a_folder(self):
        with pytest.raises(UserError, match="names a file in a folder"):
            d2_ctxseg.load_segmentor("quickstart", weights="model_final.pth")


class TestDevice:
    def test_a_config_that_says_cuda_is_loaded_where_there_is_none(self, run, monkeypatch):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        text = (run / "config.yaml").read_text()
        (run / "config.yaml").write_text(text.replace("DEVICE: cpu", "DEVICE: cuda"))
        assert "DEVICE: cuda" in (run / "config.yaml").read_text()
        assert d2_ctxseg.load_segmentor(run).device.type == "cpu"

    def test_it_is_the_gpu_where_there_is_one(self, monkeypatch):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
        assert choose_device() == "cuda" and choose_device("cpu") == "cpu"
        assert choose_device(torch.device("cuda", 1)) == "cuda:1"
        with pytest.raises(UserError, match="'cuda:2', but PyTorch finds 2 GPUs"):
            choose_device("cuda:2")

    def test_one_that_is_not_there_is_refused(self, monkeypatch):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        with pytest.raises(UserError, match="finds 0 GPUs here. Use device='cpu'"):
            choose_device("cuda")
        with pytest.raises(UserError, match="Did you mean 'cuda'"):
            choose_device("cudda")
        with pytest.raises(UserError, match="Did you mean 'cuda'"):
            choose_device("gpu")


def test_two_models_whose_datasets_have_one_name_keep_their_classes(run, tmp_path):
    """Many users name their first dataset "mydata"."""
    other = shutil.copytree(run, tmp_path / "other")
    config = yaml.safe_load((other / "config.yaml").read_text())
    config["DATASETS"]["DESCRIPTIONS"][0]["classes"] = ["dark", "bright"]
    (other / "config.yaml").write_text(yaml.safe_dump(config))
    assert d2_ctxseg.load_segmentor(run).classes == ("night", "day")
    assert d2_ctxseg.load_segmentor(other).classes == ("dark", "bright")
    assert d2_ctxseg.load_segmentor(run).classes == ("night", "day")


def test_the_config_says_which_weights(run):
    cfg = trained_config(run, None, ["MODEL.DEVICE", "cpu"])
    assert cfg.is_frozen() and str(run / "model_final.pth") == cfg.MODEL.WEIGHTS
