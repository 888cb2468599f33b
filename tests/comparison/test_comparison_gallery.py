"""The images of a comparison, with new predictions of the runs' models."""

import numpy as np
import pytest
import torch
import yaml
from data_folders import CLASSES, write_pairs, write_yaml
from report_runs import decoded_image, read_page
from study_runs import write_run

from d2_ctxseg.comparison import compare, gallery, read_study
from d2_ctxseg.comparison.gallery import record_of
from d2_ctxseg.comparison.page import write_page
from d2_ctxseg.data import generate_palette
from detectron2.modeling import build_model

NUM_IMAGES = 6


@pytest.fixture
def folders(tmp_path, tiny_config):
    """Runs of two classifiers with untrained models, on a folder dataset of six images."""
    description = write_yaml(tmp_path / "data")
    dataset = yaml.safe_load(description.read_text())["name"] + "_sem_seg_train"
    names = [f"{i:03d}" for i in range(NUM_IMAGES)]
    write_pairs(description.parent, names, size=(64, 96))
    folders = []
    for classifier, accuracy in (("linear", 0.5), ("context_aware", 0.7)):
        folder = tmp_path / classifier
        write_run(
            folder, classifier, accuracy=accuracy, datasets=(dataset,), classes=tuple(CLASSES)
        )
        cfg = tiny_config.clone()
        architecture = yaml.safe_load((folder / "config.yaml").read_text())["MODEL"]
        cfg.MODEL.META_ARCHITECTURE = architecture["META_ARCHITECTURE"]
        cfg.merge_from_list(
            ["MODEL.SEM_SEG_HEAD.NUM_CLASSES", len(CLASSES), "DATASETS.FOLDERS", [str(description)]]
            + ["DATASETS.TRAIN", (dataset,), "DATASETS.TEST", (dataset,), "SEED", 1]
            + ["INPUT.MIN_SIZE_TEST", 0]
        )
        (folder / "config.yaml").write_text(cfg.dump())
        torch.save({"model": build_model(cfg).state_dict()}, folder / "model_final.pth")
        folders.append(folder)
    return folders


@pytest.fixture
def page(tmp_path, folders):
    """Writes and reads the page of the runs."""

    def write():
        study = read_study(folders)
        return read_page(write_page(study, compare(study, num_resamples=50), tmp_path / "p.html"))

    return write


def images(page):
    return [attributes for name, attributes in page.tags if name == "img"]


def test_image_ground_truth_and_both_predictions_are_side_by_side(page):
    found = images(page())
    titles = [drawing["alt"].split(":")[0] for drawing in found]
    assert titles == ["image", "ground truth", "linear", "context_aware"] * 3, "all images gain"
    shapes = {decoded_image(drawing["src"]).shape for drawing in found}
    assert shapes == {(64, 96, 3)}


def test_predictions_have_the_colours_of_the_classes(page):
    palette = {tuple(color) for color in generate_palette(len(CLASSES))}
    for drawing in images(page()):
        if drawing["alt"].startswith(("linear", "context_aware")):
            colors = np.unique(decoded_image(drawing["src"]).reshape(-1, 3), axis=0)
            assert {tuple(color) for color in colors.tolist()} <= palette


def test_a_model_is_loaded_once(page, monkeypatch):
    loaded = []
    predictor = gallery.SemSegPredictor

    def load(cfg):
        loaded.append(cfg.MODEL.WEIGHTS)
        return predictor(cfg)

    monkeypatch.setattr(gallery, "SemSegPredictor", load)
    page()
    assert len(loaded) == 2 == len(set(loaded))


def test_without_a_checkpoint_the_other_images_stay_and_a_note_says_why(page, folders):
    missing = folders[1] / "model_final.pth"
    missing.unlink()
    shown = page()
    titles = [drawing["alt"].split(":")[0] for drawing in images(shown)]
    assert titles == ["image", "ground truth", "linear"] * 3
    assert f"No predictions of context_aware, seed 1: '{missing}' does not exist." in shown.text


@pytest.mark.parametrize("damage", ["not a checkpoint", "another model"])
def test_a_model_that_fails_does_not_cost_the_page(page, folders, damage):
    path = folders[0] / "model_final.pth"
    if damage == "another model":
        torch.save({"model": {"weight": torch.zeros(1)}}, path)
    else:
        path.write_text(damage)
    shown = page()
    assert "No predictions of linear, seed 1: " in shown.text
    assert "context_aware" in {drawing["alt"].split(":")[0] for drawing in images(shown)}


def test_a_classifier_that_is_not_registered_here_does_not_cost_the_page(page, folders):
    path = folders[1] / "config.yaml"
    config = yaml.unsafe_load(path.read_text())
    config["MODEL"]["META_ARCHITECTURE"] = "MySegmentor"
    path.write_text(yaml.dump(config))
    assert "No predictions of MySegmentor, seed 1: " in page().text


def test_a_dataset_that_is_not_here_leaves_the_scores(page, folders, tmp_path):
    for path in (tmp_path / "data" / "images").iterdir():
        path.unlink()
    shown = page()
    assert images(shown) == []
    assert "is not on this machine" in shown.text
    assert shown.text.count("seed 1: linear ") == 3


def test_the_evaluated_checkpoint_predicts(folders):
    path = next(folders[0].glob("inference/*/*/results.json"))
    path.write_text(
        path.read_text().replace('"task"', '"weights": "/there/model_best.pth", "task"')
    )
    (folders[0] / "model_final.pth").rename(folders[0] / "model_best.pth")
    study = read_study(folders)
    chosen = {study.datasets[0]: {"context_aware": []}}
    assert gallery.Gallery(study, chosen).notes(study.datasets[0]) == []
    assert gallery._predictor(study.runs["linear"][0]) is not None


def test_an_image_is_found_by_its_name_below_the_folder_of_all_images():
    records = [{"file_name": f"/here/{name}"} for name in ("more/1.png", "1.png", "more/11.png")]
    assert record_of("1.png", records) is records[1]
    assert record_of("more/1.png", records) is records[0]
    assert record_of("2.png", records) is None
