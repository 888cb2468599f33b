"""train_net.py --eval-only: predictions, report, one process and two."""

import json

import cv2
import numpy as np
import pytest
import torch
from train_net_runs import run_train_net

from d2_ctxseg.engine import Trainer, setup_config
from d2_ctxseg.modeling import LabelMapPredictor
from detectron2.modeling import build_model

DATASET = "context_shapes_sem_seg_val"


@pytest.fixture
def weights(tiny_run, tmp_path):
    path = tmp_path / "weights.pth"
    torch.save({"model": build_model(setup_config(str(tiny_run), [])).state_dict()}, path)
    return path


@pytest.fixture
def evaluate(tiny_run, weights, tmp_path):
    """Evaluates into a folder and returns it."""

    def run(name, *arguments):
        folder = tmp_path / name
        code, output = run_train_net(
            *("--config-file", tiny_run, "--eval-only", "--save-predictions"),
            *("--dist-url", "auto", *arguments),
            *("MODEL.WEIGHTS", weights, "OUTPUT_DIR", folder, "TEST.AUG.ENABLED", "True"),
            *("TEST.REPORT", "True"),
        )
        assert code == 0, output
        return folder

    return run


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.mark.slow
def test_two_processes_leave_what_one_leaves(evaluate, tiny_run, weights):
    """Five images: one worker has three of them."""
    one, two = evaluate("one"), evaluate("two", "--num-gpus", "2")
    for task in ("sem_seg", "sem_seg_TTA"):
        folders = [folder / "inference" / task / DATASET for folder in (one, two)]
        assert files(folders[0]) == files(folders[1])
        for name in ("results.json", "classes.csv", "images.csv", "examples/examples.json"):
            assert (folders[0] / name).read_text() == (folders[1] / name).read_text()
        matrices = [np.load(folder / "confusion_matrix.npy") for folder in folders]
        assert np.array_equal(*matrices)
        assert len(list((folders[0] / "predictions").iterdir())) == 5
        both = [json.loads((f / "sem_seg_predictions.json").read_text()) for f in folders]
        assert sorted(both[0], key=json.dumps) == sorted(both[1], key=json.dumps)
    assert (one / "evaluation.json").read_text() == (two / "evaluation.json").read_text()
    page = (one / "report.html").read_text()
    assert DATASET in page and "multi-scale" in page


@pytest.mark.slow
def test_saved_predictions_are_those_of_the_model(evaluate, tiny_run, weights):
    folder = evaluate("run")
    cfg = setup_config(str(tiny_run), ["MODEL.WEIGHTS", str(weights)])
    model = build_model(cfg).eval()
    model.load_state_dict(torch.load(weights, weights_only=True)["model"])
    for batch in Trainer.build_test_loader(cfg, DATASET):
        (output,) = LabelMapPredictor(model)(batch)
        name = batch[0]["file_name"].split("/")[-1].replace(".jpg", ".png")
        path = folder / "inference/sem_seg" / DATASET / "predictions" / name
        assert np.array_equal(cv2.imread(str(path), -1), output["label_map"].numpy())
