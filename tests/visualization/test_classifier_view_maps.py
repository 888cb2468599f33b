"""What the classifiers' views show: their numbers against the models'."""

import math
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from classifier_view_runs import (
    ECE,
    EXPLICIT_TOKENS,
    NUM_CLASSES,
    SEGVIT,
    WINDOWS,
    random_image,
    scene_of,
)
from hypothesis import given
from hypothesis import strategies as st

from d2_ctxseg.classifiers import LinearClassifier
from d2_ctxseg.classifiers.mixture_density import component_log_density
from d2_ctxseg.losses.boundary import canny_edges
from d2_ctxseg.modeling.padding import feature_sizes
from d2_ctxseg.visualization.classifier_views.context_aware import two_predictions
from d2_ctxseg.visualization.classifier_views.explicit_class import (
    classifier_masks,
    ece_masks,
    segvit_masks,
)
from d2_ctxseg.visualization.classifier_views.feature_bank import neighbor_similarity
from d2_ctxseg.visualization.classifier_views.gaussian_mixture import mixture_maps
from d2_ctxseg.visualization.classifier_views.learned_prototype import inner_product_maps
from d2_ctxseg.visualization.classifier_views.measures import (
    Change,
    accuracy,
    confidence,
    entropy,
    label_changes,
)
from d2_ctxseg.visualization.classifier_views.model_maps import maps_of_image
from d2_ctxseg.visualization.classifier_views.prototype import (
    coinciding_groups,
    principal_plane,
    prototype_maps,
    sample_of_each,
)
from d2_ctxseg.visualization.classifier_views.semantic_spatial import (
    predicted_boundary,
    spatial_attention,
)

ROOT = Path(__file__).parents[2]


def features_of(scene):
    """The pixel features (1, C, h, w) of a model with a classifier, and the padded size."""
    images = scene.model.normalized_images(scene.inputs).tensor
    return scene.model.sem_seg_head.layers(scene.model.backbone(images)), images.shape[-2:]


def sizes_of(scene, features, padded_size):
    """The part of the features that is image and not padding."""
    return feature_sizes([scene.inputs[0]["image"].shape[-2:]], padded_size, features.shape[-2:])


def at_image_size(maps, padded_size, scene):
    """(1, Q, h, w) of the padded image to (Q, H, W) of the image."""
    maps = F.interpolate(maps, size=padded_size, mode="bilinear", align_corners=False)[0]
    height, width = scene.image.shape[:2]
    return maps[:, :height, :width]


class TestMeasures:
    def test_entropy_is_minus_the_sum_of_p_log_p(self):
        logits = torch.randn(4, 3, 2, dtype=torch.float64) * 3
        for y in range(3):
            for x in range(2):
                weights = [math.exp(value) for value in logits[:, y, x].tolist()]
                p = [weight / sum(weights) for weight in weights]
                expected = -sum(value * math.log(value) for value in p)
                assert entropy(logits)[y, x].item() == pytest.approx(expected)
                assert confidence(logits)[y, x].item() == pytest.approx(max(p))

    def test_entropy_lies_between_certain_and_indifferent(self):
        certain = torch.tensor([1e4, 0.0, 0.0])[:, None, None]
        assert entropy(certain).item() == 0
        assert entropy(torch.zeros(7, 1, 1)).item() == pytest.approx(math.log(7))

    def test_changes_are_compared_with_the_ground_truth(self):
        before, after, ground_truth = np.array(
            [[0, 1, 0, 0, 1], [0, 0, 1, 0, 1], [0, 0, 0, 1, -1]]
        )[:, None]
        changes = label_changes(before, after, ground_truth)
        expected = [Change.NONE, Change.CORRECTED, Change.BROKEN, Change.NONE, Change.NONE]
        assert changes.tolist() == [expected]
        assert label_changes(np.array([1]), np.array([2]), np.array([0])) == Change.STILL_WRONG
        assert label_changes(np.array([1]), np.array([2]), np.array([-1])) == Change.UNLABELLED
        unlabelled = label_changes(before, after)
        assert set(unlabelled[before != after]) == {Change.UNLABELLED}
        assert set(unlabelled[before == after]) == {Change.NONE}

    def test_changes_explain_the_difference_of_the_accuracies(self):
        before, after, ground_truth = np.random.default_rng(0).integers(0, 3, (3, 20, 30))
        changes = label_changes(before, after, ground_truth)
        gain = (changes == Change.CORRECTED).mean() - (changes == Change.BROKEN).mean()
        assert accuracy(after, ground_truth) - accuracy(before, ground_truth) == pytest.approx(gain)

    def test_ignored_pixels_have_no_accuracy(self):
        assert accuracy(np.array([0, 1, 2]), np.array([0, 2, -1])) == 0.5
        assert math.isnan(accuracy(np.array([0]), np.array([-1])))


@pytest.mark.parametrize("options", [(), WINDOWS], ids=["whole", "windows"])
class TestMapsOfAnImage:
    def test_other_maps_lie_where_the_logits_lie(self, predictor_of, options):
        scene = scene_of(predictor_of("LinearSegmentor", *options))
        maps = maps_of_image(
            scene.model,
            scene.inputs,
            lambda features, logits: {"same": logits, "sums": logits[:, :2].cumsum(1)},
        )
        with torch.no_grad():
            logits = scene.model(scene.inputs)[0]["sem_seg"]
        for name, expected in (
            ("logits", logits),
            ("same", logits),
            ("sums", logits[:2].cumsum(0)),
        ):
            torch.testing.assert_close(maps[name], expected)

    def test_other_threads_get_their_predictions_meanwhile(self, predictor_of, options):
        predictor, other = predictor_of("LinearSegmentor", *options), []
        scene = scene_of(predictor)
        expected = predictor(random_image())

        def read(features, logits):
            thread = threading.Thread(target=lambda: other.append(predictor(random_image())))
            thread.start()
            thread.join()
            return {"large": 1e6 + logits}

        maps_of_image(scene.model, scene.inputs, read)
        assert other and all((labels == expected).all() for labels in other)
        np.testing.assert_array_equal(predictor(random_image()), expected)


@pytest.mark.parametrize("options", [(), WINDOWS, ECE], ids=["whole", "windows", "ECEHead"])
class TestContextAware:
    def test_the_refined_prediction_is_the_models(self, predictor_of, options):
        predictor = predictor_of("ContextAwareSegmentor", *options)
        scene = scene_of(predictor)
        with torch.no_grad():
            expected = predictor.model(scene.inputs)[0]["sem_seg"]
        torch.testing.assert_close(two_predictions(scene).refined, expected)
        np.testing.assert_array_equal(expected.argmax(0).numpy(), predictor(random_image()))

    def test_the_vanilla_prediction_is_that_of_the_convolution_alone(self, predictor_of, options):
        predictor = predictor_of("ContextAwareSegmentor", *options)
        scene, classifier = scene_of(predictor), predictor.model.classifier
        logits = two_predictions(scene)
        predictor.model.classifier = LinearClassifier(
            classifier.in_channels, NUM_CLASSES, predictor=classifier.predictor
        ).eval()
        try:
            with torch.no_grad():
                expected = predictor.model(scene.inputs)[0]["sem_seg"]
        finally:
            predictor.model.classifier = classifier
        torch.testing.assert_close(logits.vanilla, expected)
        assert not torch.allclose(logits.vanilla, logits.refined)


class TestGaussianMixtures:
    def test_the_maps_are_the_densities_of_classes_and_components(self, predictor_of):
        scene = scene_of(predictor_of("GaussianMixtureSegmentor"))
        classifier = scene.model.classifier
        with torch.no_grad():
            maps = mixture_maps(scene, [3, 1])
            features, padded_size = features_of(scene)
            scores = classifier.class_log_density(features)
            density = component_log_density(classifier.embed(features), *classifier.mixtures())
        expected = at_image_size(scores, padded_size, scene)
        torch.testing.assert_close(maps.scores, expected, atol=1e-4, rtol=0)
        density = density[:, [3, 1]].flatten(1).T.unflatten(1, features.shape[-2:])[None]
        expected = at_image_size(density, padded_size, scene).unflatten(0, (2, 5))
        torch.testing.assert_close(maps.components, expected, atol=1e-4, rtol=0)


class TestFeatureBank:
    def test_the_map_is_the_mean_cosine_of_the_nearest_features(self, predictor_of):
        scene = scene_of(predictor_of("FeatureBankSegmentor"))
        classifier = scene.model.classifier
        features, padded_size = features_of(scene)
        vectors = torch.randn(40, classifier.in_channels)
        classifier.fill(vectors, torch.rand(40, 5), torch.ones(40))
        pixels = F.normalize(features.detach()[0].flatten(1).T, dim=1)
        nearest = (pixels @ F.normalize(vectors, dim=1).T).sort(dim=1, descending=True)[0]
        expected = nearest[:, : classifier.num_neighbors].mean(dim=1).view(features.shape[-2:])
        expected = at_image_size(expected[None, None], padded_size, scene)[0]
        similarity = torch.from_numpy(neighbor_similarity(scene))
        torch.testing.assert_close(similarity, expected, atol=1e-4, rtol=0)


class CosineOnly(torch.nn.Module):
    """A classifier of one channel: the cosine of LayerNorm's features and one prototype."""

    takes_sizes = False

    def __init__(self, classifier, label, prototype):
        super().__init__()
        self.norm, self.prototype = classifier.feature_norm, classifier.prototypes[label, prototype]
        self.takes_sizes = False

    def forward(self, features):
        embeddings = self.norm(features.permute(0, 2, 3, 1))
        return F.cosine_similarity(embeddings, self.prototype, dim=3)[:, None]


class TestPrototypes:
    @pytest.mark.parametrize("options", [(), WINDOWS], ids=["whole", "windows"])
    def test_the_maps_are_the_cosines_of_pixels_and_prototypes(self, predictor_of, options):
        scene = scene_of(predictor_of("PrototypeSegmentor", *options))
        classifier = scene.model.classifier
        cosines = prototype_maps(scene, [3, 1], [0]).cosines
        assert cosines.shape == (2, 3, 72, 100)
        try:
            for i, label in enumerate([3, 1]):
                for m in range(3):
                    scene.model.classifier = CosineOnly(classifier, label, m)
                    with torch.no_grad():
                        expected = scene.model(scene.inputs)[0]["sem_seg"][0]
                    torch.testing.assert_close(cosines[i, m], expected, atol=1e-5, rtol=0)
        finally:
            scene.model.classifier = classifier

    def test_pixels_of_the_padding_are_not_sampled(self, predictor_of):
        scene = scene_of(predictor_of("PrototypeSegmentor"))
        sample = prototype_maps(scene, [0], range(NUM_CLASSES)).sample
        with torch.no_grad():
            features, padded_size = features_of(scene)
            stride = padded_size[0] // features.shape[2]
            low = scene.model.classifier(features).argmax(1)[0]
        assert padded_size != (72, 100) and 72 % stride == 100 % stride == 0
        counts = np.bincount(low[: 72 // stride, : 100 // stride].flatten(), minlength=NUM_CLASSES)
        assert np.bincount(sample.classes, minlength=NUM_CLASSES).tolist() == [
            min(count, 400) for count in counts
        ]

    def test_sampled_pixels_are_classified_as_they_say(self, predictor_of):
        scene = scene_of(predictor_of("PrototypeSegmentor", *WINDOWS))
        sample = prototype_maps(scene, [0], range(NUM_CLASSES)).sample
        assert len(sample.classes) <= 2000
        torch.testing.assert_close(sample.embeddings.norm(dim=1), torch.ones(len(sample.classes)))
        with torch.no_grad():
            classes = scene.model.classifier.classify(sample.embeddings).argmax(1)
        assert torch.equal(classes, sample.classes)
        again = prototype_maps(scene, [0], range(NUM_CLASSES)).sample
        assert torch.equal(sample.embeddings, again.embeddings)

    def test_a_sample_holds_as_many_pixels_of_each_class(self):
        classes = torch.tensor([0] * 50 + [1] * 3 + [2] * 40)
        index = sample_of_each(classes, [0, 1], 20, torch.Generator().manual_seed(0))
        assert torch.bincount(classes[index]).tolist() == [10, 3]
        assert len(index.unique()) == 13


class TestCoincidingGroups:
    def test_vectors_of_unit_length_coincide_from_a_cosine_of_0_99_on(self):
        angle = torch.tensor([0.0, 0.9, 1.1, 9.0]) * math.acos(0.99)
        vectors = torch.stack([angle.cos(), angle.sin()], dim=1)
        assert coinciding_groups(vectors) == [[0, 1], [2], [3]]

    @given(st.integers(1, 8), st.floats(1e-3, 1e3), st.integers(0, 99))
    def test_groups_hold_each_vector_once_whatever_its_scale(self, count, scale, seed):
        generator = torch.Generator().manual_seed(seed)
        vectors = torch.randn(count, 3, generator=generator)
        groups = coinciding_groups(scale * vectors)
        assert sorted(m for group in groups for m in group) == list(range(count))
        assert groups == coinciding_groups(vectors)
        assert coinciding_groups(vectors[:1].repeat(count, 1)) == [list(range(count))]

    def test_zero_vectors_coincide(self):
        assert coinciding_groups(torch.zeros(3, 2)) == [[0, 1, 2]]


class TestPrincipalPlane:
    def test_it_is_the_plane_of_the_two_largest_singular_values(self):
        points = torch.randn(300, 20) * torch.linspace(3, 0.1, 20) + 5
        plane = principal_plane(points)
        centered = (points - points.mean(0)).double()
        _, lengths, axes = torch.linalg.svd(centered, full_matrices=False)
        expected = lengths.square() / lengths.square().sum()
        torch.testing.assert_close(plane.explained.double(), expected[:2], atol=1e-4, rtol=0)
        alignment = (axes[:2] @ plane.axes.double()).abs()
        torch.testing.assert_close(alignment, torch.eye(2).double(), atol=1e-2, rtol=0)
        torch.testing.assert_close(plane.project(points).mean(0), torch.zeros(2), atol=1e-4, rtol=0)

    def test_it_is_always_the_same_and_leaves_the_random_numbers_alone(self):
        points, state = torch.randn(40, 6), torch.get_rng_state()
        first, second = principal_plane(points), principal_plane(points)
        assert torch.equal(torch.get_rng_state(), state)
        assert torch.equal(first.axes, second.axes)
        assert (first.axes.gather(0, first.axes.abs().argmax(0, keepdim=True)) > 0).all()

    def test_a_single_point_has_one_too(self):
        plane = principal_plane(torch.randn(1, 6))
        assert plane.axes.shape == (6, 2) and plane.explained.tolist() == [0, 0]
        assert plane.project(torch.randn(3, 6)).isfinite().all()


class TestLearnedPrototypes:
    @pytest.mark.parametrize("options", [(), WINDOWS], ids=["whole", "windows"])
    def test_the_maps_are_the_scores_that_each_vector_alone_would_give(self, predictor_of, options):
        scene = scene_of(predictor_of("LearnedPrototypeSegmentor", *options))
        classifier = scene.model.classifier
        products = inner_product_maps(scene, [3, 1])
        assert products.shape == (2, 10, 72, 100)
        try:
            classifier.num_prototypes, weight = 1, classifier.weight
            for m in (0, 9):
                classifier.weight = torch.nn.Parameter(weight[:, [m]])
                with torch.no_grad():
                    expected = scene.model(scene.inputs)[0]["sem_seg"][[3, 1]]
                torch.testing.assert_close(products[:, m], expected, atol=1e-5, rtol=0)
        finally:
            classifier.num_prototypes, classifier.weight = 10, weight


class TestSemanticSpatial:
    def test_attention_is_the_softmax_over_the_pixels_relative_to_its_largest(self, predictor_of):
        scene = scene_of(predictor_of("SemanticSpatialSegmentor"))
        attention = spatial_attention(scene, [4, 0])
        with torch.no_grad():
            features, padded_size = features_of(scene)
            vanilla = scene.model.classifier.predictor(features)[:, [4, 0]]
        weights = vanilla.flatten(2).softmax(dim=2)
        weights = (weights / weights.amax(dim=2, keepdim=True)).view_as(vanilla)
        torch.testing.assert_close(attention, at_image_size(weights, padded_size, scene))

    def test_boundaries_are_those_of_the_predicted_classes(self, predictor_of):
        keys = "MODEL.CLASSIFIER.SEMANTIC_SPATIAL"
        options = (f"{keys}.BOUNDARY_FRAME", "0", f"{keys}.BOUNDARY_DILATION", "0")
        scene = scene_of(predictor_of("SemanticSpatialSegmentor", *options))
        with torch.no_grad():
            features, padded_size = features_of(scene)
            sizes = sizes_of(scene, features, padded_size)
            labels = scene.model.classifier(features, sizes).argmax(dim=1)
        expected = canny_edges(labels)[:, None].float()
        assert 0 < expected.mean() < 1
        boundary = predicted_boundary(scene)
        torch.testing.assert_close(boundary, at_image_size(expected, padded_size, scene)[0])


class TestMasks:
    def test_those_of_the_classifier(self, predictor_of):
        scene = scene_of(predictor_of("ExplicitClassSegmentor"))
        classifier = scene.model.classifier
        masks = classifier_masks(scene, [4, 0])
        with torch.no_grad():
            features, padded_size = features_of(scene)
            seed = classifier.predictor(features)
            sizes = sizes_of(scene, features, padded_size)
            embeddings = classifier.seed_extraction(seed, sizes)
            attention = classifier.attention(classifier.lateral(features), embeddings, sizes)[1]
        expected = {"seed": seed, "attention": attention, "sum": seed + attention}
        assert list(masks) == list(expected)
        for title, mask in expected.items():
            mask = at_image_size(mask[:, [4, 0]], padded_size, scene).sigmoid()
            torch.testing.assert_close(masks[title], mask)

    @pytest.mark.parametrize("meta_architecture", ["ExplicitClassSegmentor", "LinearSegmentor"])
    def test_those_of_ecenets_head_whoever_classifies(self, predictor_of, meta_architecture):
        scene = scene_of(predictor_of(meta_architecture, *ECE))
        head, images = scene.model.sem_seg_head, scene.model.normalized_images(scene.inputs).tensor
        masks = ece_masks(scene, [1])
        assert list(masks) == ["seed (res5)", *(f"attention (res{i})" for i in (4, 3, 2)), "sum"]
        with torch.no_grad():
            features = scene.model.backbone(images)
            expected = head.decode([features[name] for name in head.in_features]).masks
        low = [
            F.interpolate(m, size=features["res2"].shape[-2:], mode="bilinear") for m in expected
        ]
        for mask, low_mask in zip(masks.values(), [*low, sum(low)]):
            expected = at_image_size(low_mask[:, [1]], images.shape[-2:], scene).sigmoid()
            torch.testing.assert_close(mask, expected)

    @pytest.mark.parametrize("options", [SEGVIT, EXPLICIT_TOKENS], ids=["learned", "explicit"])
    @pytest.mark.parametrize("meta_architecture", ["ExplicitClassSegmentor", "SemanticSegmentor"])
    def test_those_of_segvits_head(self, predictor_of, meta_architecture, options):
        scene = scene_of(predictor_of(meta_architecture, *options))
        head = scene.model.sem_seg_head
        seen = []
        handle = scene.model.backbone.register_forward_hook(lambda _, i, out: seen.append((i, out)))
        masks = segvit_masks(scene, [2, 3])
        handle.remove()
        ((images,), features) = seen[0]
        assert list(masks) == ["seed"] * head.explicit + ["up to res5", "up to res4"]
        with torch.no_grad():
            expected = list(head.predict(features).mask_logits)
            if head.explicit:
                deepest = head.stages[0].project(features["res5"])
                expected.insert(0, head.class_tokens.seed(deepest, features["res5"].shape[-2:])[1])
        for mask, low_mask in zip(masks.values(), expected):
            expected = at_image_size(low_mask[:, [2, 3]], images.shape[-2:], scene).sigmoid()
            torch.testing.assert_close(mask, expected)
