"""config.yaml of runs of earlier versions, where MODEL.CLASSIFIER.NAME had a default."""

import logging

import pytest
import yaml
from train_net_runs import ROOT

from d2_ctxseg.engine import setup_config
from d2_ctxseg.utils.errors import UserError
from detectron2.modeling import build_model

# Written before MODEL.PIXEL_LOSS, MODEL.SEM_SEG_HEAD.IN_FEATURES and the newer classifiers' keys.
EARLIER = ROOT / "tests" / "fixtures" / "config_of_earlier_version.yaml"


@pytest.fixture
def saved_earlier(tiny_run, tmp_path):
    """Writes what an earlier version saved of a run with this meta-architecture."""

    def write(meta_architecture, name="LinearClassifier"):
        cfg = setup_config(str(tiny_run), ["MODEL.META_ARCHITECTURE", meta_architecture]).clone()
        cfg.defrost()
        del cfg.MODEL["PIXEL_LOSS"]
        cfg.MODEL.CLASSIFIER.NAME = name
        path = tmp_path / "config.yaml"
        path.write_text(cfg.dump())
        return str(path)

    return write


@pytest.mark.parametrize(
    "meta_architecture",
    ["ContextAwareSegmentor", "PrototypeSegmentor", "ExplicitClassSegmentor", "LinearSegmentor"],
)
def test_the_default_of_before_is_no_choice(saved_earlier, meta_architecture, caplog):
    with caplog.at_level(logging.WARNING):
        cfg = setup_config(saved_earlier(meta_architecture), [])
    build_model(cfg)
    warned = "was saved by an earlier version" in caplog.text
    assert warned == (meta_architecture != "LinearSegmentor")


def test_the_file_of_an_earlier_version_means_what_it_meant():
    cfg = setup_config(str(EARLIER), [], for_inference=True)
    model = build_model(cfg)
    assert type(model).__name__ == "ContextAwareSegmentor"
    assert type(model.classifier).__name__ == "ContextAwareClassifier"
    assert model.pixel_mean.flatten().tolist() == pytest.approx(cfg.MODEL.PIXEL_MEAN)

    changed = {"MODEL.CLASSIFIER.NAME", "MODEL.ENCODER.WEIGHTS"}  # the default; for_inference
    saved = flat(yaml.safe_load(EARLIER.read_text()))
    read = flat(yaml.safe_load(cfg.dump()))
    assert {key for key in saved if key not in read or read[key] != saved[key]} <= changed


def flat(values, prefix=""):
    """Nested keys to one level: {"MODEL.DEVICE": "cpu", ...}."""
    items = {}
    for key, value in values.items():
        nested = (
            flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
        )
        items |= nested
    return items


def test_where_it_had_an_effect_it_still_has(saved_earlier):
    cfg = setup_config(saved_earlier("PixelClassifierSegmentor"), [])
    assert cfg.MODEL.CLASSIFIER.NAME == "LinearClassifier"
    build_model(cfg)


def test_another_name_was_someones_choice(saved_earlier):
    cfg = setup_config(saved_earlier("ContextAwareSegmentor", "PrototypeClassifier"), [])
    with pytest.raises(UserError, match="'PrototypeClassifier'"):
        build_model(cfg)


def test_overrides_and_files_of_today_are_choices(saved_earlier, tiny_run):
    override = ["MODEL.CLASSIFIER.NAME", "LinearClassifier"]
    cfg = setup_config(saved_earlier("ContextAwareSegmentor"), override)
    assert cfg.MODEL.CLASSIFIER.NAME == "LinearClassifier"
    config = yaml.safe_load(tiny_run.read_text())
    config["MODEL"]["META_ARCHITECTURE"] = "ContextAwareSegmentor"
    config["MODEL"]["CLASSIFIER"] = {"NAME": "LinearClassifier"}
    tiny_run.write_text(yaml.safe_dump(config))
    with pytest.raises(UserError, match="'ContextAwareSegmentor' has the classifier"):
        build_model(setup_config(str(tiny_run), []))


def test_a_pixel_loss_without_effect_is_reported(tiny_run, caplog):
    opts = ["MODEL.META_ARCHITECTURE", "SemanticSegmentor"]
    setup_config(str(tiny_run), opts)
    assert "PIXEL_LOSS" not in caplog.text
    setup_config(str(tiny_run), [*opts, "MODEL.PIXEL_LOSS.LABEL_SMOOTHING", "0.1"])
    assert "MODEL.PIXEL_LOSS has no effect" in caplog.text
