"""Prototypes of two workers, in two gloo processes on the CPU."""

import pytest
import torch
import torch.nn.functional as F
from torch.nn.parallel import DistributedDataParallel
from two_processes import run_in_two_processes

from d2_ctxseg.classifiers import PrototypeClassifier

CLASSES, CHANNELS = 4, 8


def make_classifier(synchronization="average", **options):
    torch.manual_seed(0)
    return PrototypeClassifier(
        CHANNELS,
        CLASSES,
        num_prototypes=3,
        momentum=0.5,
        assignment="argmax",
        synchronization=synchronization,
        **options,
    )


def make_batch(rank):
    """The two workers see different scenes; one class is on the second worker alone."""
    generator = torch.Generator().manual_seed(10 + rank)
    labels = torch.randint(0, CLASSES - 1 + rank, (2, 6, 6), generator=generator)
    labels[0, 0] = 255
    return torch.randn(2, CHANNELS, 6, 6, generator=generator), labels


class Model(torch.nn.Module):
    def __init__(self, classifier):
        super().__init__()
        self.classifier = classifier

    def forward(self, features, labels):
        return sum(self.classifier.losses(features, labels).values())


CASES = {"average": ("average", 1), "joint": ("joint", 1), "joint, accumulated": ("joint", 2)}


def one_worker(rank, folder):
    results = {case: one_step(rank, *CASES[case]) for case in CASES}
    torch.save(results, f"{folder}/worker{rank}.pth")


def one_step(rank, synchronization, accumulation_steps):
    classifier = make_classifier(synchronization)
    classifier.accumulation_steps = accumulation_steps
    # As Detectron2's create_ddp_model: buffers are not sent around in every step.
    model = DistributedDataParallel(Model(classifier), broadcast_buffers=False)
    features, labels = make_batch(rank)
    for i in range(accumulation_steps):
        rows = slice(i, None, accumulation_steps)
        model(features[rows], labels[rows]).backward()
    gradients = [parameter.grad for parameter in classifier.parameters()]
    return {"prototypes": classifier.prototypes, "gradients": gradients}


@pytest.fixture(scope="module")
def workers(tmp_path_factory):
    """What the two workers have after one step, in every case."""
    folder = tmp_path_factory.mktemp("workers")
    run_in_two_processes(one_worker, folder, str(folder))
    return [torch.load(folder / f"worker{rank}.pth", weights_only=True) for rank in (0, 1)]


@pytest.mark.parametrize("case", CASES)
def test_both_have_the_same_prototypes_after_a_step(workers, case):
    first, second = (worker[case]["prototypes"] for worker in workers)
    assert torch.equal(first, second)
    assert not torch.allclose(first, make_classifier().prototypes)


def test_average_is_the_mean_of_what_each_worker_makes_of_its_batch(workers):
    """The authors' rule."""
    alone = []
    for rank in (0, 1):
        classifier = make_classifier()
        classifier.losses(*make_batch(rank))
        alone.append(classifier.prototypes)
    expected = F.normalize(torch.stack(alone).mean(dim=0), dim=2)
    torch.testing.assert_close(workers[0]["average"]["prototypes"], expected)


@pytest.mark.parametrize("case", ["joint", "joint, accumulated"])
def test_joint_is_what_one_process_makes_of_the_joined_batch(workers, case):
    accumulation_steps = CASES[case][1]
    classifier = make_classifier()
    classifier.accumulation_steps = accumulation_steps
    batches = [make_batch(rank) for rank in (0, 1)]
    for i in range(accumulation_steps):
        parts = [[x[i::accumulation_steps] for x in batch] for batch in batches]
        classifier.losses(*(torch.cat(pair) for pair in zip(*parts)))
    torch.testing.assert_close(workers[0][case]["prototypes"], classifier.prototypes)


@pytest.mark.parametrize("case", CASES)
def test_every_parameter_gets_the_same_gradient(workers, case):
    first, second = (worker[case]["gradients"] for worker in workers)
    assert all(gradient is not None for gradient in first)
    torch.testing.assert_close(first, second)
