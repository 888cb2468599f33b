"""Test-time augmentation around models of this project and of others."""

import pytest
import torch
import torch.nn.functional as F
from segmentor_cases import PixelValueModel, batch

from d2_ctxseg.modeling import SemanticSegmentorWithTTA, TestTimeAugmentation
from d2_ctxseg.utils.errors import UserError
from detectron2.modeling import build_model


def augmented(model, ratios, **options):
    return SemanticSegmentorWithTTA(model, TestTimeAugmentation(ratios, **options))


class TestTestTimeAugmentation:
    image = torch.arange(3 * 4 * 6, dtype=torch.uint8).reshape(3, 4, 6)

    def test_probabilities_sum_to_one_at_the_size_requested(self):
        model = augmented(PixelValueModel(), (0.5, 1.0, 1.5))
        output = model([{"image": self.image, "height": 8, "width": 12}])[0]["sem_seg"]
        assert output.shape == (3, 8, 12)
        torch.testing.assert_close(output.sum(0), torch.ones(8, 12))

    def test_one_scale_is_the_softmax_of_the_model(self):
        model = augmented(PixelValueModel(), (1.0,), flip=False)
        output = model([{"image": self.image}])[0]["sem_seg"]
        torch.testing.assert_close(output, self.image.float().softmax(0))

    @pytest.mark.parametrize("average", ["probabilities", "logits"])
    def test_flipped_predictions_are_flipped_back(self, average):
        flipped = augmented(PixelValueModel(), (1.0,), average=average)
        output = flipped([{"image": self.image}])[0]["sem_seg"]
        expected = self.image.float()
        expected = expected.softmax(0) if average == "probabilities" else expected
        torch.testing.assert_close(output, expected)

    @pytest.mark.parametrize("average", ["probabilities", "logits"])
    def test_models_of_this_project_average_what_they_say_of_each_copy(self, tiny_config, average):
        model = build_model(tiny_config).eval()
        (inputs,) = batch((64, 96))
        image = inputs["image"] = inputs["image"].float()
        half = F.interpolate(image[None], (32, 48), mode="bilinear")[0]
        total = 0.0
        with torch.no_grad():
            for scaled in (half, image):
                for view in (scaled, scaled.flip(-1)):
                    logits = model([{"image": view, "height": 64, "width": 96}])[0]["sem_seg"]
                    logits = logits if view is scaled else logits.flip(-1)
                    total = total + (logits.softmax(0) if average == "probabilities" else logits)
        output = augmented(model, (0.5, 1.0), average=average)([inputs])[0]["sem_seg"]
        torch.testing.assert_close(output, total / 4)

    def test_scales_may_be_sizes_of_the_shortest_edge(self):
        augmentation = TestTimeAugmentation(min_sizes=(20, 40, 400), max_size=300)
        assert augmentation.sizes(50, 100) == [(20, 40), (40, 80), (150, 300)]

    @pytest.mark.parametrize(
        "options, message",
        [
            ({"ratios": (0.0, 1.0)}, "TEST.AUG.RATIOS"),
            ({}, "TEST.AUG.MIN_SIZES"),
            ({"ratios": (1.0,), "average": "mean"}, "TEST.AUG.AVERAGE must be one of prob"),
        ],
    )
    def test_bad_values_are_reported(self, options, message):
        with pytest.raises(UserError, match=message):
            TestTimeAugmentation(**options)
