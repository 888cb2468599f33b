"""Configs and trained models are found by their names."""

import logging
from pathlib import Path

import pytest
import torch
import yaml

from d2_ctxseg import model_zoo
from d2_ctxseg.checkpoint import Checkpointer, load_weights
from d2_ctxseg.deployment.predictor import SemSegPredictor
from d2_ctxseg.engine import setup_config
from d2_ctxseg.model_zoo.half_precision import compare_models
from d2_ctxseg.utils.errors import MissingFileError, UserError
from detectron2.config import CfgNode
from detectron2.modeling import build_model

CONFIGS = Path(__file__).parents[2] / "configs"
FILE = "quickstart.safetensors"


class TestConfigs:
    def test_every_file_is_found_by_its_path_below_configs(self):
        files = sorted(CONFIGS.rglob("*.yaml"))
        names = [path.relative_to(CONFIGS).with_suffix("").as_posix() for path in files]
        assert model_zoo.config_names() == sorted(names)
        for name, path in zip(names, files):
            for spelling in (name, f"{name}.yaml"):
                assert model_zoo.get_config_file(spelling) == str(path)

    def test_the_working_directory_does_not_matter(self, monkeypatch, tmp_path):
        monkeypatch.chdir(tmp_path)
        path = model_zoo.get_config_file("camvid/fpn_resnet18_linear")
        assert Path(path).is_absolute()
        content = CfgNode.load_yaml_with_base(path)  # the _BASE_ files are found as well
        assert content["SOLVER"]["LR_SCHEDULER_NAME"] == "WarmupPolyLR"

    def test_a_lazy_config_is_found_with_its_suffix(self):
        path = model_zoo.get_config_file("lazy/context_shapes.py")
        assert Path(path) == CONFIGS / "lazy" / "context_shapes.py"
        assert not any("lazy" in name for name in model_zoo.config_names())

    def test_an_unknown_name_suggests_the_nearest(self):
        with pytest.raises(UserError, match="'camvid/fpn_resnet18_liner'.* Did you mean 'camvid/f"):
            model_zoo.get_config_file("camvid/fpn_resnet18_liner")

    @pytest.mark.parametrize("name", ["", "camvid", "../setup", str(CONFIGS / "quickstart")])
    def test_what_is_no_name_is_refused(self, name):
        with pytest.raises(UserError, match="No config of this project"):
            model_zoo.get_config_file(name)

    def test_the_config_is_what_its_file_says_and_free_to_be_changed(self):
        cfg = model_zoo.get_config("camvid/fpn_resnet18_linear", opts=["SEED", "3"])
        path = str(CONFIGS / "camvid" / "fpn_resnet18_linear.yaml")
        assert cfg == setup_config(path, ["SEED", "3"])
        cfg.SOLVER.MAX_ITER = 5
        assert ("cuda" if torch.cuda.is_available() else "cpu") == cfg.MODEL.DEVICE


class TestCommandLine:
    """What --config-file takes."""

    def test_a_name_means_the_config_where_there_is_no_such_file(self, monkeypatch, tmp_path):
        monkeypatch.chdir(tmp_path)
        cfg = setup_config("camvid/fpn_resnet18_linear", [])
        assert cfg == setup_config(str(CONFIGS / "camvid" / "fpn_resnet18_linear.yaml"), [])

    def test_a_file_comes_first(self, monkeypatch, tmp_path):
        monkeypatch.chdir(tmp_path)
        Path("quickstart").write_text(f'_BASE_: "{CONFIGS}/quickstart.yaml"\nSEED: 77')
        assert setup_config("quickstart", []).SEED == 77

    def test_neither_is_an_error_that_says_both(self, monkeypatch, tmp_path):
        monkeypatch.chdir(tmp_path)
        with pytest.raises(MissingFileError) as error:
            setup_config("camvid/fpn_resnet18_liner.yaml", [])
        assert f"no file '{tmp_path}/camvid/fpn_resnet18_liner.yaml'" in str(error.value)
        assert "Did you mean 'camvid/fpn_resnet18_linear'?" in str(error.value)


class TestTrainedModel:
    def test_its_config_has_the_weights_and_what_the_training_changed(self, zoo):
        cfg = model_zoo.get_config("quickstart", trained=True, folder=zoo)
        assert str(zoo / FILE) == cfg.MODEL.WEIGHTS
        assert cfg.MODEL.ENCODER.NAME == "tu-test_resnet"  # quickstart.yaml has another
        assert cfg.MODEL.ENCODER.WEIGHTS == ""

    def test_options_have_the_last_word(self, zoo):
        opts = ["MODEL.WEIGHTS", "mine.pth"]
        cfg = model_zoo.get_config("quickstart", trained=True, opts=opts, folder=zoo)
        assert cfg.MODEL.WEIGHTS == "mine.pth"

    def test_it_computes_what_the_trained_model_computes(self, zoo, finished_run):
        original = build_model(setup_config(str(finished_run / "config.yaml"), [])).eval()
        load_weights(original, str(finished_run / "model_final.pth"))
        model = model_zoo.get("quickstart.yaml", trained=True, device="cpu", folder=zoo)
        agreement = compare_models(original, model)
        assert 0 < agreement.difference < 0.02 and agreement.equal_labels > 0.98

    def test_it_is_in_evaluation_mode_and_computes_in_float32(self, zoo):
        model = model_zoo.get("quickstart", trained=True, device="cpu", folder=zoo)
        assert not any(module.training for module in model.modules())
        assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}

    def test_without_trained_weights_it_is_as_a_training_begins(self):
        model = model_zoo.get("quickstart", device="cpu")
        assert model.training and model.classifier.oracle_projector is not None

    def test_a_training_can_start_from_it(self, zoo, caplog):
        cfg = model_zoo.get_config("quickstart", trained=True, folder=zoo)
        model = build_model(cfg)
        with caplog.at_level(logging.INFO):
            Checkpointer(model).load(cfg.MODEL.WEIGHTS)
        trained = model_zoo.get("quickstart", trained=True, folder=zoo).state_dict()
        state = model.state_dict()
        assert all(torch.equal(state[key], tensor) for key, tensor in trained.items())
        assert "oracle_projector" in caplog.text  # is in no published file

    def test_its_path_is_that_of_the_file(self, zoo):
        assert model_zoo.get_checkpoint_path("quickstart", folder=zoo) == str(zoo / FILE)


class TestNoTrainedModel:
    def test_of_a_config_names_those_that_there_are(self, zoo):
        for get in (model_zoo.get_checkpoint_path, model_zoo.get_config, model_zoo.get):
            options = {} if get is model_zoo.get_checkpoint_path else {"trained": True}
            with pytest.raises(UserError, match="'camvid/fpn_resnet18_linear'.*models: quickstart"):
                get("camvid/fpn_resnet18_linear", folder=zoo, **options)

    def test_in_a_folder_without_index(self, tmp_path):
        assert model_zoo.read_trained_models(tmp_path) == {}
        with pytest.raises(UserError, match="Trained models: none"):
            model_zoo.get_checkpoint_path("quickstart", folder=tmp_path)

    def test_of_an_unknown_config_suggests_the_nearest(self, zoo):
        with pytest.raises(UserError, match="Did you mean 'quickstart'"):
            model_zoo.get_checkpoint_path("quikstart", folder=zoo)


class TestDamage:
    def test_a_missing_file_is_reported(self, zoo):
        (zoo / FILE).unlink()
        with pytest.raises(MissingFileError, match=f"weights of 'quickstart' are missing.*{FILE}"):
            model_zoo.get("quickstart", trained=True, folder=zoo)

    def test_a_truncated_file_is_reported(self, zoo):
        content = (zoo / FILE).read_bytes()
        (zoo / FILE).write_bytes(content[:1000])
        with pytest.raises(UserError, match=f"damaged: .*{FILE}' has 1000 bytes"):
            model_zoo.get("quickstart", trained=True, folder=zoo)

    def test_a_single_wrong_byte_is_noticed(self, zoo):
        content = bytearray((zoo / FILE).read_bytes())
        content[-1] ^= 1
        (zoo / FILE).write_bytes(content)
        with pytest.raises(UserError, match="damaged"):
            model_zoo.get_checkpoint_path("quickstart", folder=zoo)

    @pytest.mark.parametrize("index", ["[1, 2", "- a list", "quickstart: {file: a}"])
    def test_a_damaged_index_is_reported(self, zoo, index):
        (zoo / "models.yaml").write_text(index)
        with pytest.raises(UserError, match=r"index of trained models '.*models.yaml' is damaged"):
            model_zoo.read_trained_models(zoo)


@pytest.mark.parametrize("name", model_zoo.read_trained_models())
class TestEveryModelOfThePackage:
    def test_predicts_classes_that_have_names_and_colours(self, name, monkeypatch, tmp_path):
        monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))  # without the dataset's images
        cfg = model_zoo.get_config(name, trained=True, opts=["MODEL.DEVICE", "cpu"])
        predictor = SemSegPredictor(cfg)
        num_classes = cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
        assert len(predictor.metadata.stuff_classes) == num_classes
        assert len(set(map(tuple, predictor.metadata.stuff_colors))) == num_classes
        image = torch.randint(0, 255, (96, 128, 3), dtype=torch.uint8).numpy()
        assert predictor(image).shape == (96, 128)

    def test_is_small_and_has_a_model_card(self, name):
        model = model_zoo.read_trained_models()[name]
        folder = model_zoo.TRAINED_FOLDER
        assert (folder / model.file).stat().st_size == model.size < 12.5e6
        card = (folder / f"MODEL_CARD_{name.replace('/', '_')}.md").read_text()
        assert model.sha256 in card

    def test_no_folder_of_the_machine_that_trained_is_left(self, name):
        folder = model_zoo.TRAINED_FOLDER
        texts = [
            (folder / "models.yaml").read_text(),
            *(p.read_text() for p in folder.glob("*.md")),
        ]
        assert not any(prefix in text for text in texts for prefix in ("/work", "/home", "/root"))


def test_the_index_is_yaml_that_other_programs_read(zoo):
    entry = yaml.safe_load((zoo / "models.yaml").read_text())["quickstart"]
    assert entry["file"] == FILE and entry["trained_on"] == ["context_shapes_sem_seg_train"]
    assert entry["size"] == (zoo / FILE).stat().st_size
    assert entry["scores"]["context_shapes_sem_seg_val"]["sem_seg"]["mIoU"] == 61.23
