"""User-defined heads and Detectron2's behind the common interface."""

import pytest
import torch
from torch import nn

from d2_ctxseg.modeling.heads.adapter import HeadAdapter, adapt_detectron2_head, build_head
from d2_ctxseg.utils.errors import UserError
from detectron2.layers import ShapeSpec
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY, build_model


@SEM_SEG_HEADS_REGISTRY.register()
class PlainTestHead(nn.Module):
    """A user-defined head with the four required members."""

    def __init__(self, cfg, input_shape: dict[str, ShapeSpec]):
        super().__init__()
        if cfg.MODEL.SEM_SEG_HEAD.LOSS_TYPE not in ("cross_entropy", "hard_pixel_mining"):
            # The message of Detectron2's DeepLab heads.
            raise ValueError(f"Unexpected loss type: {cfg.MODEL.SEM_SEG_HEAD.LOSS_TYPE}")
        shape = input_shape["res5"]
        self.common_stride = shape.stride
        self.ignore_value = 255
        self.conv = nn.Conv2d(shape.channels, 8, kernel_size=1)
        self.predictor = nn.Conv2d(8, cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES, kernel_size=1)

    def layers(self, features):
        """Feature maps to logits."""
        return self.predictor(self.conv(features["res5"]))


@SEM_SEG_HEADS_REGISTRY.register()
class DeepTestHead(PlainTestHead):
    """A head with a loss besides that of its prediction."""

    loss_weight = 0.5

    def training_layers(self, features, labels):
        """Feature maps to logits and the additional loss."""
        return self.layers(features), {"loss_way": self.conv.weight.mean() * labels.shape[0]}


def batch():
    images = torch.randint(0, 255, (2, 3, 64, 64), dtype=torch.uint8)
    return [{"image": image, "sem_seg": torch.randint(0, 5, (64, 64))} for image in images]


class TestUsersHeads:
    def test_the_four_members_are_enough(self, tiny_config):
        tiny_config.MODEL.SEM_SEG_HEAD.NAME = "PlainTestHead"
        model = build_model(tiny_config)
        assert {"loss_sem_seg", "loss_kl"} < set(model(batch()))
        assert model.eval()(batch())[0]["sem_seg"].shape == (5, 64, 64)
        keys = [key for key in model.state_dict() if key.startswith("sem_seg_head")]
        assert keys == ["sem_seg_head.conv.weight", "sem_seg_head.conv.bias"]

    def test_additional_losses_and_the_loss_weight_are_applied(self, tiny_config):
        tiny_config.MODEL.META_ARCHITECTURE = "LinearSegmentor"
        tiny_config.MODEL.CLASSIFIER.DROPOUT = 0.0
        tiny_config.MODEL.SEM_SEG_HEAD.NAME = "DeepTestHead"
        deep = build_model(tiny_config)
        tiny_config.MODEL.SEM_SEG_HEAD.NAME = "PlainTestHead"
        plain = build_model(tiny_config)
        plain.load_state_dict(deep.state_dict())
        inputs = batch()
        losses = deep(inputs)
        assert set(losses) == {"loss_sem_seg", "loss_way"}
        torch.testing.assert_close(losses["loss_sem_seg"], 0.5 * plain(inputs)["loss_sem_seg"])
        torch.testing.assert_close(losses["loss_way"], 2 * deep.sem_seg_head.conv.weight.mean())

    def test_a_head_that_is_exchanged_later_is_used(self, tiny_config):
        tiny_config.MODEL.SEM_SEG_HEAD.NAME = "PlainTestHead"
        model = build_model(tiny_config).eval()
        other = build_model(tiny_config).sem_seg_head
        model.sem_seg_head = other
        assert model.head.head is other

    def test_a_head_without_any_of_its_feature_maps_is_explained(self, tiny_config, monkeypatch):
        """Detectron2's heads fail with "max() arg is an empty sequence"."""

        def fail(self, cfg, input_shape):
            raise ValueError("max() arg is an empty sequence")

        monkeypatch.setattr(PlainTestHead, "__init__", fail)
        tiny_config.MODEL.SEM_SEG_HEAD.NAME = "PlainTestHead"
        shapes = {"res5": ShapeSpec(channels=4, stride=32)}
        with pytest.raises(UserError, match=r"IN_FEATURES is .*p2.*, but the backbone has res5"):
            build_head(tiny_config, shapes)
        tiny_config.MODEL.SEM_SEG_HEAD.IN_FEATURES = ["res5"]
        with pytest.raises(ValueError, match="empty sequence"):
            build_head(tiny_config, shapes)

    def test_an_unknown_loss_type_is_refused_where_it_is_read(self, tiny_config):
        tiny_config.MODEL.SEM_SEG_HEAD.LOSS_TYPE = "focal"
        build_model(tiny_config)  # SMPDecoderHead does not read it
        tiny_config.MODEL.SEM_SEG_HEAD.NAME = "PlainTestHead"
        with pytest.raises(UserError, match="LOSS_TYPE is 'focal', expected one of cross_entropy"):
            build_head(tiny_config, {"res5": ShapeSpec(channels=4, stride=32)})


class TestNorm:
    """This project's heads have the normalisation of their papers."""

    @pytest.mark.parametrize(("norm", "warns"), [("GN", False), ("BN", False), ("SyncBN", True)])
    def test_only_a_value_that_somebody_chose_is_warned_of(self, tiny_config, caplog, norm, warns):
        tiny_config.MODEL.SEM_SEG_HEAD.NAME = "FCNHead"
        tiny_config.MODEL.SEM_SEG_HEAD.NORM = norm
        head = build_head(tiny_config, {"res5": ShapeSpec(channels=4, stride=32)})
        assert isinstance(head.convs[1], nn.BatchNorm2d)
        assert ("NORM 'SyncBN' has no effect: FCNHead" in caplog.text) == warns


class TestDetectron2sHeads:
    def test_deeplab_v3_gets_layers(self):
        class DeepLabV3Head(nn.Module):
            in_features = ("res5",)
            aspp, predictor = nn.Identity(), nn.Identity()
            ignore_value, loss_weight = 255, 1.0

        head = HeadAdapter(adapt_detectron2_head(DeepLabV3Head()))
        features = torch.randn(1, 2, 3, 3)
        assert head.pixel_features({"res5": features}) == (features, {})
        assert not head.classifies_by_itself

    def test_pointrend_is_reduced_to_its_coarse_head(self, caplog):
        head = nn.Module()
        head.coarse_sem_seg_head = nn.Identity()
        assert adapt_detectron2_head(head) is head.coarse_sem_seg_head
        assert "points are not refined" in caplog.text
