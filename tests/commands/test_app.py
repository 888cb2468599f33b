"""What demo/app.py's page does, without a browser: results as HTML, models, samples."""

import base64
import io
import json
import re
import socket
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from daylight import DAY, NIGHT, half_bright, make_run
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from d2_ctxseg.commands.app import result as app_result
from d2_ctxseg.commands.app import session as app_session
from d2_ctxseg.commands.parsers.app import get_parser
from d2_ctxseg.utils.errors import MissingFileError, UserError
from d2_ctxseg.visualization.classifier_views import ClassifierView, draw_classifier_views
from detectron2.data.catalog import Metadata


class Page(HTMLParser):
    """The elements of HTML as [(tag, {attribute: value})], and its text."""

    def __init__(self, html):
        super().__init__()
        self.elements, self.text = [], ""
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data

    def of_class(self, name):
        return [a for _, a in self.elements if name in (a.get("class") or "").split()]

    def images(self, name, attribute="src"):
        """The images in elements of a class, as PIL images."""
        urls = [element[attribute] for element in self.of_class(name)]
        return [Image.open(io.BytesIO(base64.b64decode(url.split(",")[1]))) for url in urls]


def legend_rows(html):
    """The legend's rows below its head, as lists of the cells' texts."""
    rows = re.findall(r"<tr>(.*?)</tr>", html, re.DOTALL)[1:]
    return [[Page(cell).text for cell in re.split(r"(?=<t[hd])", row)[1:]] for row in rows]


def metadata_of(names, colors=None):
    metadata = Metadata(stuff_classes=list(names))
    if colors is not None:
        metadata.stuff_colors = colors
    return metadata


def prediction(labels, names=("night", "day"), colors=(NIGHT, DAY), model="linear"):
    labels = np.asarray(labels)
    confidence = np.linspace(0, 1, labels.size, dtype=np.float32).reshape(labels.shape)
    return app_result.Prediction(model, labels, metadata_of(names, colors), 0.5, confidence)


HALVES = np.repeat([[0] * 30 + [1] * 10], 20, axis=0)


# The result


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from([2, 256, 257, 1000]))
def test_a_label_map_keeps_every_class_number(height, width, num_classes):
    labels = np.random.default_rng(0).integers(0, num_classes, (height, width))
    metadata = metadata_of(map(str, range(num_classes)))
    decoded = Image.open(io.BytesIO(app_result.label_map_png(labels, metadata)))
    np.testing.assert_array_equal(np.asarray(decoded), labels)
    assert decoded.mode == ("P" if num_classes <= 256 else "I;16")


def test_a_label_map_has_the_classes_colours():
    content = app_result.label_map_png(HALVES, metadata_of(["night", "day"], [NIGHT, DAY]))
    decoded = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
    np.testing.assert_array_equal(decoded, np.array([NIGHT, DAY])[HALVES])


def test_classes_without_colours_get_some_however_many_they_are():
    colors = app_result.palette(metadata_of(map(str, range(200))))
    assert colors.shape == (200, 3) and colors.dtype == np.uint8
    assert len(np.unique(colors[:20], axis=0)) == 20


def test_the_colour_layer_has_the_classes_colours_and_borders_between_them():
    layer = app_result.color_layer(HALVES, metadata_of(["night", "day"], [NIGHT, DAY]))
    assert (layer[:, :29] == NIGHT).all() and (layer[:, 30:] == DAY).all()
    assert (layer[:, 29] == [(value + 255) // 2 for value in NIGHT]).all()


def test_each_panel_holds_what_the_browser_draws_and_reads():
    labels = np.where(HALVES == 1, 300, 2)
    many = prediction(labels, names=[f"class {i}" for i in range(301)], colors=None)
    image = np.full((20, 40, 3), 90, np.uint8)
    page = Page(app_result.draw_result(image, [many], "street"))
    (photo,), (colors,), (numbers,) = map(page.images, ("photo", "colors", "numbers"))
    assert np.abs(np.asarray(photo).astype(int) - 90).max() <= 2
    np.testing.assert_array_equal(np.asarray(colors), app_result.color_layer(labels, many.metadata))
    red, green, blue = np.moveaxis(np.asarray(numbers).astype(int), -1, 0)
    np.testing.assert_array_equal(red + 256 * green, labels)
    np.testing.assert_allclose(blue / 255, many.confidence, atol=0.5 / 255 + 1e-6)
    (stage,) = page.of_class("stage")
    assert json.loads(stage["data-tips"]) == {"2": "class 2 · 75.0 %", "300": "class 300 · 25.0 %"}


def test_the_label_map_is_named_after_the_image_and_the_model():
    image = np.zeros((20, 40, 3), np.uint8)
    page = Page(app_result.draw_result(image, [prediction(HALVES)], "street"))
    (link,) = page.of_class("download")
    assert link["download"] == "street_linear.png"
    np.testing.assert_array_equal(np.asarray(*page.images("download", "href")), HALVES)


def test_large_images_are_shown_smaller_and_downloaded_whole():
    labels = np.repeat(np.arange(2), 1500)[None].repeat(1000, 0)
    image = np.zeros((1000, 3000, 3), np.uint8)
    page = Page(app_result.draw_result(image, [prediction(labels)], "street"))
    for name in ("photo", "colors", "numbers"):
        assert page.images(name)[0].size == (1280, 427)
    assert page.images("download", "href")[0].size == (3000, 1000)
    numbers = np.asarray(*page.images("numbers"))[..., 0]
    assert (numbers[:, :639] == 0).all() and (numbers[:, 641:] == 1).all()


def test_the_legend_has_a_column_a_model_and_the_largest_class_first():
    other = prediction(np.ones_like(HALVES), model="context-aware")
    html = app_result.legend([prediction(HALVES), other])
    assert legend_rows(html) == [["day", "25.0 %", "100.0 %"], ["night", "75.0 %", "–"]]
    assert re.findall(r"<th>(.*?)</th>", html)[:3] == ["Class", "linear", "context-aware"]


def test_a_class_that_is_almost_absent_is_not_called_absent():
    labels = np.zeros((100, 100), np.int64)
    labels[0, 0] = 1
    assert legend_rows(app_result.legend([prediction(labels)]))[1] == ["day", "< 0.1 %"]
    assert app_result.percent(0.001) == "0.1 %" and app_result.percent(0) == "0.0 %"


def test_models_of_different_classes_share_the_rows_of_equal_names():
    other = prediction(HALVES, names=("day", "dusk"), colors=(DAY, NIGHT), model="other")
    html = app_result.legend([prediction(HALVES), other])
    rows = {name: shares for name, *shares in legend_rows(html)}
    assert rows == {
        "night": ["75.0 %", "–"], "day": ["25.0 %", "75.0 %"], "dusk": ["–", "25.0 %"]
    }  # fmt: skip


def test_the_share_of_pixels_that_two_models_agree_on_is_reported():
    labels = HALVES.copy()
    labels[:5] = 1 - labels[:5]
    text = Page(app_result.agreement([prediction(HALVES), prediction(labels, model="b")])).text
    assert text == "linear and b agree on 75.0 % of the pixels."
    other = prediction(HALVES, names=("day", "night"))
    assert app_result.agreement([prediction(HALVES), other]) == ""
    assert app_result.agreement([prediction(HALVES)]) == ""


def test_names_cannot_add_elements_to_the_page():
    evil = "<script>alert('x')</script>\"><img src=x onerror=y>"
    result = prediction(HALVES, names=(evil, evil + "2"), model=evil)
    view = ClassifierView("v", evil, np.zeros((4, 4, 3), np.uint8))
    image = np.zeros((20, 40, 3), np.uint8)
    html = app_result.draw_result(image, [result, result], evil)
    html += app_result.draw_views({evil: [view]}) + app_result.draw_message(evil, True)
    page = Page(html)
    assert not {"script"} & {tag for tag, _ in page.elements}
    assert all("onerror" not in attributes for _, attributes in page.elements)
    assert page.text.count(evil) >= 5


# Models and samples


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Output folders "linear" and "context_aware"."""
    folder = tmp_path_factory.mktemp("runs")
    return [
        make_run(folder / "linear", "LinearSegmentor", "app_daylight"),
        make_run(folder / "context_aware", "ContextAwareSegmentor", "app_daylight"),
    ]


@pytest.fixture(scope="module")
def session(runs):
    return app_session.Session(app_session.load_runs(runs, []), {}, max_megapixels=20)


@pytest.fixture
def photo(tmp_path):
    Image.fromarray(half_bright()).save(tmp_path / "street.png")
    return str(tmp_path / "street.png")


def test_the_result_is_what_the_models_predict(session, photo):
    page = Page(session.segment(photo, ["linear", "context_aware"]))
    maps = page.images("download", "href")
    assert len(maps) == 2
    for decoded, predictor in zip(maps, session.models.values()):
        labels = np.asarray(decoded)
        np.testing.assert_array_equal(labels, predictor(half_bright()))
        assert (labels[:, :56] == 0).mean() > 0.9 and (labels[:, 72:] == 1).mean() > 0.9


def test_the_views_are_those_of_each_chosen_model(session, photo):
    html = session.views(photo, ["context_aware", "linear"])
    expected = [
        view
        for name in ("context_aware", "linear")
        for view in draw_classifier_views(session.models[name], half_bright())
    ]
    page = Page(html)
    captions = [attributes["alt"] for tag, attributes in page.elements if tag == "img"]
    assert captions == [view.caption for view in expected]
    assert any("vanilla" in caption for caption in captions)
    assert re.findall("<h3>(.*?)</h3>", html) == ["context_aware", "linear"]


def test_before_an_image_is_chosen_the_page_says_what_to_do(session):
    for html in (session.segment(None, ["linear"]), session.views(None, ["linear"])):
        page = Page(html)
        assert "choose a sample" in page.text and not page.of_class("problem")


def test_an_invalid_image_is_an_alert(session, tmp_path):
    (tmp_path / "notes.txt").write_text("Dear diary")
    for draw in (session.segment, session.views):
        page = Page(draw(str(tmp_path / "notes.txt"), ["linear"]))
        (alert,) = page.of_class("problem")
        assert alert["role"] == "alert" and "notes.txt is not an image" in page.text


def test_a_failing_model_is_an_alert_and_its_traceback_goes_to_the_terminal(photo, caplog):
    def fail(image):
        raise RuntimeError("out of memory at 0x1234")

    predictor = SimpleNamespace(with_confidence=fail)
    failing = app_session.Session({"linear": predictor}, {}, max_megapixels=20)
    page = Page(failing.segment(photo, ["linear"]))
    assert page.of_class("problem") and "street.png (RuntimeError)" in page.text
    assert "0x1234" not in page.text and "0x1234" in caplog.text and "Traceback" in caplog.text


def test_runs_are_named_after_their_folders_and_take_the_final_weights(session, runs, tmp_path):
    assert list(session.models) == ["linear", "context_aware"]
    best = tmp_path / "best"
    best.mkdir()
    (best / "config.yaml").write_text((runs[0] / "config.yaml").read_text())
    (best / "model_best.pth").write_bytes((runs[0] / "model_final.pth").read_bytes())
    assert list(app_session.load_runs([best], [])) == ["best"]
    (best / "model_final.pth").write_bytes((runs[1] / "model_final.pth").read_bytes())
    with pytest.raises(ValueError, match="model_final.pth"):  # those of the other model
        app_session.load_runs([best], [])


def test_folders_that_are_no_runs_are_errors(runs, tmp_path):
    with pytest.raises(MissingFileError, match="no config.yaml"):
        app_session.load_runs([tmp_path], [])
    (tmp_path / "config.yaml").write_text((runs[0] / "config.yaml").read_text())
    with pytest.raises(MissingFileError, match=r"no model_final.pth or model_best.pth or"):
        app_session.load_runs([tmp_path], [])
    with pytest.raises(UserError, match="two folders are called linear"):
        app_session.load_runs([runs[0], runs[0]], [])
    with pytest.raises(UserError, match="leave MODEL.WEIGHTS out"):
        app_session.load_runs(runs, ["MODEL.WEIGHTS", "model.pth"])


def test_options_hold_for_every_run(runs):
    models = app_session.load_runs(runs, ["INPUT.FORMAT", "BGR"])
    assert [model.image_format for model in models.values()] == ["BGR", "BGR"]


def test_samples_are_the_images_of_a_folder_spread_evenly(tmp_path):
    for i in range(60):
        Image.new("RGB", (20, 20)).save(tmp_path / f"{i:02d}.png")
    (tmp_path / "notes.txt").write_text("Dear diary")
    names = [path.name for path in app_session.find_samples(str(tmp_path), None)]
    assert len(names) == 24 and names[0] == "00.png" and names[-1] == "59.png"
    assert names == sorted(set(names))


def test_a_folder_without_samples_is_an_error(tmp_path):
    with pytest.raises(MissingFileError, match=r"--samples .*: this folder contains no image"):
        app_session.find_samples(str(tmp_path), None)
    with pytest.raises(MissingFileError, match="--samples .*nowhere: there is no such folder"):
        app_session.find_samples(str(tmp_path / "nowhere"), None)


def test_without_a_folder_the_samples_come_from_the_models_dataset(runs, session):
    predictor = session.models["linear"]
    assert app_session.find_samples(None, predictor) == []
    for name in ("images", "labels"):
        (runs[0].parent / name).mkdir()
        for i in range(3):
            Image.new("L", (20, 20)).save(runs[0].parent / name / f"{i}.png")
    paths = app_session.find_samples(None, predictor)
    assert [path.name for path in paths] == ["0.png", "1.png", "2.png"]


def test_a_sample_that_the_page_would_refuse_is_left_out(photo, tmp_path, caplog):
    (tmp_path / "broken.png").write_text("Dear diary")
    Image.new("RGB", (1000, 500)).save(tmp_path / "wide.png")
    paths = [Path(photo), tmp_path / "broken.png", tmp_path / "wide.png"]
    thumbnails = app_session.draw_thumbnails(paths, 20)
    assert [(path.name, image.shape) for path, image in thumbnails.items()] == [
        ("street.png", (96, 128, 3)), ("wide.png", (128, 256, 3))
    ]  # fmt: skip
    assert "broken.png is not an image" in caplog.text


# The command line and the page


@pytest.fixture(scope="module")
def app():
    pytest.importorskip("gradio", reason="the page needs Gradio")
    from d2_ctxseg.commands.app import page

    return page


def test_the_command_line_names_runs_or_one_config(app, runs, tmp_path, capsys):
    session = app.make_session(get_parser().parse_args(["--run", *map(str, runs)]))
    assert list(session.models) == ["linear", "context_aware"] and session.max_megapixels == 20
    config = ["--config-file", str(runs[0] / "config.yaml")]
    weights = ["--opts", "MODEL.WEIGHTS", str(runs[0] / "model_final.pth")]
    session = app.make_session(get_parser().parse_args(config + weights))
    assert list(session.models) == ["config"]
    for wrong in ([], config + ["--run", "x"], config + ["--max-megapixels", "1000"]):
        with pytest.raises(SystemExit):
            get_parser().parse_args(wrong)
    assert "1000 is not above 0 and at most 89" in capsys.readouterr().err


def test_one_model_needs_no_second_choice(app, session):
    def visible(page):
        return {b.elem_id: b.visible for b in page.blocks.values() if getattr(b, "elem_id", None)}

    assert visible(app.build_page(session))["beside"]
    first = dict(list(session.models.items())[:1])
    alone = visible(app.build_page(app_session.Session(first, {}, 20)))
    assert not alone["beside"] and not alone["samples"] and alone["model"]


def test_a_port_that_is_taken_or_none_is_an_error(app, session):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        for wrong in (port, 99999):
            with pytest.raises(UserError, match=f"--port {wrong} cannot be used"):
                app.serve(app.build_page(session), wrong, max_megapixels=20, wait=False)
