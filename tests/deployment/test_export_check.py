"""An exported file is kept only if its outputs equal the model's."""

import pytest
import torch
from torch import nn

from d2_ctxseg.deployment.export_check import check_file, compare
from d2_ctxseg.utils.errors import UserError


class Brightness(nn.Module):
    """A model of three classes by brightness; the first two are ``gap`` apart, everywhere."""

    def __init__(self, gap=1.0):
        super().__init__()
        self.gap = gap
        self.register_buffer("pixel_mean", torch.zeros(3, 1, 1))

    def logits(self, images):
        gray = images.mean(dim=1)
        return torch.stack([gray, gray + self.gap, 0 * gray], dim=1)

    def forward(self, batched_inputs):
        return [{"sem_seg": self.logits(item["image"][None])[0]} for item in batched_inputs]


class TestCheck:
    images = 255 * torch.rand(2, 3, 8, 9, generator=torch.Generator().manual_seed(1))

    def test_the_model_agrees_with_itself(self):
        model = Brightness()
        agreement = check_file(model, model.logits, [(1, 8, 9), (3, 4, 5)], "logits")
        assert agreement.logit_difference == agreement.other_labels == agreement.unclear == 0
        assert agreement.pixels == 2 * (8 * 9 + 3 * 4 * 5)

    def test_a_difference_is_measured(self):
        model = Brightness(gap=50.0)
        result = compare(model, lambda images: model.logits(images) + 0.005, self.images, "logits")
        assert result.logit_difference == pytest.approx(0.005, rel=0.1)

    def test_a_large_difference_is_refused(self):
        model = Brightness()
        with pytest.raises(UserError, match="differ by up to 0.5"):
            compare(model, lambda images: model.logits(images) + 0.5, self.images, "logits")

    def test_where_rounding_decides_labels_may_differ(self):
        model = Brightness(gap=0.01)

        def first_class(images):
            return torch.zeros(images.shape[0], *images.shape[2:], dtype=torch.int64)

        agreement = compare(model, first_class, self.images, "labels")
        assert agreement.unclear == agreement.other_labels == 1
        with pytest.raises(UserError, match="could not be checked"):
            check_file(model, first_class, [(1, 8, 9)], "labels")
        model.gap = 1.0
        with pytest.raises(UserError, match="100.00% of the pixels have another label"):
            compare(model, first_class, self.images, "labels")

    def test_one_wrong_pixel_is_found(self):
        model = Brightness()

        def run(images):
            labels = model.logits(images).argmax(dim=1)
            labels[0, 0, 0] = 2
            return labels

        with pytest.raises(UserError, match="0.69% of the pixels"):
            compare(model, run, self.images, "labels")

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_what_is_not_finite_is_refused(self, value):
        model = Brightness()
        with pytest.raises(UserError, match="differ"):
            compare(model, lambda images: model.logits(images) * value, self.images, "logits")
        with pytest.raises(UserError, match="not finite"):
            compare(Brightness(gap=value), model.logits, self.images, "logits")

    def test_another_shape_is_refused(self):
        model = Brightness()
        with pytest.raises(UserError, match=r"shape \(2, 3, 4, 9\), the model's \(2, 3, 8, 9\)"):
            compare(model, lambda i: model.logits(i)[:, :, ::2], self.images, "logits")

    def test_confidences_are_compared_at_their_temperature(self):
        model, output = Brightness(gap=30.0), "labels+confidence"

        def run(images, temperature=20.0, factor=1.0):
            confidence, labels = (model.logits(images) / temperature).softmax(dim=1).max(dim=1)
            return labels, factor * confidence

        compare(model, run, self.images, output, 20.0)
        for other in (lambda i: run(i, 10.0), lambda i: run(i, 20.0, float("nan"))):
            with pytest.raises(UserError, match="its confidences differ"):
                compare(model, other, self.images, output, 20.0)
        with pytest.raises(UserError, match=r"confidences .* \(1, 8, 9\), the model's \(2, 8, 9\)"):
            compare(model, lambda i: (run(i)[0], run(i)[1][:1]), self.images, output, 20.0)
        with pytest.raises(UserError, match="has 1 output, not 2"):
            compare(model, lambda i: run(i)[0], self.images, output, 20.0)

    def test_a_file_that_fails_is_refused(self):
        def run(images):
            raise RuntimeError("indices out of bounds")

        with pytest.raises(UserError, match="fails for images of shape .2, 3, 8, 9.*out of bounds"):
            compare(Brightness(), run, self.images, "logits")
