"""Anomaly scores evaluated on a dataset, from the config to the report."""

import json

import numpy as np
import pytest
import torch
from data_folders import unique_name, write_image, write_yaml
from test_anomaly import brute_force
from two_processes import run_in_two_processes

from d2_ctxseg.data import register_folder_dataset
from d2_ctxseg.data.registration import register_builtin_datasets
from d2_ctxseg.engine import Trainer, setup_config
from d2_ctxseg.evaluation.anomaly_evaluator import AnomalyEvaluator
from d2_ctxseg.modeling import LabelMapPredictor
from d2_ctxseg.modeling.inference.anomaly_scores import ANOMALY_SCORES, LOGIT_SCORES, anomaly_map
from d2_ctxseg.modeling.inference.scores import Logits, Resized
from d2_ctxseg.report import write_report
from d2_ctxseg.utils.errors import UserError
from detectron2.data import DatasetCatalog
from detectron2.modeling import build_model

SIZE = (36, 40)


@pytest.fixture
def dataset(tmp_path):
    """Two images; 0 and 1 are classes, 2 is unknown, 3 is neither."""
    labels = [np.random.default_rng(seed).integers(0, 4, SIZE, np.uint8) for seed in (1, 2)]
    for name, label in zip("ab", labels):
        write_image(tmp_path / f"images/{name}.png", np.zeros((*SIZE, 3), np.uint8))
        write_image(tmp_path / f"labels/{name}.png", label)
    path = write_yaml(
        tmp_path,
        name=unique_name(),
        classes=["a", "b"],
        id_map={0: 0, 1: 1, 2: "ignore", 3: "ignore"},
        anomaly={"unknown": [2]},
    )
    return register_folder_dataset(path)[0], labels


class TestLogitScores:
    @pytest.mark.parametrize("name", LOGIT_SCORES)
    def test_in_bands_are_those_of_the_formula(self, name):
        logits = 3 * torch.randn(5, 9, 7)
        probabilities = logits.softmax(dim=0)
        expected = {
            "max_softmax": 1 - probabilities.amax(dim=0),
            "max_logit": -logits.amax(dim=0),
            "entropy": -(probabilities * probabilities.log()).sum(dim=0) / np.log(5),
            "energy": -logits.exp().sum(dim=0).log(),
        }[name]
        found = anomaly_map(Logits(logits), name, band_elements=1)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)

    def test_of_a_sure_pixel_is_more_than_rounding(self):
        """1 - p would be 0 in float32."""
        logits = torch.tensor([0.0, 20.0])[:, None, None].expand(2, 1, 5)
        assert anomaly_map(Logits(logits), "max_softmax")[0, 0].item() == pytest.approx(np.exp(-20))

    @pytest.mark.parametrize("name", LOGIT_SCORES)
    def test_are_of_the_interpolated_logits(self, name):
        scores = Resized(Logits(torch.randn(3, 4, 5)), (11, 13))
        torch.testing.assert_close(
            anomaly_map(scores, name, band_elements=1), anomaly_map(Logits(scores.tensor()), name)
        )


class TestEvaluator:
    def evaluate(self, name, maps, **options):
        evaluator = AnomalyEvaluator(name, ["energy"], distributed=False, **options)
        evaluator.reset()
        for record, score in zip(DatasetCatalog.get(name), maps):
            evaluator.process([record], [{"anomaly_energy": torch.from_numpy(score)}])
        return evaluator.evaluate()

    def maps(self):
        return np.random.default_rng(0).integers(0, 9, (2, *SIZE)).astype(np.float32)

    def test_counts_known_and_unknown_pixels_alone(self, dataset, tmp_path):
        name, labels = dataset
        maps, labels = self.maps(), np.stack(labels)
        (found,) = self.evaluate(name, maps, output_dir=str(tmp_path / "out")).values()
        counted = labels != 3
        expected = brute_force(maps[counted], labels[counted] == 2)
        assert found == pytest.approx({f"{key}-energy": v for key, v in expected.items()})
        written = json.loads((tmp_path / "out/results.json").read_text())
        assert written["metrics"] == pytest.approx(found)
        assert written["unknown_pixels"] == (labels == 2).sum()

    def test_a_score_of_another_size_or_not_a_number_is_refused(self, dataset):
        name, _ = dataset
        with pytest.raises(UserError, match=r"have the size \(5, 40\)"):
            self.evaluate(name, self.maps()[:, :5])
        with pytest.raises(UserError, match="score 'energy': .* NaN"):
            self.evaluate(name, np.full((2, *SIZE), np.nan, np.float32))

    def test_a_dataset_that_says_nothing_of_anomalies_is_refused(self):
        register_builtin_datasets(["camvid_sem_seg_val"])
        with pytest.raises(UserError, match="does not say which pixels are unknown"):
            AnomalyEvaluator("camvid_sem_seg_val", ["energy"])


def one_of_two_workers(rank, yaml, name, maps):
    """Each worker has one image; the first has the counts of both."""
    register_folder_dataset(yaml)
    evaluator = AnomalyEvaluator(name, ["energy"])
    evaluator.reset()
    evaluator.process([DatasetCatalog.get(name)[rank]], [{"anomaly_energy": maps[rank]}])
    results = evaluator.evaluate()
    assert (results is None) == (rank == 1)
    if rank == 0:
        alone = AnomalyEvaluator(name, ["energy"], distributed=False)
        alone.reset()
        for record, score in zip(DatasetCatalog.get(name), maps):
            alone.process([record], [{"anomaly_energy": score}])
        assert results == alone.evaluate()


def test_two_workers_count_what_one_counts(dataset, tmp_path):
    maps = torch.randint(0, 9, (2, *SIZE), generator=torch.Generator().manual_seed(0)).float()
    (yaml,) = tmp_path.glob("*.yaml")
    run_in_two_processes(one_of_two_workers, tmp_path, yaml, dataset[0], maps)


@pytest.fixture
def cfg(tiny_run, dataset):
    """A small model of two classes that is tested on the dataset with all scores."""
    name, _ = dataset
    opts = ["MODEL.META_ARCHITECTURE", "PrototypeSegmentor", "MODEL.SEM_SEG_HEAD.NUM_CLASSES", 2]
    opts += ["DATASETS.TRAIN", [], "DATASETS.TEST", [name], "MODEL.ENCODER.NAME", "tu-resnet10t"]
    opts += ["TEST.ANOMALY.SCORES", list(ANOMALY_SCORES), "TEST.CITYSCAPES_SCRIPTS", False]
    return setup_config(str(tiny_run), opts, for_inference=True)


class TestFromConfigToReport:
    def test_results_have_all_scores_beside_the_mean_iou(self, cfg):
        results = Trainer.test(cfg, build_model(cfg).eval())
        assert {"sem_seg", "anomaly"} == set(results)
        metrics = results["anomaly"]
        assert set(metrics) == {
            f"{m}-{s}" for m in ("AUROC", "AP", "FPR95") for s in ANOMALY_SCORES
        }
        assert all(0 <= value <= 100 for value in metrics.values())
        page = write_report([cfg.OUTPUT_DIR]).read_text()
        assert "Anomalies" in page and "max_softmax" in page

    def test_with_test_time_augmentation_they_are_of_the_image_itself(self, cfg):
        model = build_model(cfg).eval()
        expected = Trainer.test(cfg, model)["anomaly"]
        assert Trainer.test_with_TTA(cfg, model)["anomaly"] == pytest.approx(expected)

    def test_the_classifiers_own_score_is_of_the_pixels_features(self, cfg):
        model = build_model(cfg).eval()
        inputs = [{"image": torch.randint(0, 255, (3, 64, 64), dtype=torch.uint8)}]
        (output,) = LabelMapPredictor(model, anomaly_scores=["classifier"])(inputs)
        with torch.no_grad():
            images = model.normalized_images(inputs).tensor
            features, _ = model.head.pixel_features(model.backbone(images))
            expected = model.classifier.anomaly_score(features)[None]
        expected = torch.nn.functional.interpolate(expected, (64, 64), mode="bilinear")[0, 0]
        torch.testing.assert_close(output["anomaly_classifier"], expected)

    def test_another_projects_model_has_no_score_of_its_own(self):
        with pytest.raises(UserError, match="is no model of this project"):
            LabelMapPredictor(torch.nn.Identity(), anomaly_scores=["classifier"])

    def test_an_unknown_score_suggests_the_nearest(self, tiny_run):
        with pytest.raises(UserError, match="TEST.ANOMALY.SCORES.*'max_softmax'"):
            setup_config(str(tiny_run), ["TEST.ANOMALY.SCORES", ["max_sofmax"]])
