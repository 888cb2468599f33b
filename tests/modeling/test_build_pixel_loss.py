"""MODEL.PIXEL_LOSS reaches every classifier and every head."""

import logging

import pytest
import torch
from torch import nn

from d2_ctxseg.losses import PixelLoss
from d2_ctxseg.modeling.build_pixel_loss import build_pixel_loss, share_of_head
from d2_ctxseg.utils.errors import UserError
from detectron2.modeling import build_model


def batch(num_classes=5):
    return [
        {
            "image": torch.randint(0, 255, (3, 64, 64), dtype=torch.uint8),
            "sem_seg": torch.randint(0, num_classes, (64, 64)),
        }
        for _ in range(2)
    ]


class TestEveryPartOfAModel:
    def assert_uses_the_one(self, cfg, calls):
        """One object in all parts, called ``calls`` times, and once more in the auxiliary head."""
        cfg.MODEL.AUXILIARY_HEAD.ENABLED = True
        cfg.MODEL.PIXEL_LOSS.CLASS_WEIGHTS = [1.0, 2.0, 0.5, 1.0, 3.0]
        cfg.MODEL.PIXEL_LOSS.LABEL_SMOOTHING = 0.1
        cfg.MODEL.PIXEL_LOSS.HARD_PIXEL_SHARE = 0.5
        model = build_model(cfg)
        found = [module for module in model.modules() if isinstance(module, PixelLoss)]
        assert len(found) == 1  # modules() names a shared one once
        (loss,) = found
        assert loss.class_weights.tolist() == [1.0, 2.0, 0.5, 1.0, 3.0]
        assert (loss.label_smoothing, loss.hard_pixel_share) == (0.1, 0.5)
        assert not any("class_weights" in key for key in model.state_dict())
        count = []
        loss.register_forward_hook(lambda *_: count.append(1))
        losses = model(batch())
        assert len(count) == calls + 1
        sum(losses.values()).backward()

    @pytest.mark.parametrize(
        ("meta_architecture", "calls"),
        [
            ("LinearSegmentor", 1),
            ("ContextAwareSegmentor", 3),
            ("SemanticSpatialSegmentor", 3),
            ("PrototypeSegmentor", 1),
            ("LearnedPrototypeSegmentor", 1),
            ("ExplicitClassSegmentor", 1),
            ("GaussianMixtureSegmentor", 1),
        ],
    )
    def test_of_every_classifier(self, tiny_config, meta_architecture, calls):
        tiny_config.MODEL.META_ARCHITECTURE = meta_architecture
        self.assert_uses_the_one(tiny_config, calls)

    @pytest.mark.parametrize(
        ("head", "calls"),
        [
            ("FCNHead", 1),
            ("UPerHead", 1),
            ("PSPHead", 1),
            ("DepthwiseSeparableASPPHead", 1),
            ("OCRHead", 2),  # and its coarse prediction
            ("ECEHead", 1),
        ],
    )
    def test_of_every_head(self, tiny_config, head, calls):
        tiny_config.MODEL.META_ARCHITECTURE = "LinearSegmentor"
        if head == "ECEHead":  # its own loss, where it is left whole
            tiny_config.MODEL.META_ARCHITECTURE = "ExplicitClassSegmentor"
        tiny_config.MODEL.SEM_SEG_HEAD.NAME = head
        for node in ("FCN", "UPER", "PSP", "ASPP", "OCR", "ECE"):
            tiny_config.MODEL[f"{node}_HEAD"].CHANNELS = 32
        tiny_config.MODEL.OCR_HEAD.KEY_CHANNELS = 16
        self.assert_uses_the_one(tiny_config, calls)

    def test_refers_to_the_keys_of_labels_and_interpolation(self, tiny_config):
        tiny_config.MODEL.SEM_SEG_HEAD.IGNORE_VALUE = 7
        tiny_config.MODEL.CLASSIFIER.ALIGN_CORNERS = True
        loss = build_model(tiny_config).classifier.pixel_loss
        assert (loss.ignore_label, loss.align_corners) == (7, True)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("CLASS_WEIGHTS", [1.0, 2.0], "CLASS_WEIGHTS has 2 numbers, expected .* there are 5"),
        ("CLASS_WEIGHTS", [1.0, 2.0, -1.0, 1.0, 1.0], "weight of class 2 is -1.0, expected"),
        ("CLASS_WEIGHTS", "balance", "is 'balance', expected a list .*'balanced'"),
        ("CLASS_WEIGHTS", [1.0, "a", 1.0, 1.0, 1.0], "MODEL.PIXEL_LOSS: "),
        ("HARD_PIXEL_SHARE", 0.0, "MODEL.PIXEL_LOSS: hard_pixel_share is 0.0, expected"),
        ("HARD_PIXEL_SHARE", 1.1, "MODEL.PIXEL_LOSS: hard_pixel_share is 1.1, expected"),
        ("LABEL_SMOOTHING", 1.0, "MODEL.PIXEL_LOSS: label_smoothing is 1.0, expected"),
    ],
)
def test_wrong_values_are_named_with_their_key(tiny_config, key, value, message):
    tiny_config.MODEL.PIXEL_LOSS[key] = value
    with pytest.raises(UserError, match=message):
        build_model(tiny_config)


def test_an_empty_list_of_weights_is_none(tiny_config):
    tiny_config.MODEL.PIXEL_LOSS.CLASS_WEIGHTS = []
    assert build_model(tiny_config).classifier.pixel_loss.class_weights is None


def test_balanced_weights_that_are_not_known_predict_but_do_not_train(tiny_config):
    tiny_config.MODEL.PIXEL_LOSS.CLASS_WEIGHTS = "balanced"
    model = build_model(tiny_config)
    with pytest.raises(UserError, match="balance_classes"):
        model(batch())
    assert model.eval()(batch())[0]["sem_seg"].shape == (5, 64, 64)


class DeepLabCE(nn.Module):
    """As much of Detectron2's as its heads show."""

    top_k_percent_pixels = 0.2


class HeadWithLoss(nn.Module):
    """A head with an attribute ``loss``, as in Detectron2's DeepLab heads."""

    def __init__(self, loss):
        super().__init__()
        self.loss = loss


class TestRecipeOfTheHead:
    def test_deeplabs_hard_pixels_carry_over_and_the_log_is_reported(self, tiny_config, caplog):
        with caplog.at_level(logging.INFO):
            loss = build_pixel_loss(tiny_config, HeadWithLoss(DeepLabCE()))
        assert loss.hard_pixel_share == 0.2
        assert "HeadWithLoss trains on hard pixels" in caplog.text

    @pytest.mark.parametrize("share", [0.5, 1.0])
    def test_the_config_has_the_last_word(self, tiny_config, share):
        tiny_config.MODEL.PIXEL_LOSS.HARD_PIXEL_SHARE = share
        loss = build_pixel_loss(tiny_config, HeadWithLoss(DeepLabCE()))
        assert loss.hard_pixel_share == share

    def test_plain_cross_entropy_is_taken_without_a_word(self, tiny_config, caplog):
        loss = build_pixel_loss(tiny_config, HeadWithLoss(nn.CrossEntropyLoss()))
        assert loss.hard_pixel_share == 1.0 and not caplog.text

    def test_another_loss_of_the_head_is_left_out_and_the_log_is_reported(self, caplog):
        assert share_of_head(HeadWithLoss(nn.MSELoss())) == 1.0
        assert "has a loss of its own, MSELoss" in caplog.text

    def test_the_default_loss_type_is_for_deeplabs_heads_only(self, tiny_config):
        assert tiny_config.MODEL.SEM_SEG_HEAD.LOSS_TYPE == "hard_pixel_mining"
        assert build_model(tiny_config).classifier.pixel_loss.hard_pixel_share == 1.0
