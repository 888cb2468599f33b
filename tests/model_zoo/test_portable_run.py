"""Demo, page, export and library work for a run without its dataset, description and folder."""

import json
import logging
import shutil

import numpy as np
import pytest
import torch
import yaml
from data_folders import CLASSES, unique_name, write_pairs, write_yaml
from PIL import Image
from train_net_runs import ROOT, TINY_RUN, run_train_net

import d2_ctxseg
from d2_ctxseg.commands import demo, export_model
from d2_ctxseg.commands.app import session as app_session
from d2_ctxseg.commands.parsers.demo import get_parser as demo_parser
from d2_ctxseg.commands.parsers.export_model import get_parser as export_parser
from d2_ctxseg.deployment.export import METADATA_FILE
from d2_ctxseg.report import write_report
from detectron2.data import DatasetCatalog

PALETTE = [[200, 30, 30], [30, 200, 30], [30, 30, 200]]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The moved folder of a training of four iterations; everything else was deleted."""
    place, name = tmp_path_factory.mktemp("training"), unique_name() + "portable"
    write_pairs(place / "data", ["a", "b", "c", "d"], size=(96, 96))
    write_yaml(place / "data", name=name, palette=PALETTE)
    config = yaml.safe_load(TINY_RUN.format(root=ROOT, output=place / "output"))
    names = [f"{name}_sem_seg_train"]
    config["DATASETS"] = {"FOLDERS": [str(place / "data/data.yaml")], "TRAIN": names, "TEST": names}
    config["MODEL"]["SEM_SEG_HEAD"]["NUM_CLASSES"] = 3
    (place / "config.yaml").write_text(yaml.safe_dump(config))
    code, output = run_train_net("--config-file", place / "config.yaml", "MODEL.DEVICE", "cpu")
    assert code == 0, output
    moved = tmp_path_factory.mktemp("elsewhere") / "run"
    shutil.move(place / "output", moved)
    shutil.rmtree(place)
    assert f"{name}_sem_seg_train" not in DatasetCatalog
    return moved


@pytest.fixture
def photo(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
    Image.fromarray(image).save("photo.png")
    return tmp_path / "photo.png"


@pytest.mark.slow
class TestWithoutItsDataset:
    def test_the_library_knows_classes_and_colours(self, run, photo):
        for source in (run, run / "model_final.pth"):
            segmentor = d2_ctxseg.load_segmentor(source, device="cpu")
            assert segmentor.classes == tuple(CLASSES)
            assert segmentor.palette.tolist() == PALETTE
            assert segmentor.predict(photo).overlay().ndim == 3

    def test_a_checkpoint_alone_is_enough(self, run, photo, tmp_path):
        alone = shutil.copy(run / "model_final.pth", tmp_path / "alone.pth")
        expected = d2_ctxseg.load_segmentor(run, device="cpu").predict(photo)
        result = d2_ctxseg.load_segmentor(alone, device="cpu").predict(photo)
        assert np.array_equal(result.labels, expected.labels)

    @pytest.mark.parametrize("option", ["--run", "--model"])
    def test_the_demo_draws(self, run, photo, option):
        source = run if option == "--run" else run / "model_final.pth"
        arguments = [option, str(source), "--input", "photo.png", "--output", "drawn.png"]
        demo.run(demo_parser().parse_args(arguments), logging.getLogger(__name__))
        assert Image.open("drawn.png").mode == "RGB"

    def test_the_page_has_the_model_and_no_samples(self, run, photo):
        (model,) = app_session.load_runs([str(run)], []).values()
        assert model.metadata.stuff_classes == CLASSES
        assert app_session.find_samples(None, model) == []

    def test_the_report_is_written(self, run, tmp_path):
        page = write_report([run], tmp_path / "report.html")
        assert "tree" in page.read_text()

    def test_the_export_has_the_names_inside(self, run, photo):
        arguments = ["--run", str(run), "--format", "torch_export", "--output-file", "model.pt2"]
        export_model.main(export_parser().parse_args([*arguments, "--size", "64", "96"]))
        files = {METADATA_FILE: ""}
        torch.export.load("model.pt2", extra_files=files)
        metadata = json.loads(files[METADATA_FILE])
        assert json.loads(metadata["classes"]) == CLASSES
        assert json.loads(metadata["colors"]) == PALETTE
