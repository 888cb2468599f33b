"""Which classifier a config asks for, and the options that it gives to it."""

import pytest
import torch
from segmentor_cases import CLASSIFIERS, batch

from d2_ctxseg.classifiers import CLASSIFIER_REGISTRY, ContextAwareClassifier, LinearClassifier
from d2_ctxseg.utils.errors import UserError
from detectron2.modeling import build_model


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
            ("OPTIONS", ["dropout"], "has 1 entry, expected pairs"),
        ],
    )
    def test_mistyped_names_are_reported_with_the_nearest(self, cfg, key, value, message):
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
    @pytest.mark.parametrize("meta_architecture", CLASSIFIERS)
    def test_a_name_that_disagrees_with_the_meta_architecture_is_an_error(
        self, tiny_config, meta_architecture
    ):
        tiny_config.MODEL.META_ARCHITECTURE = meta_architecture
        tiny_config.MODEL.CLASSIFIER.NAME = "ScaledClassifier"
        own = CLASSIFIERS[meta_architecture].__name__
        message = f"'{meta_architecture}' has the classifier '{own}', but .*'ScaledClassifier'"
        with pytest.raises(UserError, match=message):
            build_model(tiny_config)

    @pytest.mark.parametrize("meta_architecture", CLASSIFIERS)
    def test_a_name_that_agrees_is_fine(self, tiny_config, meta_architecture):
        tiny_config.MODEL.META_ARCHITECTURE = meta_architecture
        tiny_config.MODEL.CLASSIFIER.NAME = CLASSIFIERS[meta_architecture].__name__
        assert type(build_model(tiny_config).classifier) is CLASSIFIERS[meta_architecture]

    def test_no_name_lists_the_known_ones(self, tiny_config):
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
