"""The classifiers' views as images, and the command that draws them."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from classifier_view_runs import (
    ECE,
    NUM_CLASSES,
    SEGVIT,
    WINDOWS,
    labels_of,
    random_image,
    scene_of,
)
from PIL import Image

from d2_ctxseg.commands import visualize_classifier
from d2_ctxseg.commands.parsers.visualize_classifier import get_parser
from d2_ctxseg.utils.errors import MissingFileError, UserError
from d2_ctxseg.visualization.classifier_views import ClassifierView, draw_classifier_views
from d2_ctxseg.visualization.classifier_views.context_aware import CHANGE_COLORS, paint_changes
from d2_ctxseg.visualization.classifier_views.drawing import (
    HeatScale,
    Panel,
    distinct_colors,
    draw_panels,
    draw_points,
)
from d2_ctxseg.visualization.classifier_views.measures import (
    Change,
)
from d2_ctxseg.visualization.classifier_views.scene import LONGEST_SIDE
from detectron2.data import DatasetCatalog, MetadataCatalog

ROOT = Path(__file__).parents[2]
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
            (
                "LearnedPrototypeSegmentor",
                WINDOWS,
                [*COMMON, "prototypes_2_road", "prototypes_4_car", "distinct_prototypes"],
            ),
            (
                "SemanticSpatialSegmentor",
                WINDOWS,
                ["vanilla_and_refined", "entropy", "changes", "class_shares"]
                + ["spatial_attention", "boundaries"],
            ),
            ("ExplicitClassSegmentor", (), [*COMMON, "masks"]),
            ("ExplicitClassSegmentor", ECE, [*COMMON, "stage_masks"]),
            ("SemanticSegmentor", SEGVIT, [*COMMON, "stage_masks"]),
            ("GaussianMixtureSegmentor", (), [*COMMON, "anomaly", "components"]),
            ("FeatureBankSegmentor", (), [*COMMON, "neighbors"]),
            (
                "PrototypeSegmentor",
                (),
                [*COMMON, "prototypes_2_road", "prototypes_4_car"]
                + ["embedding_space", "distinct_prototypes"],
            ),
        ],
    )
    def test_every_classifier_has_its_views(self, predictor_of, meta_architecture, options, names):
        predictor, image = predictor_of(meta_architecture, *options), random_image()
        before = predictor(image)
        views = draw_classifier_views(predictor, image, classes=[2, 4])
        assert [view.name for view in views] == names
        for view in views:
            assert view.picture.dtype == np.uint8 and view.picture.shape[2] == 3
            assert view.picture.std() > 0 and view.caption.endswith(".")
        np.testing.assert_array_equal(predictor(image), before)

    def test_the_largest_classes_are_shown_unless_others_are_requested(self, predictor_of):
        predictor = predictor_of("PrototypeSegmentor")
        counts = np.bincount(predictor(random_image()).ravel(), minlength=NUM_CLASSES)
        scene = scene_of(predictor)
        assert scene.classes_to_show(2) == np.argsort(-counts, kind="stable")[:2].tolist()
        assert scene_of(predictor, classes=[4, 0, 4]).classes_to_show(1) == [4, 0]

    def test_changes_are_painted_in_their_colours_over_a_grey_image(self):
        changes = np.random.default_rng(0).integers(0, 5, (72, 100))
        painted = paint_changes(random_image(), changes)
        for change, color in CHANGE_COLORS.items():
            assert (painted[changes == change] == color).all()
        unchanged = painted[changes == Change.NONE]
        assert (unchanged == unchanged[:, :1]).all() and unchanged.std() > 0

    def test_labels_that_are_all_ignored_are_no_trouble(self, predictor_of):
        labels = np.full((72, 100), 255)
        views = draw_classifier_views(
            predictor_of("ContextAwareSegmentor"), random_image(), labels=labels
        )
        assert len(views) == 4

    def test_large_images_are_reduced_with_their_labels(self, predictor_of):
        image = random_image(32, LONGEST_SIDE * 2)
        labels = labels_of(image)
        scene = scene_of(predictor_of("LinearSegmentor"), image, labels=labels)
        assert scene.image.shape == (16, LONGEST_SIDE, 3)
        assert scene.logits.shape == (NUM_CLASSES, 16, LONGEST_SIDE)
        assert scene.inputs[0]["image"].shape == (3, 32, LONGEST_SIDE * 2)
        expected = np.where(labels == 255, -1, labels)[1::2, 1::2]
        np.testing.assert_array_equal(scene.ground_truth, expected)

    def test_wrong_arguments_are_explained(self, predictor_of):
        predictor, image = predictor_of("LinearSegmentor"), random_image()
        with pytest.raises(UserError, match="float64.*expected a uint8 array"):
            draw_classifier_views(predictor, image / 255)
        with pytest.raises(UserError, match=r"labels are int64 \(5, 5\).*\(72, 100\)"):
            draw_classifier_views(predictor, image, labels=np.zeros((5, 5), np.int64))
        with pytest.raises(UserError, match="no class 5, expected 0 to 4"):
            draw_classifier_views(predictor, image, classes=[1, 5])


class TestDrawing:
    def test_heat_goes_from_one_end_of_the_colours_to_the_other(self):
        colors = HeatScale("", 1.0, 3.0).colors(np.array([[0.0, 1.0, 2.0, 3.0, 9.0]]))[0]
        assert (colors[0] == colors[1]).all() and (colors[3] == colors[4]).all()
        lightness = colors.astype(int).sum(axis=1)
        assert lightness[1] < lightness[2] < lightness[3]
        assert HeatScale("", 0.0, 0.0).colors(np.zeros((2, 2))).shape == (2, 2, 3)

    @pytest.mark.parametrize("opacity", [1.0, 0.7])
    def test_every_colour_over_an_image_is_in_the_bar_at_its_number(self, opacity):
        scale = HeatScale("", -1.0, 2.0, opacity)
        bar = scale.bar(width=64, height=301).astype(int)
        for number, brightness in ((-1.0, 0), (0.5, 255), (2.0, 130)):
            image = np.full((1, 1, 3), brightness, np.uint8)
            color = scale.over(image, np.full((1, 1), number))[0, 0].astype(int)
            row = bar[round(300 * (2.0 - number) / 3.0)]
            assert np.abs(row - color).max(axis=1).min() <= 2

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


class TestDistinctPrototypes:
    def test_an_image_says_which_coincide(self, predictor_of):
        predictor = predictor_of("PrototypeSegmentor")
        classifier = predictor.model.classifier
        before = classifier.prototypes.clone()
        try:
            classifier.prototypes[2] = before[2, :1]  # all the same
            classifier.prototypes[4, 2] = before[4, 0]
            views = {
                v.name: v for v in draw_classifier_views(predictor, random_image(), classes=[2, 4])
            }
        finally:
            classifier.prototypes.copy_(before)
        assert "All 3 prototypes coincide" in views["prototypes_2_road"].caption
        assert "Only 2 of the 3 prototypes are distinct" in views["prototypes_4_car"].caption
        assert "in effect" in views["distinct_prototypes"].caption
        # One map in place of three.
        one, two = (views[name].picture for name in ("prototypes_2_road", "prototypes_4_car"))
        assert one.shape[1] < two.shape[1]


class TestCommand:
    @pytest.fixture
    def tool(self):
        """The names of the tool, which its functions see too."""
        return vars(visualize_classifier)

    @pytest.fixture
    def run(self, tool, views_folder, predictor_of):
        """Runs the tool in this process: run("--input", ...)."""

        def run(*arguments, weights=True):
            opts = ["MODEL.META_ARCHITECTURE", "ExplicitClassSegmentor"]
            if weights:
                path = views_folder / "tool.pth"
                state = predictor_of("ExplicitClassSegmentor").model.state_dict()
                torch.save({"model": state}, path)
                opts += ["MODEL.WEIGHTS", str(path)]
            args = get_parser().parse_args(
                ["--config-file", str(views_folder / "config.yaml"), *map(str, arguments)]
                + ["--opts", *opts]
            )
            tool["run"](args, logging.getLogger("test_classifier_views"))

        return run

    @pytest.fixture
    def quick(self, tool, monkeypatch):
        """Replaces the drawing, where it is not what is tested."""
        view = ClassifierView("entropy", "Something.", random_image())
        monkeypatch.setitem(tool, "draw_classifier_views", lambda *arguments, **options: [view])

    def test_each_view_of_an_image_becomes_a_file(
        self, tool, run, views_folder, tmp_path, monkeypatch, caplog
    ):
        caplog.set_level(logging.INFO)
        views = []

        def draw(*arguments, **options):
            assert options == {"labels": None, "classes": [1, 2]}
            views.extend(draw_classifier_views(*arguments, **options))
            return views

        monkeypatch.setitem(tool, "draw_classifier_views", draw)
        run(
            "--input",
            views_folder / "images/1.png",
            "--output",
            tmp_path,
            "--classes",
            "Tree",
            "$road$",
        )
        assert [view.name for view in views] == [*COMMON, "masks"]
        assert {path.name for path in tmp_path.iterdir()} == {f"1_{v.name}.png" for v in views}
        for view in views:
            drawn = np.asarray(Image.open(tmp_path / f"1_{view.name}.png"))
            np.testing.assert_array_equal(drawn, view.picture)
            assert f"1_{view.name}.png: {view.caption}" in caplog.text

    def test_a_dataset_brings_its_labels(self, tool, run, tmp_path, monkeypatch):
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
            np.testing.assert_array_equal(image, random_image(seed=seed))
            expected = labels_of(image)
            np.testing.assert_array_equal(labels, np.where(expected == 255, -1, expected))
            assert classes == [1]

    @pytest.mark.usefixtures("quick")
    def test_unreadable_files_are_named_after_the_others_are_done(
        self, run, views_folder, tmp_path
    ):
        (tmp_path / "notes.txt").write_text("not an image")
        with pytest.raises(UserError, match="notes.txt"):
            inputs = (tmp_path / "notes.txt", views_folder / "images/0.png")
            run("--input", *inputs, "--output", tmp_path)
        assert (tmp_path / "0_entropy.png").is_file()

    @pytest.mark.usefixtures("quick")
    def test_no_input_is_overwritten(self, run, views_folder, tmp_path):
        image = (views_folder / "images/0.png").read_bytes()
        for name in ("x.png", "x_entropy.png"):
            (tmp_path / name).write_bytes(image)
        with pytest.raises(UserError, match="overwrite the input"):
            run("--input", tmp_path, "--output", tmp_path)
        assert (tmp_path / "x_entropy.png").read_bytes() == image
        assert len(list(tmp_path.iterdir())) == 2

    def test_images_of_the_same_name_do_not_overwrite_one_another(
        self, run, views_folder, tmp_path
    ):
        Image.fromarray(random_image()).save(tmp_path / "0.jpg")
        with pytest.raises(UserError, match="2 images are called 0"):
            inputs = (views_folder / "images/0.png", tmp_path / "0.jpg")
            run("--input", *inputs, "--output", tmp_path / "new")

    def test_bad_arguments_are_explained(self, run, views_folder, tmp_path):
        image, to = ("--input", views_folder / "images/0.png"), ("--output", tmp_path / "new")
        with pytest.raises(UserError, match="no class 'tre'. Did you mean 'tree'"):
            run(*image, *to, "--classes", "tre")
        with pytest.raises(UserError, match="Did you mean 'views_sem_seg_test'"):
            run("--dataset", "view_sem_seg_test", *to)
        with pytest.raises(UserError, match="is a file"):
            run(*image, "--output", views_folder / "config.yaml")
        with pytest.raises(MissingFileError, match="missing.png"):
            run("--input", "missing.png", *to)
        with pytest.raises(UserError, match="MODEL.WEIGHTS is empty"):
            run(*image, *to, weights=False)
        assert not (tmp_path / "new").exists()

    def test_classes_may_be_written_small_if_that_leaves_no_doubt(self, tool):
        assert tool["class_indices"](["car", "Car", "TREE"], ["Tree", "Car", "car"]) == [2, 1, 0]
        assert tool["class_indices"](None, ["Tree"]) is None

    def test_images_without_labels_in_a_dataset_are_drawn_too(self, tool, views_folder, tmp_path):
        name = f"views_unlabelled_{tmp_path.name}"
        records = [{"file_name": str(views_folder / f"images/{i}.png")} for i in range(3)]
        DatasetCatalog.register(name, lambda: records)
        try:
            files = tool["dataset_files"](name, 9)
        finally:
            DatasetCatalog.remove(name)
        assert [path.stem for path, _ in files] == ["0", "1", "2"]
        image, labels = tool["read_sample"](*files[1], MetadataCatalog.get(name), 50)
        np.testing.assert_array_equal(image, random_image(seed=1))
        assert labels is None
