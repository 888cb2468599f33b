"""The classifiers' views: their numbers against the models', and the command that draws them."""

import logging
import math
import runpy
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from d2_ctxseg.classifier_views import ClassifierView, draw_classifier_views
from d2_ctxseg.classifier_views.context_aware import CHANGE_COLORS, paint_changes, two_predictions
from d2_ctxseg.classifier_views.drawing import (
    HeatScale,
    Panel,
    distinct_colors,
    draw_panels,
    draw_points,
)
from d2_ctxseg.classifier_views.explicit_class import classifier_masks, ece_masks, segvit_masks
from d2_ctxseg.classifier_views.measures import (
    Change,
    accuracy,
    confidence,
    entropy,
    label_changes,
)
from d2_ctxseg.classifier_views.model_maps import maps_of_image
from d2_ctxseg.classifier_views.prototype import principal_plane, prototype_maps, sample_of_each
from d2_ctxseg.classifier_views.scene import LONGEST_SIDE, Scene
from d2_ctxseg.classifiers import LinearClassifier
from d2_ctxseg.engine.setup import setup_config
from d2_ctxseg.errors import MissingFileError, UserError
from d2_ctxseg.predictor import SemSegPredictor
from detectron2.data import DatasetCatalog
from detectron2.modeling import build_model

ROOT = Path(__file__).parents[1]
NUM_CLASSES = 5

DATASET = """
name: views
splits: {test: {images: images, labels: labels}}
classes: [sky, tree, "$road$", Car, car]
palette: [[10, 20, 200], [20, 120, 30], [90, 90, 90], [200, 30, 30], [230, 200, 40]]
"""

CONFIG = """
DATASETS:
  FOLDERS: ["$HERE/views.yaml"]
  TRAIN: ("views_sem_seg_test",)
  TEST: ("views_sem_seg_test",)
INPUT: {FORMAT: "RGB", MIN_SIZE_TEST: 0}
MODEL:
  DEVICE: "cpu"
  META_ARCHITECTURE: "LinearSegmentor"
  PIXEL_MEAN: [128.0, 128.0, 128.0]
  PIXEL_STD: [64.0, 64.0, 64.0]
  BACKBONE: {NAME: "EncoderBackbone"}
  ENCODER: {NAME: "tu-test_resnet", WEIGHTS: ""}
  SEM_SEG_HEAD:
    NAME: "SMPDecoderHead"
    NUM_CLASSES: 5
    DECODER: {NAME: "FPN", OPTIONS: ["pyramid_channels", 32, "segmentation_channels", 32]}
  CLASSIFIER: {PROTOTYPE: {NUM_PROTOTYPES: 3}}
  ECE_HEAD: {CHANNELS: 32}
  SEGVIT_HEAD: {CHANNELS: 48, IN_FEATURES: ["res4", "res5"]}
"""
ECE = ("MODEL.SEM_SEG_HEAD.NAME", "ECEHead")
SEGVIT = ("MODEL.SEM_SEG_HEAD.NAME", "SegViTHead")
EXPLICIT_TOKENS = (*SEGVIT, "MODEL.SEGVIT_HEAD.CLASS_EMBEDDINGS", "explicit")
WINDOWS = ("TEST.SLIDING_WINDOW.ENABLED", "True")
WINDOWS += ("TEST.SLIDING_WINDOW.SIZE", "[48, 64]", "TEST.SLIDING_WINDOW.STRIDE", "[32, 32]")


def picture(height=72, width=100, seed=0):
    """uint8 RGB (H, W, 3): blurred noise. 72 x 100 is no multiple of what the encoder needs."""
    noise = np.random.default_rng(seed).integers(0, 256, (height // 4 + 1, width // 4 + 1, 3))
    image = Image.fromarray(noise.astype(np.uint8)).resize((width, height), Image.BICUBIC)
    return np.asarray(image)


def labels_of(image, seed=0):
    """int64 (H, W): classes in blocks, and ignored pixels (255) at the left."""
    blocks = np.random.default_rng(seed).integers(0, NUM_CLASSES, (image.shape[0], 4))
    labels = blocks[:, np.arange(image.shape[1]) * 4 // image.shape[1]]
    labels[:, :10] = 255
    return labels


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A data set of three images with labels, and the config of a model for it."""
    folder = tmp_path_factory.mktemp("views")
    (folder / "views.yaml").write_text(DATASET)
    (folder / "config.yaml").write_text(CONFIG.replace("$HERE", str(folder)))
    for name in ("images", "labels"):
        (folder / name).mkdir()
    for number in range(3):
        image = picture(seed=number)
        Image.fromarray(image).save(folder / f"images/{number}.png")
        Image.fromarray(labels_of(image).astype(np.uint8)).save(folder / f"labels/{number}.png")
    return folder


@pytest.fixture(scope="module")
def predictor_of(folder):
    """Makes the predictor of a meta-architecture, its weights random, but those of one seed."""
    made = {}

    def make(meta_architecture, *opts):
        key = (meta_architecture, *opts)
        if key not in made:
            changes = ["MODEL.META_ARCHITECTURE", meta_architecture, *opts]
            torch.manual_seed(0)
            model = build_model(setup_config(str(folder / "config.yaml"), changes))
            with torch.no_grad():  # new predictors are nearly indifferent
                for name, value in model.named_parameters():
                    if name.endswith("predictor.weight"):
                        value.mul_(100)
            weights = str(folder / f"{len(made)}.pth")
            torch.save({"model": model.state_dict()}, weights)
            changes += ["MODEL.WEIGHTS", weights]
            made[key] = SemSegPredictor(setup_config(str(folder / "config.yaml"), changes))
        return made[key]

    return make


def scene_of(predictor, image=None, **options):
    return Scene.from_predictor(predictor, picture() if image is None else image, **options)


def features_of(scene):
    """The pixel features (1, C, h, w) of a model with a classifier, and the padded size."""
    images = scene.model.normalized_images(scene.inputs).tensor
    return scene.model.sem_seg_head.layers(scene.model.backbone(images)), images.shape[-2:]


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

    def test_changes_are_rated_by_the_truth(self):
        before, after, truth = np.array([[0, 1, 0, 0, 1], [0, 0, 1, 0, 1], [0, 0, 0, 1, -1]])[
            :, None
        ]
        changes = label_changes(before, after, truth)
        expected = [Change.NONE, Change.CORRECTED, Change.SPOILED, Change.NONE, Change.NONE]
        assert changes.tolist() == [expected]
        assert label_changes(np.array([1]), np.array([2]), np.array([0])) == Change.STILL_WRONG
        assert label_changes(np.array([1]), np.array([2]), np.array([-1])) == Change.NOT_RATED
        unrated = label_changes(before, after)
        assert set(unrated[before != after]) == {Change.NOT_RATED}
        assert set(unrated[before == after]) == {Change.NONE}

    def test_changes_explain_the_difference_of_the_accuracies(self):
        before, after, truth = np.random.default_rng(0).integers(0, 3, (3, 20, 30))
        changes = label_changes(before, after, truth)
        gain = (changes == Change.CORRECTED).mean() - (changes == Change.SPOILED).mean()
        assert accuracy(after, truth) - accuracy(before, truth) == pytest.approx(gain)

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
        expected = predictor(picture())

        def read(features, logits):
            thread = threading.Thread(target=lambda: other.append(predictor(picture())))
            thread.start()
            thread.join()
            return {"large": 1e6 + logits}

        maps_of_image(scene.model, scene.inputs, read)
        assert other and all((labels == expected).all() for labels in other)
        np.testing.assert_array_equal(predictor(picture()), expected)


@pytest.mark.parametrize("options", [(), WINDOWS, ECE], ids=["whole", "windows", "ECEHead"])
class TestContextAware:
    def test_the_refined_prediction_is_the_models(self, predictor_of, options):
        predictor = predictor_of("ContextAwareSegmentor", *options)
        scene = scene_of(predictor)
        with torch.no_grad():
            expected = predictor.model(scene.inputs)[0]["sem_seg"]
        torch.testing.assert_close(two_predictions(scene).refined, expected)
        np.testing.assert_array_equal(expected.argmax(0).numpy(), predictor(picture()))

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


class CosineOnly(torch.nn.Module):
    """A classifier of one channel: the cosine of LayerNorm's features and one prototype."""

    def __init__(self, classifier, label, prototype):
        super().__init__()
        self.norm, self.prototype = classifier.feature_norm, classifier.prototypes[label, prototype]

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


class TestMasks:
    def test_those_of_the_classifier(self, predictor_of):
        scene = scene_of(predictor_of("ExplicitClassSegmentor"))
        classifier = scene.model.classifier
        masks = classifier_masks(scene, [4, 0])
        with torch.no_grad():
            features, padded_size = features_of(scene)
            seed = classifier.predictor(features)
            embeddings = classifier.seed_extraction(seed)
            attention = classifier.attention(classifier.lateral(features), embeddings)[1]
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


COMMON = ["prediction", "entropy", "confidence"]


class TestViews:
    @pytest.mark.parametrize(
        ("meta_architecture", "options", "names"),
        [
            ("LinearSegmentor", (), COMMON),
            ("SemanticSegmentor", (), COMMON),
            (
                "ContextAwareSegmentor",
                WINDOWS,
                ["vanilla_and_refined", "entropy", "changes", "class_shares"],
            ),
            ("ExplicitClassSegmentor", (), [*COMMON, "masks"]),
            ("ExplicitClassSegmentor", ECE, [*COMMON, "stage_masks"]),
            ("SemanticSegmentor", SEGVIT, [*COMMON, "stage_masks"]),
            (
                "PrototypeSegmentor",
                (),
                [*COMMON, "prototypes_2_road", "prototypes_4_car", "embedding_space"],
            ),
        ],
    )
    def test_every_classifier_has_its_views(self, predictor_of, meta_architecture, options, names):
        predictor, image = predictor_of(meta_architecture, *options), picture()
        before = predictor(image)
        views = draw_classifier_views(predictor, image, classes=[2, 4])
        assert [view.name for view in views] == names
        for view in views:
            assert view.picture.dtype == np.uint8 and view.picture.shape[2] == 3
            assert view.picture.std() > 0 and view.caption.endswith(".")
        np.testing.assert_array_equal(predictor(image), before)

    def test_the_largest_classes_are_shown_unless_others_are_asked_for(self, predictor_of):
        predictor = predictor_of("PrototypeSegmentor")
        counts = np.bincount(predictor(picture()).ravel(), minlength=NUM_CLASSES)
        scene = scene_of(predictor)
        assert scene.classes_to_show(2) == np.argsort(-counts, kind="stable")[:2].tolist()
        assert scene_of(predictor, classes=[4, 0, 4]).classes_to_show(1) == [4, 0]

    def test_changes_are_painted_in_their_colours_over_a_grey_image(self):
        changes = np.random.default_rng(0).integers(0, 5, (72, 100))
        painted = paint_changes(picture(), changes)
        for change, color in CHANGE_COLORS.items():
            assert (painted[changes == change] == color).all()
        unchanged = painted[changes == Change.NONE]
        assert (unchanged == unchanged[:, :1]).all() and unchanged.std() > 0

    def test_labels_that_are_all_ignored_are_no_trouble(self, predictor_of):
        labels = np.full((72, 100), 255)
        views = draw_classifier_views(
            predictor_of("ContextAwareSegmentor"), picture(), labels=labels
        )
        assert len(views) == 4

    def test_large_images_are_reduced_with_their_labels(self, predictor_of):
        image = picture(32, LONGEST_SIDE * 2)
        labels = labels_of(image)
        scene = scene_of(predictor_of("LinearSegmentor"), image, labels=labels)
        assert scene.image.shape == (16, LONGEST_SIDE, 3)
        assert scene.logits.shape == (NUM_CLASSES, 16, LONGEST_SIDE)
        assert scene.inputs[0]["image"].shape == (3, 32, LONGEST_SIDE * 2)
        expected = np.where(labels == 255, -1, labels)[1::2, 1::2]
        np.testing.assert_array_equal(scene.truth, expected)

    def test_wrong_arguments_are_explained(self, predictor_of):
        predictor, image = predictor_of("LinearSegmentor"), picture()
        with pytest.raises(UserError, match="float64.*expected a uint8 array"):
            draw_classifier_views(predictor, image / 255)
        with pytest.raises(UserError, match=r"labels are int64 \(5, 5\).*\(72, 100\)"):
            draw_classifier_views(predictor, image, labels=np.zeros((5, 5), np.int64))
        with pytest.raises(UserError, match="no class 5, expected 0 to 4"):
            draw_classifier_views(predictor, image, classes=[1, 5])


class TestDrawing:
    def test_heat_goes_from_one_end_of_the_colours_to_the_other(self):
        scale = HeatScale("", 1.0, 3.0, "gray")
        colors = scale.colors(np.array([[0.0, 1.0, 2.0, 3.0, 9.0]]))
        assert colors[0, :, 0].tolist() == [0, 0, pytest.approx(128, abs=1), 255, 255]
        assert HeatScale("", 0.0, 0.0).colors(np.zeros((2, 2))).shape == (2, 2, 3)

    def test_panels_stand_in_rows_whatever_their_shape(self):
        color = (90, 120, 200)
        for shape, columns in (((20, 2000, 3), 3), ((2000, 20, 3), 3), ((50, 60, 3), 1)):
            panels = [Panel("$x", np.full(shape, color, np.uint8))] * 4
            drawn = draw_panels(panels, columns, heat=HeatScale("", 0, 1), key={"a": (255, 0, 0)})
            assert max(drawn.shape) < 5000
            inside = (drawn == color).all(axis=2)
            rows = np.flatnonzero(np.diff(inside.any(axis=1).astype(int)) == 1)
            assert len(rows) == -(-4 // columns)
            assert (drawn == [255, 0, 0]).all(axis=2).any()

    def test_colours_of_prototypes_differ(self):
        for count in (1, 10, 20, 50):
            colors = distinct_colors(count)
            assert colors.shape == (count, 3) and colors.dtype == np.uint8
            assert len(np.unique(colors, axis=0)) == count

    def test_points_and_stars_have_their_colours(self):
        drawn = draw_points(
            np.random.default_rng(0).random((200, 2)),
            np.tile([255, 0, 0], (200, 1)),
            np.array([[2.0, 2.0]]),
            np.array([[0, 0, 255]]),
            ("a", "$b"),
        )
        pixels = drawn.reshape(-1, 3).astype(int)
        assert (pixels[:, 0] - pixels[:, 1] > 100).sum() > 500
        assert (pixels == [0, 0, 255]).all(axis=1).sum() > 20


class TestCommand:
    @pytest.fixture
    def tool(self):
        """The names of the tool, which its functions see too."""
        return runpy.run_path(str(ROOT / "tools" / "visualize_classifier.py"))["run"].__globals__

    @pytest.fixture
    def run(self, tool, folder, predictor_of):
        """Runs the tool in this process: run("--input", ...)."""

        def run(*arguments, weights=True):
            opts = ["MODEL.META_ARCHITECTURE", "ExplicitClassSegmentor"]
            if weights:
                path = folder / "tool.pth"
                state = predictor_of("ExplicitClassSegmentor").model.state_dict()
                torch.save({"model": state}, path)
                opts += ["MODEL.WEIGHTS", str(path)]
            args = tool["get_parser"]().parse_args(
                ["--config-file", str(folder / "config.yaml"), *map(str, arguments)]
                + ["--opts", *opts]
            )
            tool["run"](args, logging.getLogger("test_classifier_views"))

        return run

    @pytest.fixture
    def quick(self, tool, monkeypatch):
        """Replaces the drawing, where it is not what is tested."""
        view = ClassifierView("entropy", "Something.", picture())
        monkeypatch.setitem(tool, "draw_classifier_views", lambda *arguments, **options: [view])

    def test_each_view_of_an_image_becomes_a_file(
        self, tool, run, folder, tmp_path, monkeypatch, caplog
    ):
        caplog.set_level(logging.INFO)
        views = []

        def draw(*arguments, **options):
            assert options == {"labels": None, "classes": [1, 2]}
            views.extend(draw_classifier_views(*arguments, **options))
            return views

        monkeypatch.setitem(tool, "draw_classifier_views", draw)
        run("--input", folder / "images/1.png", "--output", tmp_path, "--classes", "Tree", "$road$")
        assert [view.name for view in views] == [*COMMON, "masks"]
        assert {path.name for path in tmp_path.iterdir()} == {f"1_{v.name}.png" for v in views}
        for view in views:
            drawn = np.asarray(Image.open(tmp_path / f"1_{view.name}.png"))
            np.testing.assert_array_equal(drawn, view.picture)
            assert f"1_{view.name}.png: {view.caption}" in caplog.text

    def test_a_data_set_brings_its_labels(self, tool, run, tmp_path, monkeypatch):
        drawn = []

        def draw(predictor, image, *, labels, classes):
            drawn.append((image, labels, classes))
            return [ClassifierView("prediction", "Something.", image)]

        monkeypatch.setitem(tool, "draw_classifier_views", draw)
        options = ("--num-images", 2, "--classes", "tree", "--output", tmp_path / "new")
        run("--dataset", "views_sem_seg_test", *options)
        names = {path.name for path in (tmp_path / "new").iterdir()}
        assert names == {"0_prediction.png", "2_prediction.png"}
        for seed, (image, labels, classes) in zip((0, 2), drawn):
            np.testing.assert_array_equal(image, picture(seed=seed))
            expected = labels_of(image)
            np.testing.assert_array_equal(labels, np.where(expected == 255, -1, expected))
            assert classes == [1]

    @pytest.mark.usefixtures("quick")
    def test_unreadable_files_are_named_after_the_others_are_done(self, run, folder, tmp_path):
        (tmp_path / "notes.txt").write_text("not an image")
        with pytest.raises(UserError, match="notes.txt"):
            inputs = (tmp_path / "notes.txt", folder / "images/0.png")
            run("--input", *inputs, "--output", tmp_path)
        assert (tmp_path / "0_entropy.png").is_file()

    @pytest.mark.usefixtures("quick")
    def test_no_input_is_overwritten(self, run, folder, tmp_path):
        image = (folder / "images/0.png").read_bytes()
        for name in ("x.png", "x_entropy.png"):
            (tmp_path / name).write_bytes(image)
        with pytest.raises(UserError, match="overwrite the input"):
            run("--input", tmp_path, "--output", tmp_path)
        assert (tmp_path / "x_entropy.png").read_bytes() == image
        assert len(list(tmp_path.iterdir())) == 2

    def test_images_of_the_same_name_do_not_overwrite_one_another(self, run, folder, tmp_path):
        Image.fromarray(picture()).save(tmp_path / "0.jpg")
        with pytest.raises(UserError, match="2 images are called 0"):
            inputs = (folder / "images/0.png", tmp_path / "0.jpg")
            run("--input", *inputs, "--output", tmp_path / "new")

    def test_bad_arguments_are_explained(self, run, folder, tmp_path):
        image, to = ("--input", folder / "images/0.png"), ("--output", tmp_path / "new")
        with pytest.raises(UserError, match="no class 'tre'. Did you mean 'tree'"):
            run(*image, *to, "--classes", "tre")
        with pytest.raises(UserError, match="--num-images must be at least 1"):
            run("--dataset", "views_sem_seg_test", *to, "--num-images", 0)
        with pytest.raises(UserError, match="Did you mean 'views_sem_seg_test'"):
            run("--dataset", "view_sem_seg_test", *to)
        with pytest.raises(UserError, match="is a file"):
            run(*image, "--output", folder / "config.yaml")
        with pytest.raises(MissingFileError, match="missing.png"):
            run("--input", "missing.png", *to)
        with pytest.raises(UserError, match="MODEL.WEIGHTS is empty"):
            run(*image, *to, weights=False)
        assert not (tmp_path / "new").exists()

    def test_classes_may_be_written_small_if_that_leaves_no_doubt(self, tool):
        assert tool["class_indices"](["car", "Car", "TREE"], ["Tree", "Car", "car"]) == [2, 1, 0]
        assert tool["class_indices"](None, ["Tree"]) is None

    def test_images_without_labels_in_a_data_set_are_drawn_too(self, tool, folder, tmp_path):
        name = f"views_unlabelled_{tmp_path.name}"
        records = [{"file_name": str(folder / f"images/{i}.png")} for i in range(3)]
        DatasetCatalog.register(name, lambda: records)
        try:
            files = tool["dataset_files"](name, 9)
        finally:
            DatasetCatalog.remove(name)
        assert [path.stem for path, _ in files] == ["0", "1", "2"]
        image, labels = tool["read_sample"](*files[1], None)
        np.testing.assert_array_equal(image, picture(seed=1))
        assert labels is None
