"""Reference implementations with loops over the classes, for benchmarks and tests.

They compute the same as the authors' released code in the same way: with its loops over classes, as
many passes over the tensors, and the same copies. Use them only for comparisons. Their arguments
and state dict keys equal those of ``d2_ctxseg.classifiers``, so that weights can be copied.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def interpolated_cross_entropy(
    logits: Tensor, labels: Tensor, ignore_label: int, align_corners: bool
) -> Tensor:
    """Mean cross-entropy of logits (B, K, h, w) against labels (B, H, W) int64, a scalar."""
    logits = F.interpolate(
        logits, size=labels.shape[-2:], mode="bilinear", align_corners=align_corners
    )
    return F.cross_entropy(logits, labels, ignore_index=ignore_label)


def nearest_labels(labels: Tensor, size: torch.Size) -> Tensor:
    """Labels (B, H, W) to (B, 1, h, w) float by nearest neighbour."""
    return F.interpolate(labels.unsqueeze(1).float(), size=size, mode="nearest")


class Convolution(nn.Module):
    """The usual 1x1 convolution with cross-entropy.

    Args:
        in_channels: channels C of the features.
        num_classes: number of classes K.
        ignore_label: label of pixels that the loss ignores.
        align_corners: how logits are interpolated to the size of the labels.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        ignore_label: int = 255,
        align_corners: bool = False,
    ):
        super().__init__()
        self.predictor = nn.Conv2d(in_channels, num_classes, kernel_size=1)
        self.ignore_label = ignore_label
        self.align_corners = align_corners

    def forward(self, features: Tensor) -> Tensor:
        """Features (B, C, h, w) to logits (B, K, h, w)."""
        return self.predictor(features)

    def losses(self, features: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """``loss_sem_seg`` of features (B, C, h, w) and labels (B, H, W) int64."""
        return {"loss_sem_seg": self._cross_entropy(self(features), labels)}

    def _cross_entropy(self, logits: Tensor, labels: Tensor) -> Tensor:
        return interpolated_cross_entropy(logits, labels, self.ignore_label, self.align_corners)


class ClassByClassContextAware(Convolution):
    """The context-aware classifier (Tian et al., AAAI 2023) as in the authors' released code.

    It equals ContextAwareClassifier with the default loss weights.

    Args:
        in_channels: channels C of the features.
        num_classes: number of classes K.
        scale: factor on the cosine similarity.
        ignore_label: label of pixels that take no part in the losses.
        align_corners: how logits are interpolated to the size of the labels.
    """

    def __init__(self, in_channels: int, num_classes: int, *, scale: float = 15.0, **options):
        super().__init__(in_channels, num_classes, **options)
        self.scale = scale
        self.estimated_projector = _projector(in_channels)
        self.oracle_projector = _projector(in_channels)

    def forward(self, features: Tensor) -> Tensor:
        """Features (B, C, h, w) to the refined logits (B, K, h, w)."""
        return self._refine(features, self.predictor(features))

    def losses(self, features: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """The four losses of features (B, C, h, w) and labels (B, H, W) int64."""
        vanilla = self.predictor(features)
        refined = self._refine(features, vanilla.clone())
        oracle = self._oracle(features, labels)
        return {
            "loss_kl": class_by_class_distillation(
                refined, oracle.detach(), labels, self.ignore_label
            ),
            "loss_vanilla": self._cross_entropy(vanilla, labels),
            "loss_oracle": self._cross_entropy(oracle, labels),
            "loss_sem_seg": self._cross_entropy(refined, labels),
        }

    def _refine(self, features: Tensor, logits: Tensor) -> Tensor:
        """Logits of the classifier made from the context that ``logits`` (B, K, h, w) estimate."""
        features = features.clone()
        batch, channels, height, width = features.shape
        weight = self.predictor.weight.flatten(1)
        probability = logits.view(batch, -1, height * width).softmax(dim=1)
        context = probability @ features.view(batch, channels, -1).permute(0, 2, 1)
        context = context / (probability.sum(-1).unsqueeze(-1) + 1e-12)
        context = torch.cat([context, weight.unsqueeze(0).repeat(batch, 1, 1)], dim=-1)
        classifier = self.estimated_projector(context)

        features = features / (features.norm(2, 1, True) + 1e-12)
        classifier = classifier / (classifier.norm(2, -1, True) + 1e-12)
        similarity = classifier @ features.contiguous().view(batch, channels, -1)
        return similarity.view(batch, -1, height, width) * self.scale

    def _oracle(self, features: Tensor, labels: Tensor) -> Tensor:
        """Logits of the classifier made from the mean features of the true classes."""
        copy = features.clone()
        weight = self.predictor.weight.flatten(1)
        context = weight.detach()
        labels = nearest_labels(labels, features.shape[-2:])
        for label in _present_classes(labels, self.ignore_label):
            mask = (labels == label).float()
            mean = (features * mask).sum(0).sum(-1).sum(-1) / (mask.sum() + 1e-12)
            one_hot = torch.zeros(len(weight), 1, device=features.device)
            one_hot[label.long()] = 1
            context = context * (1 - one_hot) + mean.unsqueeze(0) * one_hot
        classifier = self.oracle_projector(torch.cat([context, weight], dim=-1))
        classifier = F.normalize(classifier[:, :, None, None], dim=1)
        return F.conv2d(F.normalize(copy, dim=1), classifier) * self.scale


class ClassByClassPrototype(nn.Module):
    """The nonparametric prototypes (Zhou et al., CVPR 2022) as in the authors' released code.

    It equals PrototypeClassifier with cosine distance, without projection and in one process.

    Args:
        in_channels: channels C of the features.
        num_classes: number of classes K.
        num_prototypes: prototypes M per class.
        momentum: momentum of the prototype update.
        sinkhorn_iterations: iterations of the Sinkhorn algorithm.
        sinkhorn_epsilon: entropic regularisation of the Sinkhorn algorithm.
        assignment: the assignment that updates the prototypes: ``"gumbel"``, a sample, or
            ``"argmax"``.
        temperature: temperature of the similarities in ``loss_ppc``.
        ignore_label: label of pixels that the losses ignore.
        align_corners: how logits are interpolated to the size of the labels.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        num_prototypes: int = 10,
        momentum: float = 0.999,
        sinkhorn_iterations: int = 3,
        sinkhorn_epsilon: float = 0.05,
        assignment: str = "gumbel",
        temperature: float = 1.0,
        ignore_label: int = 255,
        align_corners: bool = False,
    ):
        super().__init__()
        prototypes = torch.empty(num_classes, num_prototypes, in_channels)
        nn.init.trunc_normal_(prototypes, std=0.02)
        self.register_buffer("prototypes", F.normalize(prototypes, dim=-1))
        self.feature_norm = nn.LayerNorm(in_channels)
        self.score_norm = nn.LayerNorm(num_classes)
        self.momentum = momentum
        self.sinkhorn_iterations = sinkhorn_iterations
        self.sinkhorn_epsilon = sinkhorn_epsilon
        self.assignment = assignment
        self.temperature = temperature
        self.ignore_label = ignore_label
        self.align_corners = align_corners

    def forward(self, features: Tensor) -> Tensor:
        """Features (B, C, h, w) to logits (B, K, h, w)."""
        return self._predict(features)[0]

    def losses(self, features: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Compute the three weighted losses, then update the prototypes.

        Args:
            features: (B, C, h, w).
            labels: (B, H, W) int64.
        """
        logits, similarity, embedding = self._predict(features)
        small = nearest_labels(labels, features.shape[-2:]).flatten()
        # With K * M > 255, the usual ignore label 255 is the index of a prototype.
        small = small.masked_fill(small == self.ignore_label, -1)
        contrast, target = self._learn(embedding, logits, similarity, small)
        contrast_loss = F.cross_entropy(contrast / self.temperature, target.long(), ignore_index=-1)
        labelled = contrast[target != -1, :]
        assigned = torch.gather(labelled, 1, target[target != -1][:, None].long())
        return {
            "loss_sem_seg": interpolated_cross_entropy(
                logits, labels, self.ignore_label, self.align_corners
            ),
            "loss_ppc": 0.01 * contrast_loss,
            "loss_ppd": 0.001 * (1 - assigned).pow(2).mean(),
        }

    def _predict(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits (B, K, h, w), similarities (N, M, K) and embeddings (N, C), N = B * h * w."""
        batch, channels, height, width = features.shape
        embedding = features.permute(0, 2, 3, 1).reshape(-1, channels)
        embedding = F.normalize(self.feature_norm(embedding), dim=-1)
        self.prototypes = F.normalize(self.prototypes, dim=-1)
        similarity = torch.einsum("nd,kmd->nmk", embedding, self.prototypes)
        logits = self.score_norm(similarity.amax(dim=1))
        logits = logits.reshape(batch, height, width, -1).permute(0, 3, 1, 2)
        return logits, similarity, embedding

    def _learn(
        self, embedding: Tensor, logits: Tensor, similarity: Tensor, labels: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Cluster the pixels of each class and update its prototypes.

        Args:
            embedding: (N, C).
            logits: (B, K, h, w).
            similarity: (N, M, K).
            labels: (N,) float; -1 is ignored.

        Returns:
            Similarities (N, K * M) and the index of each pixel's prototype (N,) float, or -1.
        """
        correct = labels == logits.max(dim=1)[1].view(-1)
        prototypes = self.prototypes.clone()
        num_classes, num_prototypes, channels = prototypes.shape
        contrast = torch.mm(embedding, self.prototypes.view(-1, channels).t())
        target = labels.clone()
        # As in the released code, autograd records these operations although they are not used.
        for k in range(num_classes):
            of_class = similarity[..., k][labels == k, ...]
            if of_class.shape[0] == 0:
                continue
            plan, index = self._cluster(of_class)
            correct_of_class = correct[labels == k]
            plan = plan * correct_of_class.unsqueeze(1).repeat(1, num_prototypes)
            of_class = embedding[labels == k, ...]
            of_class = of_class * correct_of_class.unsqueeze(1).repeat(1, channels)
            sums = plan.transpose(0, 1) @ of_class
            count = plan.sum(dim=0)
            if count.sum() > 0:
                sums = F.normalize(sums, dim=-1)
                moved = (
                    self.momentum * prototypes[k, count != 0, :]
                    + (1 - self.momentum) * sums[count != 0, :]
                )
                prototypes[k, count != 0, :] = moved
            target[labels == k] = index.float() + num_prototypes * k
        self.prototypes = F.normalize(prototypes.detach(), dim=-1)
        return contrast, target

    def _cluster(self, similarity: Tensor) -> tuple[Tensor, Tensor]:
        """Sinkhorn on (N, M) similarities: one-hot assignments (N, M) and argmax (N,)."""
        plan = torch.exp(similarity / self.sinkhorn_epsilon).t()
        num_prototypes, num_pixels = plan.shape
        plan /= plan.sum()
        for _ in range(self.sinkhorn_iterations):
            plan /= plan.sum(dim=1, keepdim=True)
            plan /= num_prototypes
            plan /= plan.sum(dim=0, keepdim=True)
            plan /= num_pixels
        plan *= num_pixels
        plan = plan.t()
        index = plan.argmax(dim=1)
        if self.assignment == "argmax":
            return F.one_hot(index, num_prototypes).to(plan.dtype), index
        return F.gumbel_softmax(plan, tau=0.5, hard=True), index


class ClassByClassGaussianMixture(nn.Module):
    """The Gaussian mixtures (Liang et al., NeurIPS 2022) as in the authors' released code.

    It equals GaussianMixtureClassifier with its default options in one process. Unlike the released
    code, it computes densities with matrix products for one class at a time. The released code's
    N x K x M x D numbers would take 6 GiB per copy in benchmarks/classifiers.py.

    Args:
        in_channels: channels C of the features.
        num_classes: number of classes K.
        num_components: Gaussians M per class.
        embedding_channels: channels D of the embedding.
        memory_size: embeddings S in the memory of each Gaussian.
        max_samples: the largest number of pixels per Gaussian and step.
        mean_momentum: momentum of the means.
        scale_momentum: momentum of the standard deviations.
        refit_interval: steps between two fits.
        ignore_label: label of pixels that the losses ignore.
        align_corners: how logits are interpolated to the size of the labels.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        num_components: int = 5,
        embedding_channels: int = 64,
        memory_size: int = 1000,
        max_samples: int = 20,
        mean_momentum: float = 0.999,
        scale_momentum: float = 0.0,
        refit_interval: int = 5,
        ignore_label: int = 255,
        align_corners: bool = False,
    ):
        super().__init__()
        self.projection = nn.Identity()
        if embedding_channels != in_channels:
            self.projection = nn.Sequential(
                nn.Conv2d(in_channels, embedding_channels, kernel_size=1, bias=False),
                nn.BatchNorm2d(embedding_channels),
                nn.ReLU(),
            )
        self.feature_norm = nn.LayerNorm(embedding_channels)
        self.score_norm = nn.LayerNorm(num_classes)
        shape = (num_classes, num_components, embedding_channels)
        self.register_buffer("means", nn.init.trunc_normal_(torch.empty(shape), std=0.02))
        self.register_buffer("scales", torch.ones(shape))
        queue = torch.randn(num_classes * num_components, embedding_channels, memory_size)
        self.memory = nn.Module()
        self.memory.register_buffer("samples", F.normalize(queue, dim=-2))
        self.memory.register_buffer("pointers", torch.zeros(len(queue), dtype=torch.long))
        self.memory.register_buffer("steps", torch.zeros(1, dtype=torch.long))
        self.max_samples = max_samples
        self.mean_momentum = mean_momentum
        self.scale_momentum = scale_momentum
        self.refit_interval = refit_interval
        self.ignore_label = ignore_label
        self.align_corners = align_corners

    def forward(self, features: Tensor) -> Tensor:
        """Features (B, C, h, w) to logits (B, K, h, w)."""
        return self._predict(features)[0]

    def losses(self, features: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Compute the two weighted losses, then fit the mixtures.

        Args:
            features: (B, C, h, w).
            labels: (B, H, W) int64.
        """
        logits, log_density, embedding = self._predict(features)
        small = nearest_labels(labels, features.shape[-2:]).flatten().long()
        small = small.masked_fill(small == self.ignore_label, -1)
        classes = [int(k) for k in small.unique() if k >= 0]
        target, members = self._assign(logits.detach(), log_density.detach(), small, classes)
        contrast = F.cross_entropy(log_density.flatten(1), target, ignore_index=-1)
        embedding = embedding.detach()
        for k in classes:
            self._enqueue(k, embedding[small == k], members[small == k])
        if self.memory.steps % self.refit_interval == 0:
            for k in classes:
                for m in range(self.means.shape[1]):
                    self._fit(k, m)
        self.memory.steps += 1
        return {
            "loss_sem_seg": interpolated_cross_entropy(
                logits, labels, self.ignore_label, self.align_corners
            ),
            "loss_contrast": 0.01 * contrast,
        }

    def _predict(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits (B, K, h, w), log densities (N, K, M) and embeddings (N, D), N = B * h * w."""
        features = self.projection(features)
        batch, channels, height, width = features.shape
        embedding = features.permute(0, 2, 3, 1).reshape(-1, channels)
        embedding = F.normalize(self.feature_norm(embedding), dim=-1)
        # Not in place, because the backward pass needs the means of an earlier call.
        self.means = F.normalize(self.means, dim=-1)
        log_density = torch.stack(
            [self._log_density(embedding, *pair) for pair in zip(self.means, self.scales)], dim=1
        )
        logits = self.score_norm(log_density.amax(dim=-1))
        logits = logits.reshape(batch, height, width, -1).permute(0, 3, 1, 2)
        return logits, log_density, embedding

    def _log_density(self, embedding: Tensor, means: Tensor, scales: Tensor) -> Tensor:
        """Log densities (N, M) of embeddings (N, D) under the Gaussians of a class (M, D)."""
        precision = scales.pow(-2)
        distance = embedding.pow(2) @ precision.T - 2 * embedding @ (means * precision).T
        distance = distance + (means.pow(2) * precision).sum(dim=-1)
        constant = 0.5 * means.shape[-1] * math.log(2 * math.pi) + scales.log().sum(dim=-1)
        return -constant - 0.5 * distance

    def _assign(
        self, logits: Tensor, log_density: Tensor, labels: Tensor, classes: list[int]
    ) -> tuple[Tensor, Tensor]:
        """Cluster the pixels of each class.

        Args:
            logits: (B, K, h, w).
            log_density: (N, K, M).
            labels: (N,) int64; -1 is ignored.
            classes: those in the labels.

        Returns:
            The index of each pixel's Gaussian (N,) int64, or -1; and (N, M) bool, the assignment of
            the pixels that are classified correctly.
        """
        num_components = log_density.shape[2]
        correct = labels == logits.max(dim=1)[1].view(-1)
        target = labels.clone()
        members = torch.zeros(len(labels), num_components, dtype=torch.bool, device=labels.device)
        for k in classes:
            of_class = log_density[:, k][labels == k]
            index = self._cluster(of_class / of_class.abs().max())
            one_hot = F.one_hot(index, num_components).bool()
            members[labels == k] = one_hot & correct[labels == k].unsqueeze(1)
            target[labels == k] = num_components * k + index
        return target, members

    def _cluster(self, density: Tensor) -> Tensor:
        """Sinkhorn on (N, M) densities: the most probable Gaussian of each pixel (N,)."""
        plan = torch.exp(density / 0.05).t()
        num_components, num_pixels = plan.shape
        plan = plan / plan.sum()
        for _ in range(3):
            plan = plan / plan.sum(dim=1, keepdim=True) / num_components
            plan = plan / plan.sum(dim=0, keepdim=True) / num_pixels
        return plan.argmax(dim=0)

    def _enqueue(self, k: int, embedding: Tensor, members: Tensor) -> None:
        """Write the pixels of a class to the memories of its Gaussians.

        Args:
            k: index of the class.
            embedding: (n, D).
            members: (n, M) bool, the assignment of the pixels. A memory's size must be at least
                ``max_samples``.
        """
        size = self.memory.samples.shape[-1]
        for m in range(members.shape[1]):
            row = k * members.shape[1] + m
            chosen = embedding[members[:, m]]
            if len(chosen) > self.max_samples:
                index = torch.linspace(0, len(chosen) - 1, self.max_samples, dtype=torch.int64)
                chosen = chosen[index.to(chosen.device)]
            start = int(self.memory.pointers[row])
            tail = min(len(chosen), size - start)
            self.memory.samples[row, :, start : start + tail] = chosen[:tail].T
            self.memory.samples[row, :, : len(chosen) - tail] = chosen[tail:].T
            self.memory.pointers[row] = (start + len(chosen)) % size

    def _fit(self, k: int, m: int) -> None:
        """Fit a Gaussian to its memory."""
        samples = self.memory.samples[k * self.means.shape[1] + m].T
        mean = F.normalize(samples.sum(dim=0), dim=0)
        scale = ((samples - mean).pow(2).mean(dim=0) + 1e-2).sqrt()
        # Copies, because the backward pass needs the old values.
        self.means, self.scales = self.means.clone(), self.scales.clone()
        old_mean, old_scale = self.means[k, m].clone(), self.scales[k, m].clone()
        self.means[k, m] = self.mean_momentum * old_mean + (1 - self.mean_momentum) * mean
        self.scales[k, m] = self.scale_momentum * old_scale + (1 - self.scale_momentum) * scale


def class_by_class_distillation(
    student: Tensor, teacher: Tensor, labels: Tensor, ignore_label: int
) -> Tensor:
    """The entropy-weighted, class-wise distillation: logits (B, K, h, w), labels (B, H, W)."""
    batch, num_classes, height, width = teacher.shape
    labels = nearest_labels(labels, teacher.shape[-2:]).squeeze(1).long()
    index = labels.view(-1, 1)
    index = index * (1 - (index == ignore_label).float())
    one_hot = torch.zeros(batch * height * width, num_classes, device=teacher.device)
    one_hot = one_hot.scatter_(1, index.long(), 1)
    one_hot = one_hot.view(batch, height, width, num_classes).permute(0, 3, 1, 2)
    target = 0.5 * F.softmax(teacher, dim=1) + 0.5 * one_hot
    loss = torch.mul(-1 * F.log_softmax(student, dim=1), target).sum(1)

    probability = F.softmax(teacher, dim=1)
    entropy = -1 * (probability * torch.log(probability + 1e-12)).sum(1)
    entropy = entropy * (labels != ignore_label).float()
    losses = []
    for label in _present_classes(labels, ignore_label):
        of_class = entropy * (labels == label).float()
        losses.append((loss * of_class).sum() / (of_class.sum() + 1e-12))
    return sum(losses) / len(losses) if losses else student.new_zeros(())


def _present_classes(labels: Tensor, ignore_label: int) -> list[Tensor]:
    return [label for label in labels.unique() if label != ignore_label]


def _projector(channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(2 * channels, channels // 2, bias=False),
        nn.ReLU(inplace=True),
        nn.Linear(channels // 2, channels),
    )
