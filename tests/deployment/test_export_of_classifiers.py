"""Classifiers leave PyTorch: torch.export, ONNX and onnxruntime give what eager mode gives."""

import pytest
import torch

from d2_ctxseg.checkpoint import strip_training_only
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


def prototypes_with_projection(in_channels, num_classes):
    return PrototypeClassifier(in_channels, num_classes, projection=True, distance="euclidean")


def learned_prototypes_with_a_sum(in_channels, num_classes):
    return LearnedPrototypeClassifier(in_channels, num_classes, score="logsumexp")


def stripped_mixtures(in_channels, num_classes):
    classifier = GaussianMixtureClassifier(in_channels, num_classes)
    strip_training_only(classifier)
    classifier.scales.fill_(0.3)
    return classifier


def mixtures_by_gradient(in_channels, num_classes):
    options = {"class_score": "logsumexp", "learning": "gradient"}
    return GaussianMixtureClassifier(in_channels, num_classes, **options)


def filled_bank(in_channels, num_classes):
    classifier = FeatureBankClassifier(in_channels, num_classes)
    shares = torch.rand(50, num_classes).softmax(dim=1)
    classifier.fill(torch.randn(50, in_channels), shares, torch.rand(50) + 0.1)
    return classifier


def stripped_context_aware(in_channels, num_classes):
    classifier = ContextAwareClassifier(in_channels, num_classes)
    strip_training_only(classifier)
    return classifier


def stripped_semantic_spatial(in_channels, num_classes):
    classifier = SemanticSpatialClassifier(in_channels, num_classes)
    strip_training_only(classifier)
    return classifier


@pytest.mark.parametrize(
    "build",
    [
        LinearClassifier,
        ContextAwareClassifier,
        stripped_context_aware,
        PrototypeClassifier,
        prototypes_with_projection,
        LearnedPrototypeClassifier,
        learned_prototypes_with_a_sum,
        ExplicitClassClassifier,
        GaussianMixtureClassifier,
        stripped_mixtures,
        mixtures_by_gradient,
        filled_bank,
        SemanticSpatialClassifier,
        stripped_semantic_spatial,
    ],
)
class TestExport:
    @pytest.fixture
    def classifier(self, build):
        classifier = build(16, 5)
        for parameter in classifier.parameters():
            # Away from initial scores that are nearly equal, whatever goes in.
            torch.nn.init.normal_(parameter, std=0.5)
        return classifier.eval()

    features = torch.randn(2, 16, 7, 9, generator=torch.Generator().manual_seed(3))

    def test_torch_export(self, classifier):
        program = torch.export.export(classifier, (self.features,))
        with torch.no_grad():
            expected = classifier(self.features)
            other = torch.randn(2, 16, 7, 9)
            torch.testing.assert_close(program.module()(self.features), expected)
            torch.testing.assert_close(program.module()(other), classifier(other))

    def test_onnx(self, classifier, tmp_path):
        onnxruntime = pytest.importorskip("onnxruntime")
        pytest.importorskip("onnxscript")
        path = str(tmp_path / "classifier.onnx")
        torch.onnx.export(classifier, (self.features,), path, dynamo=True, verbose=False)
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        (logits,) = session.run(None, {session.get_inputs()[0].name: self.features.numpy()})
        with torch.no_grad():
            expected = classifier(self.features)
        torch.testing.assert_close(torch.from_numpy(logits), expected, atol=1e-4, rtol=1e-4)
