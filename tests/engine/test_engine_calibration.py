"""Temperatures of a config, and the pixels that they are fitted to."""

import pytest
import torch
from data_folders import unique_name, write_pairs, write_yaml

from d2_ctxseg.checkpoint import FittedTemperature, write_temperatures
from d2_ctxseg.data import DatasetError, register_folder_datasets
from d2_ctxseg.engine import calibration
from d2_ctxseg.engine.calibration import sample_pixels, with_fitted_temperatures
from d2_ctxseg.utils.errors import UserError
from detectron2.data import DatasetCatalog


def fitted(temperature):
    return FittedTemperature(temperature, "streets_val", 10, 1.0, 0.9)


@pytest.fixture
def config(tiny_config, tmp_path):
    weights = tmp_path / "model_final.pth"
    weights.write_bytes(b"weights")
    tiny_config.MODEL.WEIGHTS = str(weights)
    tiny_config.freeze()
    return tiny_config


class TestConfig:
    def test_gets_the_temperatures_of_its_weights(self, config):
        write_temperatures(config.MODEL.WEIGHTS, {"sem_seg": fitted(2), "sem_seg_TTA": fitted(3.0)})
        found = with_fitted_temperatures(config)
        assert (found.TEST.TEMPERATURE, found.TEST.AUG.TEMPERATURE) == (2.0, 3.0)
        assert config.TEST.TEMPERATURE is None and found.is_frozen()

    def test_keeps_what_it_states(self, config):
        write_temperatures(config.MODEL.WEIGHTS, {"sem_seg": fitted(2.0)})
        config.defrost()
        config.TEST.TEMPERATURE = 5.0
        found = with_fitted_temperatures(config)
        assert (found.TEST.TEMPERATURE, found.TEST.AUG.TEMPERATURE) == (5.0, None)

    @pytest.mark.parametrize("weights", ["", "there/is/none.pth"])
    def test_without_weights_stays(self, config, weights):
        config.defrost()
        config.MODEL.WEIGHTS = weights
        assert with_fitted_temperatures(config) == config


class LabelScores(torch.nn.Module):
    """Scores that are ``margin`` higher for the first channel's value as a class."""

    def __init__(self, margin, classes=3):
        super().__init__()
        self.margin, self.classes = margin, classes

    def forward(self, batched_inputs):
        labels = [inputs["image"][0].long() for inputs in batched_inputs]
        one_hot = [torch.nn.functional.one_hot(y, self.classes).float() for y in labels]
        return [{"sem_seg": self.margin * one.permute(2, 0, 1)} for one in one_hot]


@pytest.fixture
def dataset(tmp_path):
    """Registers a dataset of three classes; returns its name and its records' inputs, as batches.

    Of every ten pixels in a row the model that knows the images is wrong at one.
    """
    name = unique_name()
    path = write_yaml(tmp_path, name=name, classes=["road", "tree", "car"])
    write_pairs(tmp_path, ["one", "two", "three"], size=(10, 20))
    register_folder_datasets([str(path)])
    name = f"{name}_sem_seg_train"
    loader = []
    for record in DatasetCatalog.get(name):
        label = torch.from_numpy(calibration.label_loader(name)(record["sem_seg_file_name"]))
        image = label.clamp(0, 2)
        image[:, ::10] = (image[:, ::10] + 1) % 3
        loader.append([{**record, "image": image.expand(3, -1, -1), "height": 10, "width": 20}])
    return name, loader


class TestSample:
    def test_has_scores_and_labels_of_the_same_pixels(self, config, dataset):
        (sample,) = sample_pixels(config, LabelScores(2.0), *dataset).values()
        assert set(sample.scores.unique().tolist()) == {0.0, 2.0}
        correct = sample.scores.argmax(dim=1) == sample.labels
        assert 0.85 < correct.float().mean() < 0.95

    def test_the_temperature_makes_the_confidence_the_accuracy(self, config, dataset):
        sample = sample_pixels(config, LabelScores(20.0), *dataset)["sem_seg"]
        found = sample.fit("name")
        correct = (sample.scores.argmax(dim=1) == sample.labels).float()
        accuracy = (correct * sample.weights).sum() / sample.weights.sum()
        confidence = (sample.scores / found.temperature).softmax(dim=1).amax(dim=1)
        torch.testing.assert_close(confidence, accuracy.float().expand_as(confidence))
        assert found.nll_after < found.nll_before and found.pixels == len(sample.labels)
        assert sample.calibration_error(found.temperature) < 0.01 < sample.calibration_error(1.0)

    def test_is_bounded_and_the_same_each_time(self, config, dataset, monkeypatch):
        whole = sample_pixels(config, LabelScores(1.0), *dataset)["sem_seg"]
        monkeypatch.setattr(calibration, "MOST_SCORES", 3 * 3 * 7)
        samples = [sample_pixels(config, LabelScores(1.0), *dataset)["sem_seg"] for _ in range(2)]
        assert len(samples[0].labels) == 3 * 7
        assert torch.equal(samples[0].scores, samples[1].scores)
        assert samples[0].weights.sum().item() == pytest.approx(len(whole.labels))
        assert whole.weights.unique().tolist() == [1]

    def test_of_several_views_has_pixels_of_its_own_scores(self, config, dataset):
        config.defrost()
        config.TEST.AUG.ENABLED, config.TEST.AUG.RATIOS = True, (1.0,)
        samples = sample_pixels(config, LabelScores(2.0), *dataset)
        assert samples.keys() == {"sem_seg", "sem_seg_TTA"}
        # Logarithms of probabilities.
        of_views = samples["sem_seg_TTA"].scores
        torch.testing.assert_close(of_views.logsumexp(1), torch.zeros(len(of_views)))
        expected = samples["sem_seg"].scores.log_softmax(dim=1)
        torch.testing.assert_close(of_views, expected, rtol=1e-4, atol=1e-4)

    def test_images_without_labels_are_passed_over(self, config, dataset):
        name, loader = dataset
        del loader[0][0]["sem_seg_file_name"]
        whole = sample_pixels(config, LabelScores(1.0), name, loader)["sem_seg"]
        assert len(whole.labels) <= 2 * 200
        for (inputs,) in loader:
            inputs.pop("sem_seg_file_name", None)
        with pytest.raises(UserError, match="no labelled pixel"):
            sample_pixels(config, LabelScores(1.0), name, loader)

    def test_a_label_of_another_size_and_scores_that_are_no_numbers_are_refused(
        self, config, dataset
    ):
        with pytest.raises(UserError, match="not finite"):
            sample_pixels(config, LabelScores(float("nan")), *dataset)
        name, loader = dataset
        loader[0][0]["image"] = loader[0][0]["image"][:, :5]
        with pytest.raises(DatasetError, match="must have the same size"):
            sample_pixels(config, LabelScores(1.0), name, loader)
