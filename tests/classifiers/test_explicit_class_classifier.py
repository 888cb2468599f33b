"""The explicit class classifier: its steps, losses, cost, bad batches; the authors' weights."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from d2_ctxseg.classifiers.base import CLASSIFIER_REGISTRY
from d2_ctxseg.classifiers.explicit_class import ExplicitClassClassifier
from d2_ctxseg.losses.functional import segmentation_cross_entropy
from d2_ctxseg.losses.mask_losses import weighted_mask_losses

FIXTURE = np.load(Path(__file__).parents[1] / "fixtures" / "explicit_class.npz")
AUTHORS_STATE = {
    key.removeprefix("state/"): torch.from_numpy(FIXTURE[key])
    for key in FIXTURE.files
    if key.startswith("state/")
}


def batch(classes=4, channels=8, size=(5, 6), factor=2):
    labels = torch.randint(0, classes, (2, size[0] * factor, size[1] * factor))
    labels[:, :2] = 255
    return torch.randn(2, channels, *size), labels


class TestPrediction:
    def test_mask_to_embedding_to_refined_features_to_assisted_scores(self):
        classifier = ExplicitClassClassifier(8, 4)
        features, _ = batch()
        seed = classifier.predictor(features)
        embeddings = classifier.seed_extraction(seed)
        refined, mask = classifier.attention(features, embeddings)
        embeddings = classifier.updater(classifier.extraction(mask), embeddings)
        certainty = classifier.assistance.classify(embeddings).softmax(dim=2)
        scores = classifier.refined_predictor(refined)
        for k in range(4):
            scores[:, k] += certainty[:, k, k, None, None] * (seed[:, k] + mask[:, k]).sigmoid()
        prediction = classifier.predict(features)
        torch.testing.assert_close(prediction.logits, scores)
        assert torch.equal(prediction.auxiliary_mask, seed)
        torch.testing.assert_close(prediction.class_embeddings, embeddings)
        assert torch.equal(classifier(features), prediction.logits)

    @pytest.mark.parametrize(
        "in_channels, channels, expected", [(8, None, 8), (8, 4, 4), (512, None, 256), (8, 16, 16)]
    )
    def test_width_of_the_embeddings(self, in_channels, channels, expected):
        classifier = ExplicitClassClassifier(in_channels, 5, channels=channels)
        prediction = classifier.predict(torch.randn(2, in_channels, 3, 4))
        assert prediction.class_embeddings.shape == (2, 5, expected)
        assert prediction.logits.shape == prediction.auxiliary_mask.shape == (2, 5, 3, 4)
        assert isinstance(classifier.lateral, nn.Identity) == (in_channels == expected)

    def test_the_image_decides_the_score_of_a_pixel(self):
        """The same neighbourhood scores differently in another scene: what the method is for."""
        classifier = ExplicitClassClassifier(8, 4).eval()
        nn.init.normal_(classifier.predictor.weight)
        nn.init.normal_(classifier.refined_predictor.weight)
        scenes = torch.randn(2, 8, 12, 12)
        scenes[:, :, :6, :6] = scenes[:1, :, :6, :6]
        scores, vanilla = (f(scenes)[:, :, 1, 1] for f in (classifier, classifier.predictor))
        assert torch.allclose(vanilla[0], vanilla[1])
        assert not torch.allclose(scores[0], scores[1], atol=1e-3)

    def test_images_of_a_batch_do_not_influence_each_other(self):
        classifier = ExplicitClassClassifier(8, 4).eval()
        features = torch.randn(3, 8, 4, 5)
        separate = torch.cat([classifier(image[None]) for image in features])
        torch.testing.assert_close(classifier(features), separate)

    def test_repeated_calls_in_eval_mode_are_equal(self):
        classifier = ExplicitClassClassifier(8, 4, dropout=0.5).eval()
        features, _ = batch()
        assert torch.equal(classifier(features), classifier(features))

    def test_costs_less_than_one_3x3_convolution_of_its_width(self):
        features = torch.randn(1, 256, 48, 48)
        costs = []
        for module in (
            ExplicitClassClassifier(256, 150),
            nn.Conv2d(256, 256, kernel_size=3, padding=1),
        ):
            with FlopCounterMode(display=False) as counter, torch.no_grad():
                module(features)
            costs.append(counter.get_total_flops())
        assert costs[0] < costs[1]


class TestLosses:
    def test_cross_entropy_of_the_assisted_and_mask_losses_of_the_seed(self):
        classifier = ExplicitClassClassifier(8, 4, mask_loss="bce")
        features, labels = batch()
        prediction = classifier.predict(features)
        losses = classifier.losses(features, labels)
        assert list(losses) == ["loss_sem_seg", "loss_mask", "loss_dice"]
        torch.testing.assert_close(
            losses["loss_sem_seg"], segmentation_cross_entropy(prediction.logits, labels)
        )
        expected = weighted_mask_losses(prediction.auxiliary_mask, labels, mask_loss="bce")
        for name, loss in expected.items():
            torch.testing.assert_close(losses[name], loss)

    def test_weights_scale_losses_and_0_leaves_them_out(self):
        classifier = ExplicitClassClassifier(8, 4, loss_weight_mask=1.0, loss_weight_dice=0.0)
        reference = ExplicitClassClassifier(8, 4)
        reference.load_state_dict(classifier.state_dict())
        features, labels = batch()
        losses, full = classifier.losses(features, labels), reference.losses(features, labels)
        assert "loss_dice" not in losses
        torch.testing.assert_close(5 * losses["loss_mask"], full["loss_mask"])

    @pytest.mark.parametrize("options", [{}, {"loss_weight_mask": 0.0, "loss_weight_dice": 0.0}])
    @pytest.mark.parametrize("ignored", [False, True])
    @pytest.mark.parametrize("classes", [1, 4])
    def test_every_parameter_has_a_gradient_in_every_step(self, options, ignored, classes):
        classifier = ExplicitClassClassifier(8, classes, channels=4, **options)
        features, labels = batch(classes)
        losses = classifier.losses(features, torch.full_like(labels, 255) if ignored else labels)
        sum(losses.values()).backward()
        for parameter in classifier.parameters():
            assert parameter.grad is not None and torch.isfinite(parameter.grad).all()

    def test_a_batch_without_a_labelled_pixel_has_loss_0_and_gradient_0(self):
        features, labels = batch()
        features.requires_grad_()
        losses = ExplicitClassClassifier(8, 4).losses(features, torch.full_like(labels, 255))
        total = sum(losses.values())
        total.backward()
        assert total == 0
        assert torch.equal(features.grad, torch.zeros_like(features))

    @given(
        classes=st.integers(1, 6),
        size=st.tuples(st.integers(1, 5), st.integers(1, 5)),
        factor=st.integers(1, 3),
        ignored=st.sampled_from([0.0, 0.5, 1.0]),
        seed=st.integers(0, 1000),
    )
    @settings(max_examples=20, deadline=None)
    def test_losses_and_gradients_are_finite(self, classes, size, factor, ignored, seed):
        torch.manual_seed(seed)
        features, labels = batch(classes, 8, size, factor)
        labels[torch.rand(labels.shape) < ignored] = 255
        features.requires_grad_()
        losses = ExplicitClassClassifier(8, classes).losses(features, labels)
        sum(losses.values()).backward()
        assert all(torch.isfinite(loss) and loss >= 0 for loss in losses.values())
        assert torch.isfinite(features.grad).all()

    def test_gradient(self):
        classifier = ExplicitClassClassifier(4, 3, num_heads=2).double()
        features = torch.randn(1, 4, 2, 3).double().requires_grad_()
        labels = torch.tensor([[[0, 1, 255], [1, 1, 0]]])
        assert torch.autograd.gradcheck(
            lambda x: tuple(classifier.losses(x, labels).values()), features
        )

    def test_works_under_autocast_on_non_contiguous_features(self):
        classifier = ExplicitClassClassifier(8, 4)
        features = torch.randn(2, 6, 6, 8).permute(0, 3, 1, 2)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            losses = classifier.losses(features, torch.randint(0, 4, (2, 6, 6)))
            logits = classifier(features)
        torch.testing.assert_close(logits.float(), classifier(features), atol=0.1, rtol=0.1)
        assert all(torch.isfinite(loss) for loss in losses.values())

    def test_training_fits_a_batch(self):
        classifier = ExplicitClassClassifier(8, 4)
        features, labels = batch(factor=1)
        optimizer = torch.optim.AdamW(classifier.parameters(), lr=1e-2)
        cross_entropies = []
        for _ in range(40):
            losses = classifier.losses(features, labels)
            optimizer.zero_grad()
            sum(losses.values()).backward()
            optimizer.step()
            cross_entropies.append(losses["loss_sem_seg"].item())
        assert cross_entropies[-1] < 0.2 * cross_entropies[0]


class TestConstruction:
    def test_is_registered_under_its_name(self):
        assert CLASSIFIER_REGISTRY.get("ExplicitClassClassifier") is ExplicitClassClassifier

    def test_seed_masks_start_from_the_given_predictor(self):
        predictor = nn.Conv2d(8, 4, 1)
        classifier = ExplicitClassClassifier(8, 4, predictor=predictor)
        features, _ = batch()
        assert classifier.predictor is predictor
        assert torch.equal(classifier.predict(features).auxiliary_mask, predictor(features))

    def test_dropout_is_on_in_training_only(self):
        classifier = ExplicitClassClassifier(8, 4, dropout=0.9)
        features, _ = batch()
        assert not torch.equal(classifier(features), classifier(features))
        assert torch.equal(classifier.eval()(features), classifier(features))

    @pytest.mark.parametrize(
        "options, message",
        [
            ({"predictor": nn.Conv2d(8, 4, 3)}, r"expected \(4, 8, 1, 1\)"),
            ({"mask_loss": "hinge"}, "mask_loss is 'hinge'"),
            ({"num_heads": 3}, "num_heads is 3, expected a divisor of the 8 channels"),
            ({"pool_ratio": -1}, "pool_ratio is -1"),
        ],
    )
    def test_refuses_arguments_that_do_not_fit(self, options, message):
        with pytest.raises(ValueError, match=message):
            ExplicitClassClassifier(8, 4, **options)


class TestExport:
    def test_exported_program_takes_other_sizes(self):
        classifier = ExplicitClassClassifier(8, 4).eval()
        sizes = {0: torch.export.Dim("b"), 2: torch.export.Dim("h"), 3: torch.export.Dim("w")}
        exported = torch.export.export(
            classifier, (torch.randn(2, 8, 5, 7),), dynamic_shapes={"features": sizes}
        ).module()
        for shape in [(2, 8, 5, 7), (3, 8, 9, 4)]:
            features = torch.randn(shape)
            torch.testing.assert_close(exported(features), classifier(features))

    def test_onnx(self):
        pytest.importorskip("onnxscript")
        onnxruntime = pytest.importorskip("onnxruntime")
        classifier = ExplicitClassClassifier(8, 4).eval()
        features = torch.randn(2, 8, 5, 7)
        program = torch.onnx.export(classifier, (features,), dynamo=True, verbose=False)
        session = onnxruntime.InferenceSession(program.model_proto.SerializeToString())
        (logits,) = session.run(None, {session.get_inputs()[0].name: features.numpy()})
        torch.testing.assert_close(
            torch.from_numpy(logits), classifier(features).detach(), atol=1e-5, rtol=1e-4
        )
