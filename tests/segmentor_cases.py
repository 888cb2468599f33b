"""What tests of whole segmentors share: each classifier with its losses, and random inputs."""

import torch

from d2_ctxseg.classifiers import (
    ContextAwareClassifier,
    ExplicitClassClassifier,
    GaussianMixtureClassifier,
    LearnedPrototypeClassifier,
    LinearClassifier,
    PrototypeClassifier,
    SemanticSpatialClassifier,
)

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

#: Without losses: a bank of features is filled, not trained.
NOT_TRAINED = ("FeatureBankClassifier", "FeatureBankSegmentor")


def batch(*sizes, num_classes=5):
    """One image of random pixels and labels for each (height, width)."""
    return [
        {
            "image": torch.randint(0, 255, (3, *size), dtype=torch.uint8),
            "sem_seg": torch.randint(0, num_classes, size),
        }
        for size in sizes
    ]


class PixelValueModel(torch.nn.Module):
    """The class scores are the pixel's values, so that augmentation must be undone exactly."""

    def forward(self, batched_inputs):
        outputs = []
        for inputs in batched_inputs:
            size = (inputs["height"], inputs["width"])
            scores = torch.nn.functional.interpolate(inputs["image"][None].float(), size)[0]
            outputs.append({"sem_seg": scores})
        return outputs
