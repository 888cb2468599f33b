"""Prediction and losses never wait for the device: nothing is fetched, no size depends on data."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from d2_ctxseg.classifiers import (
    ContextAwareClassifier,
    ExplicitClassClassifier,
    FeatureBankClassifier,
    GaussianMixtureClassifier,
    LearnedPrototypeClassifier,
    LinearClassifier,
    PrototypeClassifier,
    SemanticSpatialClassifier,
)
from d2_ctxseg.losses import PixelLoss
from d2_ctxseg.modeling import ECEHead, SegViTHead
from detectron2.layers import ShapeSpec

WAITING = (
    "_local_scalar_dense",
    "nonzero",
    "masked_select",
    "unique",
    "_unique2",
    "equal",
    "is_nonzero",
)


class RefuseToWait(TorchDispatchMode):
    """Raises where an operation would make the host wait for a GPU."""

    def __torch_dispatch__(self, function, types, arguments=(), kwargs=None):
        name = function.overloadpacket.__name__
        indices = arguments[1] if name in ("index", "index_put_") else ()
        by_mask = any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in indices)
        assert name not in WAITING and not by_mask, f"{name} waits for the device"
        return function(*arguments, **(kwargs or {}))


@pytest.mark.parametrize(
    "build",
    [
        LinearClassifier,
        ContextAwareClassifier,
        lambda *sizes: ContextAwareClassifier(*sizes, oracle_context="image", similarity="dot"),
        PrototypeClassifier,
        lambda *sizes: PrototypeClassifier(*sizes, distance="huber", projection=True),
        LearnedPrototypeClassifier,
        lambda *sizes: LearnedPrototypeClassifier(*sizes, score="logsumexp"),
        ExplicitClassClassifier,
        GaussianMixtureClassifier,
        lambda *sizes: GaussianMixtureClassifier(*sizes, e_step="posterior", memory_size=0),
        lambda *sizes: GaussianMixtureClassifier(*sizes, class_score="logsumexp"),
        lambda *sizes: GaussianMixtureClassifier(*sizes, learning="gradient"),
        SemanticSpatialClassifier,
        lambda *sizes: SemanticSpatialClassifier(*sizes, boundary="neighbours", boundary_frame=0),
    ],
)
def test_classifiers(build):
    classifier = build(16, 5)
    features = torch.randn(2, 16, 6, 6, requires_grad=True)
    labels = torch.randint(0, 5, (2, 24, 24))
    with RefuseToWait():
        sum(classifier.losses(features, labels).values()).backward()
        classifier.eval()(features)


def test_a_feature_bank():
    """It has no losses."""
    classifier, features = FeatureBankClassifier(16, 5).eval(), torch.randn(2, 16, 6, 6)
    with RefuseToWait():
        classifier(features)
        classifier.anomaly_score(features)


@pytest.mark.parametrize("label_size", [6, 24])
def test_pixel_loss_with_every_option(label_size):
    loss = PixelLoss(
        class_weights=[1.0, 2.0, 0.0, 1.0, 3.0],
        label_smoothing=0.1,
        hard_pixel_share=0.2,
        hard_pixel_threshold=0.7,
    )
    logits = torch.randn(2, 5, 6, 6, requires_grad=True)
    labels = torch.randint(0, 5, (2, label_size, label_size))
    with RefuseToWait():
        loss(logits, labels).backward()


@pytest.mark.parametrize("head", ["ece", "learned", "explicit"])
def test_heads(head):
    shapes = {f"res{i + 2}": ShapeSpec(channels=8, stride=4 << i) for i in range(4)}
    if head == "ece":
        head = ECEHead((8, 8, 8, 8), 5, channels=16)
    else:
        head = SegViTHead(shapes, num_classes=5, channels=24, num_heads=2, class_embeddings=head)
    features = {
        name: torch.randn(2, 8, 64 // s.stride, 64 // s.stride) for name, s in shapes.items()
    }
    labels = torch.randint(0, 5, (2, 64, 64))
    with RefuseToWait():
        sum(head.all_losses(features, labels).values()).backward()
        head.eval()(features)


def test_what_waits_is_found():
    with pytest.raises(AssertionError, match="waits for the device"), RefuseToWait():
        torch.ones(3)[torch.tensor([True, False, True])]
    with pytest.raises(AssertionError, match="waits for the device"), RefuseToWait():
        torch.ones(1).item()
