"""Label maps of one view and of several."""

import pytest
import torch
from segmentor_cases import PixelValueModel, batch

from d2_ctxseg.modeling import (
    LabelMapPredictor,
    SemanticSegmentorWithTTA,
    Temperatures,
    TestTimeAugmentation,
)
from detectron2.evaluation import inference_context
from detectron2.modeling import build_model


class TestLabelMapPredictor:
    """Label maps equal the highest of all scores; random models have no ties."""

    sizes = [(64, 96), (50, 70), (33, 120)]

    def inputs(self):
        return [
            {**inputs, "height": height, "width": 77}
            for inputs, height in zip(batch(*self.sizes), (64, 120, 40))
        ]

    @pytest.mark.parametrize("windows", [False, True])
    def test_of_one_view(self, tiny_config, windows):
        options, inputs = tiny_config.TEST.SLIDING_WINDOW, self.inputs()
        options.ENABLED, options.SIZE, options.STRIDE = windows, [48, 48], [32, 32]
        model = build_model(tiny_config).eval()
        with torch.no_grad():
            scores = [output["sem_seg"] for output in model(inputs)]
        for output, expected in zip(LabelMapPredictor(model)(inputs), scores):
            assert output["label_map"].dtype == torch.int64
            assert torch.equal(output["label_map"], expected.argmax(0))

    @pytest.mark.parametrize("ratios", [(0.5, 1.0), (0.5, 1.5)])
    def test_of_one_and_of_several_views_from_one_pass(self, tiny_config, ratios):
        model = build_model(tiny_config).eval()
        calls = []
        model.backbone.register_forward_hook(lambda *_: calls.append(1))
        inputs = self.inputs()
        outputs = LabelMapPredictor(model, TestTimeAugmentation(ratios))(inputs)
        assert len(calls) == len(inputs) * (4 if 1.0 in ratios else 5)
        several = SemanticSegmentorWithTTA(model, TestTimeAugmentation(ratios))(inputs)
        with torch.no_grad():
            for one, output, average in zip(inputs, outputs, several):
                assert torch.equal(output["label_map"], model([one])[0]["sem_seg"].argmax(0))
                assert torch.equal(output["label_map_TTA"], average["sem_seg"].argmax(0))

    @pytest.mark.parametrize("average", ["probabilities", "logits"])
    def test_confidences_come_with_the_same_label_maps(self, tiny_config, average):
        model = build_model(tiny_config).eval()
        inputs, views = self.inputs(), TestTimeAugmentation((0.5, 1.0), average=average)
        outputs = LabelMapPredictor(model, views, Temperatures(2.0, 0.5))(inputs)
        for output, maps in zip(outputs, LabelMapPredictor(model, views)(inputs)):
            assert all(torch.equal(output[name], maps[name]) for name in maps)
        several = SemanticSegmentorWithTTA(model, views)(inputs)
        with torch.no_grad():
            for one, output, scores in zip(inputs, outputs, several):
                (plain,) = model([one])
                mean = scores["sem_seg"]
                mean = mean.log() if average == "probabilities" else mean
                for name, logits in (
                    ("confidence", plain["sem_seg"] / 2.0),
                    ("confidence_TTA", mean / 0.5),
                ):
                    expected = logits.softmax(dim=0).amax(dim=0)
                    torch.testing.assert_close(output[name], expected, rtol=1e-4, atol=1e-5)

    def test_confidences_of_views_of_any_model_of_detectron2(self):
        image = torch.arange(3 * 4 * 6, dtype=torch.uint8).reshape(3, 4, 6)
        predictor = LabelMapPredictor(
            PixelValueModel(), TestTimeAugmentation((1.0,)), Temperatures(10.0, 1.0)
        )
        (output,) = predictor([{"image": image, "height": 4, "width": 6}])
        expected = (image.float() / 10).softmax(dim=0).amax(dim=0)
        torch.testing.assert_close(output["confidence"], expected)
        # Views of one kind: their mean is each of them.
        expected = image.float().softmax(dim=0).amax(dim=0)
        torch.testing.assert_close(output["confidence_TTA"], expected)

    def test_any_model_of_detectron2_can_be_predicted_with(self):
        image = torch.arange(3 * 4 * 6, dtype=torch.uint8).reshape(3, 4, 6)
        predictor = LabelMapPredictor(PixelValueModel(), TestTimeAugmentation((1.0, 2.0)))
        (output,) = predictor([{"image": image, "height": 4, "width": 6}])
        assert torch.equal(output["label_map"], image.float().argmax(0))

    def test_the_mode_of_the_model_comes_back(self, tiny_config):
        model = build_model(tiny_config)
        for mode in (True, False):
            model.train(mode)
            with inference_context(LabelMapPredictor(model)):
                assert not model.training
            assert model.training == mode and model.backbone.training == mode
