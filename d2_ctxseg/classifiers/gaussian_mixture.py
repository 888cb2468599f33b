"""Gaussian mixtures over pixel embeddings, one per class, fitted and not trained by gradient.

Liang et al., "GMMSeg: Gaussian Mixture based Generative Semantic Segmentation Models", NeurIPS 2022
(arXiv 2210.02025). ``mixture_density.py`` computes the densities, ``mixture_estimation.py`` fits
the mixtures.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..losses.checks import check_choice, check_positive
from ..losses.functional import mean_where, resize_labels, unit_length
from ..losses.precision import at_least_float32, without_autocast
from .base import CLASSIFIER_REGISTRY, PixelClassifier, pixels_as_map
from .chunked_similarity import chunked_class_scores, chunked_prototype_similarity
from .clustering import reduction_over_workers
from .mixture_density import (
    CLASS_SCORES,
    Densities,
    class_log_density,
    density_features,
    density_weights,
    mixture_densities,
)
from .mixture_estimation import (
    COVARIANCES,
    E_STEPS,
    ComponentMemory,
    MemberPixels,
    fit_components,
    log_responsibilities,
    sample_components,
    scales_of,
)
from .prototype_similarity import contrast

LEARNING = ("em", "gradient")
DIVISORS = ("labelled", "all")


@CLASSIFIER_REGISTRY.register()
class GaussianMixtureClassifier(PixelClassifier):
    """Assigns each pixel to the class whose mixture of Gaussians has the highest density at it.

    Every class has M Gaussians with diagonal covariance and equal weights, and all classes have the
    same prior. In training the Gaussians are fitted by online expectation maximisation to a memory
    of correctly classified embeddings. The embedding is trained by cross-entropy of the densities.
    Means and scales are buffers, not parameters: saved in checkpoints, the same on all workers.

    Args:
        in_channels: channels C of the features.
        num_classes: number of classes K.
        num_components: components M of each class.
        embedding_channels: channels D of the embedding: the features after a 1x1 convolution
            without bias, BatchNorm and ReLU. Where D is C or None, the features themselves.
        memory_size: embeddings S that the memory holds per component, 4 K M D S bytes in all. 0:
            the mixtures are fitted to the pixels of one step. The authors' value is 32000;
            docs/classifiers/GAUSSIAN_MIXTURE.md explains the default.
        max_samples: largest number of pixels per component and step, evenly spaced; at most
            ``memory_size``.
        mean_momentum: weight of the old mean in an update, 0 to 1.
        scale_momentum: weight of the old standard deviation in an update, 0 to 1.
        refit_interval: the mixtures are fitted at steps 0, ``refit_interval``, ...; the memory is
            filled at each.
        class_score: "max" (the authors' code) or "logsumexp" (the paper) over the components.
        score_norm: whether the logits are the K scores after a LayerNorm.
        e_step: "sinkhorn", the most probable component by optimal transport (the authors' code);
            "sinkhorn_soft", all components, with the transport plan as weights (the paper); or
            "posterior", all, with the posterior probabilities as weights.
        sinkhorn_iterations: rounds of Sinkhorn-Knopp.
        sinkhorn_epsilon: strength of its entropy regularisation.
        covariance: "diagonal", "spherical" (one variance per component) or "fixed" (1).
        only_correct: whether the mixtures are fitted to correctly classified pixels only.
        learning: "em", or "gradient": means and scales are parameters, trained by the losses.
        sem_seg_divisor: ``loss_sem_seg`` is the mean over the "labelled" pixels, or their sum
            divided by the number of "all" pixels, as in the authors' code.
        ignore_label: label of ignored pixels.
        align_corners: how logits are interpolated to the size of the labels.
        dropout: probability of dropping a channel of the features in training.
        predictor: the head's 1x1 convolution; not used, the mixtures replace it.
        loss_weights: ``loss_weight_sem_seg`` (cross-entropy) and ``loss_weight_contrast``
            (cross-entropy of all K M components against the one that a pixel is assigned to); 0
            leaves a loss out.

    Raises:
        ValueError: an option is unknown or out of its range.
    """

    config_node = "GAUSSIAN_MIXTURE"
    default_loss_weights = {"sem_seg": 1.0, "contrast": 0.01}
    training_only = ("memory",)
    means: Tensor
    scales: Tensor
    memory: ComponentMemory | None
    log_scales: nn.Parameter | None

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        num_components: int = 5,
        embedding_channels: int | None = 64,
        memory_size: int = 1000,
        max_samples: int = 20,
        mean_momentum: float = 0.999,
        scale_momentum: float = 0.0,
        refit_interval: int = 5,
        class_score: str = "max",
        score_norm: bool = True,
        e_step: str = "sinkhorn",
        sinkhorn_iterations: int = 3,
        sinkhorn_epsilon: float = 0.05,
        covariance: str = "diagonal",
        only_correct: bool = True,
        learning: str = "em",
        sem_seg_divisor: str = "labelled",
        ignore_label: int = 255,
        align_corners: bool = False,
        dropout: float = 0.0,
        predictor: nn.Conv2d | None = None,
        **loss_weights: float,
    ):
        super().__init__(
            in_channels,
            num_classes,
            ignore_label=ignore_label,
            align_corners=align_corners,
            dropout=dropout,
            **loss_weights,
        )
        channels = in_channels if embedding_channels is None else embedding_channels
        check_choice("class_score", class_score, CLASS_SCORES)
        check_choice("e_step", e_step, E_STEPS)
        check_choice("covariance", covariance, COVARIANCES)
        check_choice("learning", learning, LEARNING)
        check_choice("sem_seg_divisor", sem_seg_divisor, DIVISORS)
        check_positive(
            num_components=num_components,
            embedding_channels=channels,
            max_samples=max_samples,
            refit_interval=refit_interval,
            sinkhorn_iterations=sinkhorn_iterations,
            sinkhorn_epsilon=sinkhorn_epsilon,
        )
        if memory_size < 0:
            raise ValueError(f"memory_size is {memory_size}, expected at least 0.")
        for name, momentum in (("mean", mean_momentum), ("scale", scale_momentum)):
            if not 0 <= momentum <= 1:
                raise ValueError(f"{name}_momentum is {momentum}, expected 0 to 1.")
        self.num_components = num_components
        self.max_samples = min(max_samples, memory_size) if memory_size else max_samples
        self.mean_momentum = mean_momentum
        self.scale_momentum = scale_momentum
        self.refit_interval = refit_interval
        self.class_score = class_score
        self.e_step = e_step
        self.sinkhorn_iterations = sinkhorn_iterations
        self.sinkhorn_epsilon = sinkhorn_epsilon
        self.covariance = covariance
        self.only_correct = only_correct
        self.learning = learning
        self.sem_seg_divisor = sem_seg_divisor
        has_projection = channels != in_channels
        self.projection = _projection(in_channels, channels) if has_projection else nn.Identity()
        self.feature_norm = nn.LayerNorm(channels)
        self.score_norm = nn.LayerNorm(num_classes) if score_norm else nn.Identity()
        # Distributed training fails on parameters without a gradient; only the cross-entropy uses
        # the scores.
        self.score_norm.requires_grad_(self.loss_weights["loss_sem_seg"] > 0)
        self._add_mixtures(channels, memory_size)
        self._pending: list[MemberPixels] = []
        self._has_common_start = False

    def _present_memory(self) -> ComponentMemory:
        """The memory; ValueError where it was stripped from the model."""
        if self.memory is None:
            raise ValueError(
                "This Gaussian mixture classifier was stripped for deployment and has no memory. "
                "Train from the full checkpoint."
            )
        return self.memory

    def _add_mixtures(self, channels: int, memory_size: int) -> None:
        shape = (self.num_classes, self.num_components, channels)
        means = F.normalize(nn.init.trunc_normal_(torch.empty(shape), std=0.02), dim=2)
        if self.learning == "gradient":
            self.memory = None
            self.means = nn.Parameter(means)
            free = {"diagonal": shape, "spherical": (*shape[:2], 1), "fixed": None}[self.covariance]
            # Logarithms, so that the scales stay positive.
            self.log_scales = None if free is None else nn.Parameter(torch.zeros(free))
            return
        self.register_buffer("means", means)
        self.register_buffer("scales", torch.ones(shape))
        initial_weight = None if self.e_step == "sinkhorn" else 1 / self.num_components
        self.memory = ComponentMemory(shape[0] * shape[1], channels, memory_size, initial_weight)

    def mixtures(self) -> tuple[Tensor, Tensor]:
        """Means of unit length and standard deviations, (K, M, D) each, at least float32."""
        means = F.normalize(at_least_float32(self.means), dim=2)
        if self.learning == "em":
            return means, at_least_float32(self.scales)
        if self.log_scales is None:
            return means, torch.ones_like(means)
        return means, at_least_float32(self.log_scales).exp().expand_as(means)

    def forward(self, features: Tensor) -> Tensor:
        """Features (B, C, h, w) to logits (B, K, h, w): the normalised scores of the classes."""
        scores, offset = self._class_scores(self.embed(features))
        return pixels_as_map(self._as_logits(scores, offset), features.shape).contiguous()

    def class_log_density(self, features: Tensor) -> Tensor:
        """Features (B, C, h, w) to the scores (B, K, h, w) of the classes before the norm."""
        scores, offset = self._class_scores(self.embed(features))
        return pixels_as_map(scores + offset, features.shape).contiguous()

    def class_evidence(self, features: Tensor) -> Tensor:
        """As :meth:`class_log_density`, of which minus the largest is the anomaly score.

        The logits do not tell: their norm takes out how dense a pixel is on the whole.
        """
        return self.class_log_density(features)

    def embed(self, features: Tensor) -> Tensor:
        """Features (B, C, h, w) to pixel embeddings (B * h * w, D) of unit length."""
        features = self.projection(self.dropout(features))
        return unit_length(self.feature_norm(features.permute(0, 2, 3, 1).flatten(0, 2)))

    def _as_logits(self, scores: Tensor, offset: Tensor) -> Tensor:
        """(N, K) to (N, K). A norm removes what all classes have in common, such as the offset."""
        if isinstance(self.score_norm, nn.Identity):
            return scores + offset
        return self.score_norm(scores)

    def _class_scores(self, embeddings: Tensor) -> tuple[Tensor, Tensor]:
        """(N, D) to scores (N, K) minus an offset, and the offset."""
        embeddings = at_least_float32(embeddings)
        with without_autocast(embeddings.device):
            weights, offset = density_weights(*self.mixtures())
            features = density_features(embeddings)
            if self.class_score == "max":
                return chunked_class_scores(features, weights), offset
            log_density = torch.einsum("nf,kmf->nkm", features, weights)
            return class_log_density(log_density, self.class_score), offset

    def _densities(self, embeddings: Tensor, labels: Tensor) -> Densities:
        means, scales = self.mixtures()
        embeddings = at_least_float32(embeddings)
        with without_autocast(embeddings.device):
            # The fast path equals the plain formula; it has no gradient for the mixtures.
            if self.class_score == "max" and not means.requires_grad:
                weights, offset = density_weights(means, scales)
                features = density_features(embeddings)
                return Densities(*chunked_prototype_similarity(features, weights, labels), offset)
            return mixture_densities(embeddings, means, scales, labels, self.class_score)

    def losses(self, features: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """The weighted losses; in training mode the mixtures are fitted afterwards.

        Args:
            features: (B, C, h, w).
            labels: (B, H, W) integers.

        Returns:
            ``loss_sem_seg`` (cross-entropy) and ``loss_contrast``; those with weight 0 are left
            out.

        Raises:
            ValueError: the model is in training mode, and its memory was stripped.
        """
        fits = self.training and self.learning == "em"
        if fits:
            self._prepare_fit()
        small = resize_labels(labels, features.shape[-2:]).flatten()
        valid = small != self.ignore_label
        small = small.where(valid, 0)
        embeddings = self.embed(features)
        densities = self._densities(embeddings, small)
        logits = self._as_logits(densities.class_scores, densities.offset)
        logits = pixels_as_map(logits, features.shape)
        log_plan = self.assign(densities.of_own_class + densities.offset, small, valid)

        weights = {name: weight for name, weight in self.loss_weights.items() if weight}
        losses = {}
        if "loss_sem_seg" in weights:
            losses["loss_sem_seg"] = self.pixel_loss(logits, labels)
            if self.sem_seg_divisor == "all":
                labelled = (labels != self.ignore_label).float().mean()
                losses["loss_sem_seg"] = losses["loss_sem_seg"] * labelled
        if "loss_contrast" in weights:
            assigned = log_plan.argmax(dim=1, keepdim=True)
            assigned = densities.of_own_class.gather(1, assigned)[:, 0]
            losses["loss_contrast"] = mean_where(contrast(densities.log_partition, assigned), valid)
        if fits:
            members = valid
            if self.only_correct:
                members = valid & (logits.argmax(dim=1).flatten() == small)
            self.update(self._member_pixels(embeddings, small, log_plan, valid, members))
        return {name: weights[name] * loss for name, loss in losses.items()}

    @torch.no_grad()
    def _prepare_fit(self) -> None:
        """Take the first worker's initial means, once: each worker may have drawn others."""
        self._present_memory()
        if not self._has_common_start:
            self.means.copy_(reduction_over_workers().gather(self.means)[0])
            self._has_common_start = True

    def assign(self, of_own_class: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
        """E-step for N pixels: log probabilities (N, M) of the components of the pixel's class.

        Args:
            of_own_class: (N, M) log densities under these components.
            labels: (N,) int64, 0 to K-1 also where not valid.
            valid: (N,) bool; the result is undefined for the other pixels.
        """
        # Ignored pixels are a separate class, whose result is not read.
        with without_autocast(labels.device):
            return log_responsibilities(
                of_own_class,
                labels.where(valid, self.num_classes),
                self.num_classes + 1,
                e_step=self.e_step,
                epsilon=self.sinkhorn_epsilon,
                iterations=self.sinkhorn_iterations,
            )

    @torch.no_grad()
    def _member_pixels(
        self, embeddings: Tensor, labels: Tensor, log_plan: Tensor, valid: Tensor, members: Tensor
    ) -> MemberPixels:
        """The pixels that the mixtures are fitted to, those where ``members`` (N,) is True."""
        if self.e_step == "sinkhorn":
            component = log_plan.argmax(dim=1, keepdim=True)
            weights = torch.ones_like(component, dtype=log_plan.dtype)
        else:
            component = torch.arange(self.num_components, device=labels.device)
            weights = log_plan.exp()
        components = labels[:, None] * self.num_components + component
        components = components.where(members[:, None], self.num_classes * self.num_components)
        present = torch.zeros(self.num_classes + 1, dtype=torch.bool, device=labels.device)
        present = present.index_fill(0, labels.where(valid, self.num_classes), True)
        embeddings = embeddings.detach().to(self.means.dtype)
        return MemberPixels(embeddings, components, weights, present[None, :-1])

    @torch.no_grad()
    def update(self, pixels: MemberPixels) -> None:
        """Fill the memory and, every ``refit_interval`` steps, fit the mixtures to it.

        With several micro-batches per step (``accumulation_steps``) this happens at the last one,
        with the pixels of all of them. Nothing changes where no pixel is labelled or where half
        precision overflows (the gradient scaler skips such a step), but the step is counted.
        """
        self._pending.append(pixels)
        if len(self._pending) < self.accumulation_steps:
            return
        pixels = MemberPixels(*(torch.cat(parts) for parts in zip(*self._pending)))
        self._pending = []
        reduction = reduction_over_workers()
        overflow = ~pixels.embeddings.isfinite().all()
        flags = torch.cat([pixels.present.any(dim=0), overflow[None]])
        flags = reduction.maximum(flags.float()) > 0
        present, usable = flags[:-1], flags[:-1].any() & ~flags[-1]

        samples, weights, counts = sample_components(
            pixels.embeddings,
            pixels.components,
            pixels.weights.to(pixels.embeddings.dtype),
            self.num_classes * self.num_components,
            self.max_samples,
            reduction,
        )
        memory = self._present_memory()
        kept_weights: Tensor | None = weights
        if memory.size:
            memory.write(samples, weights, counts.where(usable, 0))
            samples, kept_weights = memory.samples, memory.weights
        else:
            samples = samples.transpose(1, 2)
        means, scales = F.normalize(self.means, dim=2), self.scales
        if memory.count % self.refit_interval == 0:
            means, scales = self._refit(means, samples, kept_weights, present)
        self.means.copy_(means.where(usable, self.means))
        self.scales.copy_(scales.where(usable, self.scales))
        memory.count_step()

    def _refit(
        self, means: Tensor, samples: Tensor, weights: Tensor | None, present: Tensor
    ) -> tuple[Tensor, Tensor]:
        """M-step for the classes that are ``present`` (K,): new means and scales (K, M, D).

        Args:
            means: (K, M, D) of unit length.
            samples: (K * M, D, S).
            weights: (K * M, S), or None. A component whose weights are all 0 keeps its values.
            present: (K,) bool.
        """
        direction, variance = fit_components(samples, weights)
        scales = scales_of(variance, self.covariance)
        fitted = present[:, None, None]
        if weights is not None:
            fitted = fitted & (weights.sum(dim=1) > 0).view(means.shape[:2])[..., None]
        moved = torch.lerp(direction.view_as(means), means, self.mean_momentum)
        widened = torch.lerp(scales.view_as(means), self.scales, self.scale_momentum)
        return torch.where(fitted, moved, means), torch.where(fitted, widened, self.scales)


class _PixelBatchNorm(nn.BatchNorm2d):
    """BatchNorm that normalises a batch of one pixel, which has no variance, as in eval mode."""

    def forward(self, features: Tensor) -> Tensor:
        if self.training and features.numel() == features.shape[1]:
            return F.batch_norm(
                features, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
            )
        return super().forward(features)


def _projection(in_channels: int, channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, channels, kernel_size=1, bias=False),
        _PixelBatchNorm(channels),
        nn.ReLU(inplace=True),
    )
