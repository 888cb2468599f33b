"""demo/demo.py and demo/app.py with a trained model by its name, where its dataset is not."""

import functools
import logging

import numpy as np
import pytest
from daylight import half_bright
from PIL import Image

from d2_ctxseg import model_zoo
from d2_ctxseg.commands import demo
from d2_ctxseg.commands.app import session as app_session
from d2_ctxseg.commands.parsers.app import get_parser as app_parser
from d2_ctxseg.commands.parsers.demo import get_parser
from d2_ctxseg.deployment.predictor import SemSegPredictor
from d2_ctxseg.utils.errors import UserError
from d2_ctxseg.visualization import draw_overlay


@pytest.fixture(autouse=True)
def elsewhere(zoo, tmp_path, monkeypatch):
    """A folder with a photograph, and no dataset; the package's trained models are the zoo's."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DETECTRON2_DATASETS", raising=False)
    get_config = functools.partial(model_zoo.get_config, folder=zoo)
    monkeypatch.setattr(model_zoo, "get_config", get_config)
    Image.fromarray(half_bright()).save("street.png")


def run(*arguments):
    demo.run(get_parser().parse_args(arguments), logging.getLogger("test_demos_by_name"))


def test_the_demo_draws_what_the_model_predicts(tmp_path):
    run("--model", "quickstart", "--input", "street.png", "--output", "output/pictures")
    predictor = SemSegPredictor(model_zoo.get_config("quickstart", trained=True))
    assert predictor.metadata.stuff_classes[0] == "room"
    expected = draw_overlay(half_bright(), predictor(half_bright()), predictor.metadata)
    decoded = Image.open(tmp_path / "output" / "pictures" / "street.png")
    np.testing.assert_array_equal(np.asarray(decoded), expected)


def test_the_demo_wants_one_model(capsys):
    both = ["--model", "quickstart", "--config-file", "config.yaml"]
    for wrong in ([], both):
        with pytest.raises(SystemExit):
            run(*wrong, "--input", "street.png", "--output", "pictures")
    assert "not allowed with" in capsys.readouterr().err


def test_a_config_without_trained_weights_is_an_error():
    with pytest.raises(UserError, match="Trained models: quickstart"):
        run("--model", "camvid/fpn_resnet18_linear", "--input", "street.png", "--output", "o")


def test_the_page_has_the_models_by_their_names():
    models = app_session.load_trained_models(["quickstart"], [])
    session = app_session.Session(models, {}, max_megapixels=20)
    html = session.segment("street.png", ["quickstart"])
    assert 'download="street_quickstart.png"' in html
    assert any(name in html for name in models["quickstart"].metadata.stuff_classes)
    assert app_session.find_samples(None, models["quickstart"]) == []


def test_the_pages_command_line_names_trained_models():
    app = pytest.importorskip("app", reason="the page needs Gradio")
    session = app.make_session(app_parser().parse_args(["--model", "quickstart"]))
    assert list(session.models) == ["quickstart"]
