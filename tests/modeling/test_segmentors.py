"""The meta-architectures, around this project's heads and Detectron2's."""

import pytest
import torch
import torch.nn.functional as F

from d2_ctxseg.classifiers import (
    CLASSIFIER_REGISTRY,
    ContextAwareClassifier,
    ExplicitClassClassifier,
    GaussianMixtureClassifier,
    LearnedPrototypeClassifier,
    LinearClassifier,
    PrototypeClassifier,
    SemanticSpatialClassifier,
)
from d2_ctxseg.modeling import (
    LabelMapPredictor,
    SemanticSegmentorWithTTA,
    TestTimeAugmentation,
)
from d2_ctxseg.utils.errors import UserError
from detectron2.evaluation import inference_context
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_model

LOSSES = {
    "LinearSegmentor": {"loss_sem_seg"},
    "ContextAwareSegmentor": {"loss_sem_seg", "loss_vanilla", "loss_oracle", "loss_kl"},
    "SemanticSpatialSegmentor": {
        *("loss_sem_seg", "loss_vanilla", "loss_oracle", "loss_dice", "loss_dice_oracle"),
        *("loss_response", "loss_semantic", "loss_spatial"),
    },
    "PrototypeSegmentor": {"loss_sem_seg", "loss_ppc", "loss_ppd"},
    "LearnedPrototypeSegmentor": {"loss_sem_seg"},
    "ExplicitClassSegmentor": {"loss_sem_seg", "loss_mask", "loss_dice"},
    "GaussianMixtureSegmentor": {"loss_sem_seg", "loss_contrast"},
}
CLASSIFIERS = {
    "LinearSegmentor": LinearClassifier,
    "ContextAwareSegmentor": ContextAwareClassifier,
    "SemanticSpatialSegmentor": SemanticSpatialClassifier,
    "PrototypeSegmentor": PrototypeClassifier,
    "LearnedPrototypeSegmentor": LearnedPrototypeClassifier,
    "ExplicitClassSegmentor": ExplicitClassClassifier,
    "GaussianMixtureSegmentor": GaussianMixtureClassifier,
}


def batch(*sizes, num_classes=5):
    return [
        {
            "image": torch.randint(0, 255, (3, *size), dtype=torch.uint8),
            "sem_seg": torch.randint(0, num_classes, size),
        }
        for size in sizes
    ]


@pytest.mark.parametrize("meta_architecture", LOSSES)
class TestSegmentor:
    @pytest.fixture
    def cfg(self, tiny_config, meta_architecture):
        tiny_config.MODEL.META_ARCHITECTURE = meta_architecture
        return tiny_config

    def test_losses_reach_every_parameter(self, cfg, meta_architecture):
        cfg.MODEL.AUXILIARY_HEAD.ENABLED = True
        model = build_model(cfg)
        losses = model(batch((64, 96), (64, 96)))
        assert set(losses) == LOSSES[meta_architecture] | {"loss_auxiliary"}
        sum(losses.values()).backward()
        assert [name for name, p in model.named_parameters() if p.grad is None] == []

    def test_classifier_starts_from_the_heads_predictor(self, cfg, meta_architecture):
        model = build_model(cfg)
        assert type(model.classifier) is CLASSIFIERS[meta_architecture]
        assert isinstance(model.sem_seg_head.predictor, torch.nn.Identity)
        # Prototypes and mixtures replace it.
        if "Prototype" not in meta_architecture and "Mixture" not in meta_architecture:
            assert model.classifier.predictor.out_channels == 5

    def test_predictions_have_the_size_asked_for(self, cfg):
        model = build_model(cfg).eval()
        first, second = batch((50, 70), (64, 33))
        with torch.no_grad():
            outputs = model([{**first, "height": 100, "width": 140}, second])
        sizes = [tuple(output["sem_seg"].shape) for output in outputs]
        assert sizes == [(5, 100, 140), (5, 64, 33)]

    def test_padding_of_smaller_images_takes_no_part_in_the_losses(self, cfg):
        """A batch padded by the model gives the losses of one that was padded with ignore.

        If the classifier is told what is padding, as it is by the model.
        """
        cfg.MODEL.CLASSIFIER.DROPOUT = 0.0
        cfg.MODEL.CLASSIFIER.PROTOTYPE.ASSIGNMENT = "argmax"
        # Batch statistics apart, eval mode would do; updates of buffers must not show.
        cfg.MODEL.CLASSIFIER.PROTOTYPE.MOMENTUM = 1.0
        cfg.MODEL.CLASSIFIER.GAUSSIAN_MIXTURE.MEAN_MOMENTUM = 1.0
        cfg.MODEL.CLASSIFIER.GAUSSIAN_MIXTURE.SCALE_MOMENTUM = 1.0
        model = build_model(cfg)
        model.sem_seg_head.decoder.dropout.p = 0.0
        small, large = batch((40, 64), (64, 64))
        images = torch.stack([torch.zeros(3, 64, 64), large["image"]])
        images[0, :, :40] = small["image"]
        images = (images - model.pixel_mean) / model.pixel_std
        images[0, :, 40:] = 0
        labels = torch.stack([torch.full((64, 64), 255), large["sem_seg"]])
        labels[0, :40] = small["sem_seg"]
        losses = model([small, large])
        expected = model.losses(images, labels, [(40, 64), (64, 64)])
        for name, loss in losses.items():
            torch.testing.assert_close(loss, expected[name])

    def test_loss_weight_of_the_head_counts(self, cfg):
        cfg.MODEL.SEM_SEG_HEAD.LOSS_WEIGHT = 0.5
        torch.manual_seed(3)
        half = build_model(cfg)
        cfg.MODEL.SEM_SEG_HEAD.LOSS_WEIGHT = 1.0
        torch.manual_seed(3)
        whole = build_model(cfg)
        inputs = batch((64, 64))
        torch.manual_seed(5)
        half_losses = half(inputs)
        torch.manual_seed(5)
        for name, loss in whole(inputs).items():
            torch.testing.assert_close(half_losses[name], 0.5 * loss)


class TestDetectron2Heads:
    def test_sem_seg_fpn_head_is_wrapped(self, tiny_config):
        head = tiny_config.MODEL.SEM_SEG_HEAD
        head.NAME = "SemSegFPNHead"
        head.IN_FEATURES = ["res2", "res3", "res4", "res5"]
        head.CONVS_DIM = 32
        model = build_model(tiny_config)
        assert model.classifier.in_channels == 32
        losses = model(batch((64, 96), (64, 96)))
        assert set(losses) == LOSSES["ContextAwareSegmentor"]
        assert model.eval()(batch((64, 96)))[0]["sem_seg"].shape == (5, 64, 96)

    def test_linear_segmentor_predicts_what_detectron2s_own_segmentor_does(self, tiny_config):
        head = tiny_config.MODEL.SEM_SEG_HEAD
        head.NAME = "SemSegFPNHead"
        head.IN_FEATURES = ["res2", "res3", "res4", "res5"]
        head.CONVS_DIM = 32
        tiny_config.MODEL.META_ARCHITECTURE = "LinearSegmentor"
        ours = build_model(tiny_config).eval()
        tiny_config.MODEL.META_ARCHITECTURE = "SemanticSegmentor"
        theirs = build_model(tiny_config).eval()
        theirs.load_state_dict(
            {
                key.replace("classifier.predictor", "sem_seg_head.predictor"): value
                for key, value in ours.state_dict().items()
            }
        )
        inputs = batch((64, 96))
        with torch.no_grad():
            torch.testing.assert_close(ours(inputs)[0]["sem_seg"], theirs(inputs)[0]["sem_seg"])


@CLASSIFIER_REGISTRY.register()
class ScaledClassifier(LinearClassifier):
    """A user's own classifier with an argument of its own."""

    def __init__(self, in_channels, num_classes, *, factor=1.0, **options):
        super().__init__(in_channels, num_classes, **options)
        self.factor = factor

    def forward(self, features):
        return self.factor * super().forward(features)


class TestClassifierByName:
    @pytest.fixture
    def cfg(self, tiny_config):
        tiny_config.MODEL.META_ARCHITECTURE = "PixelClassifierSegmentor"
        return tiny_config

    def test_a_users_own_with_its_options(self, cfg):
        cfg.MODEL.CLASSIFIER.NAME = "ScaledClassifier"
        cfg.MODEL.CLASSIFIER.OPTIONS = ["factor", 2.0]
        model = build_model(cfg)
        assert model.classifier.factor == 2.0
        assert set(model(batch((64, 64)))) == {"loss_sem_seg"}

    @pytest.mark.parametrize("name", [cls.__name__ for cls in CLASSIFIERS.values()])
    def test_those_of_this_project_with_their_keys(self, cfg, name):
        cfg.MODEL.CLASSIFIER.NAME = name
        cfg.MODEL.CLASSIFIER.CONTEXT_AWARE.SCALE = 10.0
        cfg.MODEL.CLASSIFIER.SEMANTIC_SPATIAL.SCALE = 10.0
        cfg.MODEL.CLASSIFIER.PROTOTYPE.NUM_PROTOTYPES = 3
        cfg.MODEL.CLASSIFIER.LEARNED_PROTOTYPE.NUM_PROTOTYPES = 3
        cfg.MODEL.CLASSIFIER.EXPLICIT_CLASS.CHANNELS = 16
        classifier = build_model(cfg).classifier
        assert type(classifier).__name__ == name
        assert getattr(classifier, "scale", 10.0) == 10.0
        assert getattr(classifier, "num_prototypes", 3) == 3
        assert getattr(classifier, "lateral", torch.nn.Conv2d(1, 16, 1)).out_channels == 16

    @pytest.mark.parametrize(
        ("key", "value", "message"),
        [
            ("NAME", "LinaerClassifier", "no classifier 'LinaerClassifier'.*'LinearClassifier'"),
            ("OPTIONS", ["droput", 0.1], "has no option 'droput'.*'dropout'"),
            ("OPTIONS", ["dropout"], "has 1 entries, expected pairs"),
        ],
    )
    def test_mistyped_names_are_answered_with_the_nearest(self, cfg, key, value, message):
        cfg.MODEL.CLASSIFIER.NAME = "LinearClassifier"
        cfg.MODEL.CLASSIFIER[key] = value
        with pytest.raises(UserError, match=message):
            build_model(cfg)

    def test_a_refused_value_names_its_key(self, cfg):
        cfg.MODEL.META_ARCHITECTURE = "PrototypeSegmentor"
        cfg.MODEL.CLASSIFIER.PROTOTYPE.DISTANCE = "l1"
        with pytest.raises(UserError, match="CLASSIFIER.PROTOTYPE: distance is 'l1', expected"):
            build_model(cfg)


class TestOneSwitch:
    @pytest.mark.parametrize("meta_architecture", LOSSES)
    def test_a_name_that_disagrees_with_the_meta_architecture_is_an_error(
        self, tiny_config, meta_architecture
    ):
        tiny_config.MODEL.META_ARCHITECTURE = meta_architecture
        tiny_config.MODEL.CLASSIFIER.NAME = "ScaledClassifier"
        own = CLASSIFIERS[meta_architecture].__name__
        message = f"'{meta_architecture}' has the classifier '{own}', but .*'ScaledClassifier'"
        with pytest.raises(UserError, match=message):
            build_model(tiny_config)

    @pytest.mark.parametrize("meta_architecture", LOSSES)
    def test_a_name_that_agrees_is_fine(self, tiny_config, meta_architecture):
        tiny_config.MODEL.META_ARCHITECTURE = meta_architecture
        tiny_config.MODEL.CLASSIFIER.NAME = CLASSIFIERS[meta_architecture].__name__
        assert type(build_model(tiny_config).classifier) is CLASSIFIERS[meta_architecture]

    def test_no_name_is_answered_with_those_there_are(self, tiny_config):
        tiny_config.MODEL.META_ARCHITECTURE = "PixelClassifierSegmentor"
        with pytest.raises(UserError, match="is empty. Set it to one of ContextAwareClassifier, "):
            build_model(tiny_config)

    def test_whole_heads_take_no_classifier(self, tiny_config):
        tiny_config.MODEL.META_ARCHITECTURE = "WholeHeadSegmentor"
        with pytest.raises(UserError, match="needs a head that classifies by itself.*SMPDecoder"):
            build_model(tiny_config)
        tiny_config.MODEL.SEM_SEG_HEAD.NAME = "ECEHead"
        tiny_config.MODEL.CLASSIFIER.NAME = "LinearClassifier"
        with pytest.raises(UserError, match="takes no classifier, but .*'LinearClassifier'"):
            build_model(tiny_config)


@CLASSIFIER_REGISTRY.register()
class MyContextAware(ContextAwareClassifier):
    """A subclass has the options of its base class, and one of its own."""

    def __init__(self, in_channels, num_classes, *, factor=1.0, **options):
        super().__init__(in_channels, num_classes, **options)
        self.factor = factor


@CLASSIFIER_REGISTRY.register()
class NarrowContextAware(ContextAwareClassifier):
    """Its constructor leaves no room for the options of its base class."""

    def __init__(
        self,
        in_channels,
        num_classes,
        *,
        ignore_label=255,
        align_corners=False,
        dropout=0.0,
        predictor=None,
    ):
        super().__init__(in_channels, num_classes, predictor=predictor)


class TestOptionsOfSubclasses:
    @pytest.fixture
    def cfg(self, tiny_config):
        tiny_config.MODEL.META_ARCHITECTURE = "PixelClassifierSegmentor"
        tiny_config.MODEL.CLASSIFIER.NAME = "MyContextAware"
        return tiny_config

    def test_are_found_in_the_config_node_of_the_base_class(self, cfg):
        cfg.MODEL.CLASSIFIER.CONTEXT_AWARE.SCALE = 10.0
        cfg.MODEL.CLASSIFIER.OPTIONS = ["factor", 2.0]
        classifier = build_model(cfg).classifier
        assert (classifier.scale, classifier.factor) == (10.0, 2.0)

    def test_can_be_listed_where_they_are_passed_on(self, cfg):
        cfg.MODEL.CLASSIFIER.OPTIONS = ["scale", 5.0]
        assert build_model(cfg).classifier.scale == 5.0

    def test_a_constructor_that_does_not_take_them_is_told_what_to_do(self, cfg, monkeypatch):
        cfg.MODEL.CLASSIFIER.NAME = "NarrowContextAware"
        with pytest.raises(UserError, match="takes no argument 'similarity'.*config_node = ''"):
            build_model(cfg)
        monkeypatch.setattr(NarrowContextAware, "config_node", "")
        assert isinstance(build_model(cfg).classifier, NarrowContextAware)


class TestHeadsThatClassifyThemselves:
    @pytest.fixture(params=["ECEHead", "SegViTHead learned", "SegViTHead explicit"])
    def cfg(self, request, tiny_config):
        head, _, tiny_config.MODEL.SEGVIT_HEAD.CLASS_EMBEDDINGS = request.param.partition(" ")
        tiny_config.MODEL.SEM_SEG_HEAD.NAME = head
        tiny_config.MODEL.META_ARCHITECTURE = "ExplicitClassSegmentor"
        tiny_config.MODEL.AUXILIARY_HEAD.ENABLED = True
        tiny_config.MODEL.ECE_HEAD.CHANNELS = 32
        tiny_config.MODEL.SEGVIT_HEAD.CHANNELS = 48
        tiny_config.MODEL.SEM_SEG_HEAD.IN_FEATURES = ["res4", "res5"]
        if head == "ECEHead":
            tiny_config.MODEL.SEGVIT_HEAD.CLASS_EMBEDDINGS = "learned"
        return tiny_config

    @pytest.mark.parametrize("meta_architecture", ["ExplicitClassSegmentor", "WholeHeadSegmentor"])
    def test_are_left_whole_and_train(self, cfg, meta_architecture):
        cfg.MODEL.META_ARCHITECTURE = meta_architecture
        model = build_model(cfg)
        assert model.classifier is None
        losses = model(batch((64, 96), (64, 96)))
        assert {"loss_mask", "loss_dice", "loss_auxiliary"} < set(losses)
        sum(losses.values()).backward()
        unused = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
        assert unused == []

    def test_predict_what_detectron2s_own_segmentor_does(self, cfg):
        ours = build_model(cfg).eval()
        cfg.MODEL.META_ARCHITECTURE = "SemanticSegmentor"
        theirs = build_model(cfg).eval()
        state = {k: v for k, v in ours.state_dict().items() if not k.startswith("auxiliary_head")}
        theirs.load_state_dict(state)
        inputs = batch((64, 96))
        with torch.no_grad():
            torch.testing.assert_close(ours(inputs)[0]["sem_seg"], theirs(inputs)[0]["sem_seg"])


class TestECEHeadUnderOtherClassifiers:
    @pytest.mark.parametrize(
        "meta_architecture", ["LinearSegmentor", "ContextAwareSegmentor", "PrototypeSegmentor"]
    )
    def test_its_pixel_features_are_classified(self, tiny_config, meta_architecture):
        tiny_config.MODEL.SEM_SEG_HEAD.NAME = "ECEHead"
        tiny_config.MODEL.ECE_HEAD.CHANNELS = 32
        tiny_config.MODEL.META_ARCHITECTURE = meta_architecture
        model = build_model(tiny_config)
        losses = model(batch((64, 96), (64, 96)))
        assert set(losses) == LOSSES[meta_architecture]
        sum(losses.values()).backward()
        unused = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
        assert unused == []

    def test_tokens_give_no_pixel_features(self, tiny_config):
        tiny_config.MODEL.SEM_SEG_HEAD.NAME = "SegViTHead"
        tiny_config.MODEL.SEGVIT_HEAD.CHANNELS = 48
        tiny_config.MODEL.SEM_SEG_HEAD.IN_FEATURES = ["res4", "res5"]
        with pytest.raises(UserError, match="SegViTHead classifies by itself.*SemanticSegmentor"):
            build_model(tiny_config)


class TestAuxiliaryHead:
    def test_unknown_feature_map_is_answered_with_those_there_are(self, tiny_config):
        tiny_config.MODEL.AUXILIARY_HEAD.ENABLED = True
        tiny_config.MODEL.AUXILIARY_HEAD.IN_FEATURE = "res6"
        with pytest.raises(UserError, match="no 'res6'; it has res0, res1"):
            build_model(tiny_config)


class PositionModel(torch.nn.Module):
    """Scores depend on the pixel's colour only, so that augmentation must be undone exactly."""

    def forward(self, batched_inputs):
        outputs = []
        for inputs in batched_inputs:
            size = (inputs["height"], inputs["width"])
            scores = torch.nn.functional.interpolate(inputs["image"][None].float(), size)[0]
            outputs.append({"sem_seg": scores})
        return outputs


def augmented(model, ratios, **options):
    return SemanticSegmentorWithTTA(model, TestTimeAugmentation(ratios, **options))


class TestTestTimeAugmentation:
    image = torch.arange(3 * 4 * 6, dtype=torch.uint8).reshape(3, 4, 6)

    def test_probabilities_sum_to_one_at_the_size_asked_for(self):
        model = augmented(PositionModel(), (0.5, 1.0, 1.5))
        output = model([{"image": self.image, "height": 8, "width": 12}])[0]["sem_seg"]
        assert output.shape == (3, 8, 12)
        torch.testing.assert_close(output.sum(0), torch.ones(8, 12))

    def test_one_scale_is_the_softmax_of_the_model(self):
        model = augmented(PositionModel(), (1.0,), flip=False)
        output = model([{"image": self.image}])[0]["sem_seg"]
        torch.testing.assert_close(output, self.image.float().softmax(0))

    @pytest.mark.parametrize("average", ["probabilities", "logits"])
    def test_mirrored_predictions_are_mirrored_back(self, average):
        flipped = augmented(PositionModel(), (1.0,), average=average)
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
    def test_bad_values_are_named(self, options, message):
        with pytest.raises(UserError, match=message):
            TestTimeAugmentation(**options)


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
        several = augmented(model, ratios)(inputs)
        with torch.no_grad():
            for one, output, average in zip(inputs, outputs, several):
                assert torch.equal(output["label_map"], model([one])[0]["sem_seg"].argmax(0))
                assert torch.equal(output["label_map_TTA"], average["sem_seg"].argmax(0))

    def test_any_model_of_detectron2_can_be_predicted_with(self):
        image = TestTestTimeAugmentation.image
        predictor = LabelMapPredictor(PositionModel(), TestTimeAugmentation((1.0, 2.0)))
        (output,) = predictor([{"image": image, "height": 4, "width": 6}])
        assert torch.equal(output["label_map"], image.float().argmax(0))

    def test_the_mode_of_the_model_comes_back(self, tiny_config):
        model = build_model(tiny_config)
        for mode in (True, False):
            model.train(mode)
            with inference_context(LabelMapPredictor(model)):
                assert not model.training
            assert model.training == mode and model.backbone.training == mode


def test_backbones_of_detectron2_say_their_shape_as_ours_do(tiny_config):
    shape = build_model(tiny_config).backbone.output_shape()
    assert all(isinstance(item, ShapeSpec) for item in shape.values())


class TestSlidingWindow:
    def test_one_window_as_large_as_the_image_is_whole_image_prediction(self, tiny_config):
        whole = build_model(tiny_config).eval()
        tiny_config.TEST.SLIDING_WINDOW.ENABLED = True
        tiny_config.TEST.SLIDING_WINDOW.SIZE = [128, 128]
        tiny_config.TEST.SLIDING_WINDOW.STRIDE = [128, 128]
        windows = build_model(tiny_config).eval()
        windows.load_state_dict(whole.state_dict())
        inputs = batch((128, 128), (128, 128), (50, 70))
        with torch.no_grad():
            for image in inputs:
                expected = whole([image])[0]["sem_seg"]
                torch.testing.assert_close(windows([image])[0]["sem_seg"], expected)

    def test_images_of_a_batch_do_not_mix(self, tiny_config):
        tiny_config.TEST.SLIDING_WINDOW.ENABLED = True
        tiny_config.TEST.SLIDING_WINDOW.SIZE = [64, 64]
        tiny_config.TEST.SLIDING_WINDOW.STRIDE = [40, 40]
        model = build_model(tiny_config).eval()
        inputs = batch((100, 90), (30, 130))
        with torch.no_grad():
            together = model(inputs)
            for image, output in zip(inputs, together):
                assert output["sem_seg"].shape == (5, *image["image"].shape[-2:])
                torch.testing.assert_close(model([image])[0]["sem_seg"], output["sem_seg"])

    def test_training_sees_whole_crops(self, tiny_config):
        tiny_config.TEST.SLIDING_WINDOW.ENABLED = True
        assert set(build_model(tiny_config)(batch((64, 96)))) == LOSSES["ContextAwareSegmentor"]
