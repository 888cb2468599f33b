"""The meta-architectures, around this project's heads and Detectron2's."""

import pytest
import torch
from segmentor_cases import CLASSIFIERS, LOSSES, batch

from d2_ctxseg.utils.errors import UserError
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_model


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

    def test_predictions_have_the_size_requested(self, cfg):
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
    def test_unknown_feature_map_lists_the_known_ones(self, tiny_config):
        tiny_config.MODEL.AUXILIARY_HEAD.ENABLED = True
        tiny_config.MODEL.AUXILIARY_HEAD.IN_FEATURE = "res6"
        with pytest.raises(UserError, match="no 'res6'; it has res0, res1"):
            build_model(tiny_config)


def test_backbones_of_detectron2_say_their_shape_as_ours_do(tiny_config):
    shape = build_model(tiny_config).backbone.output_shape()
    assert all(isinstance(item, ShapeSpec) for item in shape.values())
