"""Meta-architectures: any backbone, any head that keeps the contract, and a classifier."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detectron2.config import configurable
from detectron2.modeling import META_ARCH_REGISTRY, Backbone, build_backbone
from detectron2.structures import ImageList

from ..classifiers import (
    ContextAwareClassifier,
    ExplicitClassClassifier,
    FeatureBankClassifier,
    GaussianMixtureClassifier,
    LearnedPrototypeClassifier,
    LinearClassifier,
    PixelClassifier,
    PrototypeClassifier,
    SemanticSpatialClassifier,
)
from ..data.descriptions import register_what_there_is
from ..data.registration import NEEDS_MAPPER
from ..utils.errors import UserError, suggest
from .build_classifier import build_classifier, choose_classifier
from .build_pixel_loss import build_pixel_loss, set_pixel_loss
from .heads import AuxiliaryFCNHead, take_predictor
from .heads.adapter import HeadAdapter, build_head
from .heads.layers import resize
from .inference.scores import Logits, Resized, Scores
from .inference.sliding_window import SlidingWindow, sliding_window_scores
from .padding import feature_sizes, sizes_if_padded

# From images and their sizes without padding to maps in the resolution of the head.
LowResolution = Callable[[Tensor, Sequence[tuple[int, int]] | None], Tensor]


@META_ARCH_REGISTRY.register()
class PixelClassifierSegmentor(nn.Module):
    """Backbone, head and classifier; input and output as Detectron2's SemanticSegmentor.

    The config chooses the classifier with MODEL.CLASSIFIER.NAME. A subclass may fix it; then
    MODEL.CLASSIFIER.NAME must be empty or name the same class.

    Args:
        backbone: maps images to feature maps.
        sem_seg_head: maps feature maps to pixel features, without its predictor; without a
            classifier, a head that classifies by itself.
        classifier: maps pixel features to class scores and losses; or None.
        auxiliary_head: a head whose losses are added in training; or None.
        sliding_window: predicts in windows; None: predicts whole images.
        pad_test_images: whether images and windows are padded to the backbone's
            ``size_divisibility`` at test time, as in Detectron2. False: they are predicted one by
            one, in their own size.
        pixel_mean: mean of each channel, subtracted from the image.
        pixel_std: standard deviation of each channel, by which the image is divided.
    """

    #: The class of the classifier; None: the config names it.
    classifier_class: ClassVar[type[PixelClassifier] | None] = None
    #: Whether a head that classifies by itself is used without a classifier.
    keeps_whole_heads: ClassVar[bool] = False
    training_only: ClassVar[tuple[str, ...]] = ("auxiliary_head",)

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        sem_seg_head: nn.Module,
        classifier: PixelClassifier | None,
        auxiliary_head: nn.Module | None = None,
        sliding_window: SlidingWindow | None = None,
        pad_test_images: bool = True,
        pixel_mean: tuple[float, ...],
        pixel_std: tuple[float, ...],
    ):
        super().__init__()
        self.backbone = backbone
        self.sem_seg_head = sem_seg_head
        self.classifier = classifier
        self.auxiliary_head = auxiliary_head
        self.sliding_window = sliding_window
        self.pad_test_images = pad_test_images
        predicting = classifier or self.head
        self.ignore_label = predicting.ignore_label
        self.align_corners = predicting.align_corners
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), False)

    @classmethod
    def from_config(cls, cfg):
        # Detectron2's DefaultPredictor and DefaultTrainer build the model first.
        register_what_there_is(cfg)
        backbone = build_backbone(cfg)
        shape = backbone.output_shape()
        head = build_head(cfg, shape)
        classifier = cls._build_classifier(cfg, head)
        auxiliary_head = _build_auxiliary_head(cfg, shape)
        set_pixel_loss(build_pixel_loss(cfg, head), head, classifier, auxiliary_head)
        return {
            "backbone": backbone,
            "sem_seg_head": head,
            "classifier": classifier,
            "auxiliary_head": auxiliary_head,
            "sliding_window": SlidingWindow.from_config(cfg),
            "pad_test_images": cfg.TEST.PAD,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
        }

    @classmethod
    def _build_classifier(cls, cfg, head: nn.Module) -> PixelClassifier | None:
        classifier_class = choose_classifier(cfg, cls.classifier_class)
        if cls.keeps_whole_heads and HeadAdapter(head).classifies_by_itself:
            return None
        return build_classifier(cfg, take_predictor(head), classifier_class)

    @property
    def head(self) -> HeadAdapter:
        """The head behind the common interface of all heads."""
        return HeadAdapter(self.sem_seg_head)

    @property
    def device(self) -> torch.device:
        """The device of the model."""
        return self.pixel_mean.device

    def forward(self, batched_inputs: list[dict]) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """Losses in training, predictions otherwise.

        Args:
            batched_inputs: one dict per image: "image" (C, H, W) in the format of INPUT.FORMAT;
                in training "sem_seg", labels (H, W) integer; at test time "height" and "width",
                the size of the prediction (default: that of the image).

        Returns:
            In training a dict of scalars. Otherwise one dict per image with "sem_seg", logits
            (K, height, width).
        """
        if self.training:
            _refuse_misread_labels(batched_inputs)
            images = self.normalized_images(batched_inputs)
            labels = self.padded_labels(batched_inputs, images.tensor.shape[-2:])
            return self.losses(images.tensor, labels, sizes_if_padded(images))
        return [{"sem_seg": scores.tensor()} for scores in self._scores(batched_inputs)]

    @torch.no_grad()
    def image_scores(self, batched_inputs: list[dict]) -> Iterator[Scores]:
        """The scores (K, height, width) of each image, which can be computed in bands of rows.

        Args:
            batched_inputs: the inputs at test time, see :meth:`forward`.
        """
        yield from self._scores(batched_inputs)

    @torch.no_grad()
    def image_anomalies(self, batched_inputs: list[dict]) -> Iterator[Scores]:
        """The classifier's anomaly scores (1, height, width) of each image.

        They are interpolated, and averaged over windows, as scores of classes are.

        Args:
            batched_inputs: the inputs at test time, see :meth:`forward`.
        """
        yield from self._scores(batched_inputs, self.low_resolution_anomalies)

    def _scores(
        self, batched_inputs: list[dict], predict: LowResolution | None = None
    ) -> Iterator[Scores]:
        """What ``predict`` gives, by default the logits, for each image in its own size."""
        predict = predict or self.low_resolution_logits
        # Without padding, images of different sizes do not fit into one batch.
        batches = [batched_inputs] if self.pad_test_images else [[one] for one in batched_inputs]
        for batch in batches:
            yield from self._batch_scores(self.normalized_images(batch), batch, predict)

    def _batch_scores(
        self, images: ImageList, batched_inputs: list[dict], predict: LowResolution
    ) -> Iterator[Scores]:
        if self.sliding_window is None:
            of_images = self._whole_scores(images, predict)
        else:
            of_window = partial(self._window_scores, predict=predict)
            of_images = (
                sliding_window_scores(of_window, images[i], self.sliding_window)
                for i in range(len(images))
            )
        for scores, inputs in zip(of_images, batched_inputs):
            height, width = scores.shape[1:]
            size = inputs.get("height", height), inputs.get("width", width)
            yield scores if size == (height, width) else Resized(scores, size)

    def _window_scores(self, windows: Tensor, predict: LowResolution) -> Iterator[Scores]:
        """The scores (K, H, W) of each of the windows (B, C, H, W) of a normalised image."""
        return self._whole_scores(self._padded(list(windows)), predict)

    def _whole_scores(self, images: ImageList, predict: LowResolution) -> Iterator[Scores]:
        """The scores of each image without its padding."""
        padded_size = images.tensor.shape[-2:]
        try:
            batch = predict(images.tensor, sizes_if_padded(images))
        except (RuntimeError, AssertionError) as error:
            self._explain_missing_padding(error, padded_size)
            raise
        for logits, size in zip(batch, images.image_sizes):
            yield Resized(Logits(logits), padded_size, size, self.align_corners)

    def _explain_missing_padding(self, error: Exception, size: Sequence[int]) -> None:
        """Raise UserError where a model failed because it needs padding."""
        divisor = max(self.backbone.size_divisibility, 1)
        fits = all(side % divisor == 0 for side in size)
        if self.pad_test_images or fits or isinstance(error, torch.cuda.OutOfMemoryError):
            return
        raise UserError(
            f"TEST.PAD is False, but the model cannot predict an image of {size[0]} x {size[1]} "
            f"pixels ({error}). Set TEST.PAD to True, or INPUT.SIZE_DIVISIBILITY_TEST to {divisor}."
        ) from error

    def normalized_images(self, batched_inputs: list[dict]) -> ImageList:
        """The images of ``batched_inputs``, normalised and padded to one size."""
        images = [inputs["image"].to(self.device, non_blocking=True) for inputs in batched_inputs]
        return self._padded([(image - self.pixel_mean) / self.pixel_std for image in images])

    def _padded(self, images: list[Tensor]) -> ImageList:
        if not (self.training or self.pad_test_images):
            return ImageList.from_tensors(images)
        return ImageList.from_tensors(
            images,
            self.backbone.size_divisibility,
            padding_constraints=self.backbone.padding_constraints,
        )

    def padded_labels(self, batched_inputs: list[dict], size: torch.Size) -> Tensor:
        """Labels (B, H, W) int64, padded with the ignore label to the size of the images."""
        padded = []
        for inputs in batched_inputs:
            labels = inputs["sem_seg"].to(self.device, non_blocking=True).long()
            bottom, right = size[0] - labels.shape[0], size[1] - labels.shape[1]
            padded.append(F.pad(labels, (0, right, 0, bottom), value=self.ignore_label))
        return torch.stack(padded)

    def logits(
        self, images: Tensor, image_sizes: Sequence[tuple[int, int]] | None = None
    ) -> Tensor:
        """Normalised, padded images (B, C, H, W) to logits (B, K, H, W).

        Args:
            images: images with padding at the bottom and on the right.
            image_sizes: height and width of each image without its padding, or one entry for all
                images; None where nothing is padded.
        """
        logits = self.low_resolution_logits(images, image_sizes)
        return resize(logits, images.shape[-2:], self.align_corners)

    def low_resolution_logits(
        self, images: Tensor, image_sizes: Sequence[tuple[int, int]] | None = None
    ) -> Tensor:
        """As :meth:`logits`, but (B, K, h, w) in the resolution of the head."""
        features = self.backbone(images)
        if self.classifier is None:
            return self.head.class_scores(features)
        pixel_features, _ = self.head.pixel_features(features)
        return self.classifier(
            pixel_features, **self._valid_sizes(pixel_features, images, image_sizes)
        )

    def low_resolution_anomalies(
        self, images: Tensor, image_sizes: Sequence[tuple[int, int]] | None = None
    ) -> Tensor:
        """The classifier's anomaly scores (B, 1, h, w); arguments as of :meth:`logits`.

        Those of a head that classifies by itself, and of a classifier that has to know what is
        padding, are minus the largest logits.
        """
        if self.classifier is None or self.classifier.takes_sizes:
            return -self.low_resolution_logits(images, image_sizes).amax(dim=1, keepdim=True)
        pixel_features, _ = self.head.pixel_features(self.backbone(images))
        return self.classifier.anomaly_score(pixel_features)[:, None]

    def losses(
        self,
        images: Tensor,
        labels: Tensor,
        image_sizes: Sequence[tuple[int, int]] | None = None,
    ) -> dict[str, Tensor]:
        """The weighted losses of images, as :meth:`logits` takes them, and labels (B, H, W)."""
        features = self.backbone(images)
        if self.classifier is None:
            losses = self.head.losses(features, labels)
        else:
            pixel_features, head_losses = self.head.pixel_features(features, labels)
            sizes = self._valid_sizes(pixel_features, images, image_sizes)
            losses = self.classifier.losses(pixel_features, labels, **sizes)
            weight = self.head.loss_weight
            losses = {name: weight * loss for name, loss in losses.items()} | head_losses
        if self.auxiliary_head is not None:
            losses.update(self.auxiliary_head(features, labels)[1])
        return losses

    def _valid_sizes(
        self,
        features: Tensor,
        images: Tensor,
        image_sizes: Sequence[tuple[int, int]] | None,
    ) -> dict[str, Tensor]:
        """The argument ``sizes`` of a classifier that takes it, where an image is padded."""
        if image_sizes is None or not self.classifier.takes_sizes:
            return {}
        sizes = feature_sizes(image_sizes, images.shape[-2:], features.shape[-2:])
        return {"sizes": sizes.to(features.device, non_blocking=True)}


@META_ARCH_REGISTRY.register()
class LinearSegmentor(PixelClassifierSegmentor):
    """The baseline: the vanilla 1x1 convolution, built and trained like the other classifiers."""

    classifier_class = LinearClassifier


@META_ARCH_REGISTRY.register()
class ContextAwareSegmentor(PixelClassifierSegmentor):
    """The context-aware classifier (AAAI 2023); keys under MODEL.CLASSIFIER.CONTEXT_AWARE."""

    classifier_class = ContextAwareClassifier


@META_ARCH_REGISTRY.register()
class PrototypeSegmentor(PixelClassifierSegmentor):
    """Nonparametric prototypes (CVPR 2022); keys under MODEL.CLASSIFIER.PROTOTYPE."""

    classifier_class = PrototypeClassifier


@META_ARCH_REGISTRY.register()
class GaussianMixtureSegmentor(PixelClassifierSegmentor):
    """Gaussian mixtures (NeurIPS 2022); keys under MODEL.CLASSIFIER.GAUSSIAN_MIXTURE."""

    classifier_class = GaussianMixtureClassifier


@META_ARCH_REGISTRY.register()
class FeatureBankSegmentor(PixelClassifierSegmentor):
    """A bank of labelled pixels (NeurIPS 2023), untrained; MODEL.CLASSIFIER.FEATURE_BANK."""

    classifier_class = FeatureBankClassifier


@META_ARCH_REGISTRY.register()
class LearnedPrototypeSegmentor(PixelClassifierSegmentor):
    """Several learned vectors per class; keys under MODEL.CLASSIFIER.LEARNED_PROTOTYPE."""

    classifier_class = LearnedPrototypeClassifier


@META_ARCH_REGISTRY.register()
class SemanticSpatialSegmentor(PixelClassifierSegmentor):
    """SSA-Seg's classifier (NeurIPS 2024); keys under MODEL.CLASSIFIER.SEMANTIC_SPATIAL."""

    classifier_class = SemanticSpatialClassifier


@META_ARCH_REGISTRY.register()
class ExplicitClassSegmentor(PixelClassifierSegmentor):
    """Explicit class embeddings (ICCV 2023); keys under MODEL.CLASSIFIER.EXPLICIT_CLASS.

    A head with class embeddings of its own, ECEHead or SegViTHead, is used without a classifier.
    Any other head gets ExplicitClassClassifier.
    """

    classifier_class = ExplicitClassClassifier
    keeps_whole_heads = True


@META_ARCH_REGISTRY.register()
class WholeHeadSegmentor(PixelClassifierSegmentor):
    """A head that classifies by itself, ECEHead or SegViTHead, without a classifier."""

    @classmethod
    def _build_classifier(cls, cfg, head: nn.Module) -> None:
        if cfg.MODEL.CLASSIFIER.NAME:
            raise UserError(
                f"MODEL.META_ARCHITECTURE '{cls.__name__}' takes no classifier, but "
                f"MODEL.CLASSIFIER.NAME is '{cfg.MODEL.CLASSIFIER.NAME}'. Set it to '', or set "
                "MODEL.META_ARCHITECTURE to 'PixelClassifierSegmentor'."
            )
        if not HeadAdapter(head).classifies_by_itself:
            raise UserError(
                f"MODEL.META_ARCHITECTURE '{cls.__name__}' needs a head that classifies by itself, "
                f"such as SegViTHead or ECEHead; {type(head).__name__} does not. Choose another "
                "MODEL.SEM_SEG_HEAD.NAME, or a meta-architecture with a classifier, such as "
                "'LinearSegmentor'."
            )


def _build_auxiliary_head(cfg, input_shape) -> AuxiliaryFCNHead | None:
    options = cfg.MODEL.AUXILIARY_HEAD
    if not options.ENABLED:
        return None
    if options.IN_FEATURE not in input_shape:
        raise UserError(
            f"MODEL.AUXILIARY_HEAD.IN_FEATURE: the backbone has no '{options.IN_FEATURE}'; it has "
            f"{', '.join(input_shape)}.{suggest(options.IN_FEATURE, input_shape)}"
        )
    return AuxiliaryFCNHead(
        input_shape,
        in_feature=options.IN_FEATURE,
        channels=options.CHANNELS,
        num_convs=options.NUM_CONVS,
        dropout=options.DROPOUT,
        num_classes=cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES,
        loss_weight=options.LOSS_WEIGHT,
        ignore_value=cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE,
        align_corners=cfg.MODEL.CLASSIFIER.ALIGN_CORNERS,
    )


def _refuse_misread_labels(batched_inputs: list[dict]) -> None:
    """Refuse inputs of Detectron2's DatasetMapper whose labels it has misread."""
    for inputs in batched_inputs:
        if NEEDS_MAPPER in inputs:
            raise UserError(
                f"The labels of '{inputs.get('dataset_name')}' were read by Detectron2's "
                f"DatasetMapper, which misreads them: {inputs[NEEDS_MAPPER]}. Train with "
                "d2_ctxseg.engine.Trainer, or give the loader this project's mapper: "
                "build_detection_train_loader(cfg, mapper=SemanticSegmentorMapper(cfg, True)) of "
                "d2_ctxseg.data."
            )
