"""Gaussian mixtures of two workers, in two gloo processes on the CPU."""

import pytest
import torch
from torch.nn.parallel import DistributedDataParallel
from two_processes import run_in_two_processes

from d2_ctxseg.classifiers import GaussianMixtureClassifier

CLASSES, CHANNELS = 4, 8
# Two steps: the second fits no mixtures. The ring of the memory runs full.
STEPS = 2
OPTIONS = {
    "memory": {"memory_size": 20},
    "batch only": {"memory_size": 0},
    "soft": {"memory_size": 20, "e_step": "posterior"},
    "accumulated": {"memory_size": 20},
}


def make_classifier(case, seed=0):
    torch.manual_seed(seed)
    return GaussianMixtureClassifier(
        CHANNELS,
        CLASSES,
        # One component, or the posterior: a joined batch is clustered as its parts are.
        num_components=3 if case == "soft" else 1,
        embedding_channels=None,
        max_samples=8,
        mean_momentum=0.5,
        scale_momentum=0.3,
        only_correct=False,
        **OPTIONS[case],
    )


def make_batch(rank, step=0):
    """The workers see different scenes of different sizes; one class is on the second alone."""
    generator = torch.Generator().manual_seed(10 + rank + 2 * step)
    height = 6 + 3 * rank
    labels = torch.randint(0, CLASSES - 1 + rank, (2, height, 6), generator=generator)
    labels[0, 0] = 255
    return torch.randn(2, CHANNELS, height, 6, generator=generator), labels


class Model(torch.nn.Module):
    def __init__(self, classifier):
        super().__init__()
        self.classifier = classifier

    def forward(self, features, labels):
        return sum(self.classifier.losses(features, labels).values())


def one_worker(rank, folder):
    torch.save({case: some_steps(rank, case) for case in OPTIONS}, f"{folder}/worker{rank}.pth")
    torch.save(overflowing_step(rank), f"{folder}/overflow{rank}.pth")


def some_steps(rank, case):
    # As in a training, where each worker has a seed of its own; the first one's weights count.
    classifier = make_classifier(case, seed=rank)
    # As Detectron2's create_ddp_model: buffers are not sent around in every step.
    model = DistributedDataParallel(Model(classifier), broadcast_buffers=False)
    parts = classifier.accumulation_steps = 2 if case == "accumulated" else 1
    for step in range(STEPS):
        features, labels = make_batch(rank, step)
        for part in range(parts):
            rows = slice(part, None, parts)
            model(features[rows], labels[rows]).backward()
    gradients = [parameter.grad for parameter in classifier.parameters()]
    return {"state": classifier.state_dict(), "gradients": gradients}


def overflowing_step(rank):
    """Only the second worker's features overflow."""
    classifier = make_classifier("memory")
    before = {key: value.clone() for key, value in classifier.state_dict().items()}
    features, labels = make_batch(rank)
    if rank == 1:
        features[0, 0, 0, 0] = float("inf")
    classifier.losses(features, labels)
    return {"before": before, "after": classifier.state_dict()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("workers")
    run_in_two_processes(one_worker, folder, str(folder))
    return folder


def load(folder, name):
    return [torch.load(folder / f"{name}{rank}.pth", weights_only=True) for rank in (0, 1)]


@pytest.mark.parametrize("case", OPTIONS)
def test_both_have_the_same_mixtures_and_memory(folder, case):
    first, second = (worker[case]["state"] for worker in load(folder, "worker"))
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    assert not torch.allclose(first["scales"], torch.ones(1))


@pytest.mark.parametrize("case", OPTIONS)
def test_are_what_one_process_makes_of_the_pixels_of_the_first_and_then_the_second(folder, case):
    classifier = make_classifier(case)
    for step in range(STEPS):
        # Images of different sizes: one part of an accumulated step for each.
        batches = [make_batch(rank, step) for rank in (0, 1)]
        if case == "accumulated":  # on each worker the first images, then the second
            batches = [
                (features[i : i + 1], labels[i : i + 1])
                for features, labels in batches
                for i in (0, 1)
            ]
        classifier.accumulation_steps = len(batches)
        for batch in batches:
            classifier.losses(*batch)
    actual = load(folder, "worker")[0][case]["state"]
    torch.testing.assert_close(actual, classifier.state_dict(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("case", OPTIONS)
def test_every_parameter_gets_the_same_gradient(folder, case):
    first, second = (worker[case]["gradients"] for worker in load(folder, "worker"))
    assert all(gradient is not None for gradient in first)
    torch.testing.assert_close(first, second)


def test_an_overflow_on_one_worker_changes_nothing_on_both(folder):
    for worker in load(folder, "overflow"):
        for key, value in worker["after"].items():
            assert key == "memory.steps" or torch.equal(value, worker["before"][key])
