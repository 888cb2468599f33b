"""The semantic and spatial classifier of two workers, in two gloo processes on the CPU."""

import pytest
import torch
from torch.nn.parallel import DistributedDataParallel
from two_processes import run_in_two_processes

from d2_ctxseg.classifiers import SemanticSpatialClassifier

CLASSES, CHANNELS = 5, 8
CASES = {
    "all": {},
    "oracle alone": {"only": "oracle"},
    "response alone": {"only": "response"},
    "spatial prototypes": {"prototypes": "spatial"},
    "semantic prototypes": {"prototypes": "semantic"},
}


def make_classifier(only=None, **options):
    torch.manual_seed(0)
    if only:
        names = SemanticSpatialClassifier.default_loss_weights
        options |= {f"loss_weight_{name}": 0.0 for name in names if name != only}
    return SemanticSpatialClassifier(CHANNELS, CLASSES, **options)


def make_batch(rank):
    """The first worker sees two classes, the second one all, on another number of images."""
    generator = torch.Generator().manual_seed(10 + rank)
    classes = (2, CLASSES)[rank]
    labels = torch.randint(0, classes, (1 + rank, 12, 12), generator=generator)
    labels[0, 0] = 255
    return torch.randn(1 + rank, CHANNELS, 6, 6, generator=generator), labels


class Model(torch.nn.Module):
    def __init__(self, classifier):
        super().__init__()
        self.classifier = classifier

    def forward(self, features, labels):
        return self.classifier.losses(features, labels)


def one_worker(rank, folder):
    results = {}
    for case, options in CASES.items():
        classifier = make_classifier(**options)
        model = DistributedDataParallel(Model(classifier), broadcast_buffers=False)
        # Without a gradient for each parameter, the second step would be an error.
        for _ in range(2):
            losses = model(*make_batch(rank))
            sum(losses.values()).backward()
        gradients = {n: p.grad for n, p in classifier.named_parameters() if p.grad is not None}
        losses = {name: loss.detach() for name, loss in losses.items()}
        results[case] = {"losses": losses, "gradients": gradients}
    torch.save(results, f"{folder}/worker{rank}.pth")


@pytest.fixture(scope="module")
def workers(tmp_path_factory):
    """What the two workers have after two steps, in every case."""
    folder = tmp_path_factory.mktemp("workers")
    run_in_two_processes(one_worker, folder, str(folder))
    return [torch.load(folder / f"worker{rank}.pth", weights_only=True) for rank in (0, 1)]


@pytest.mark.parametrize("case", CASES)
def test_both_get_the_same_gradient_for_what_is_trained(workers, case):
    first, second = (worker[case]["gradients"] for worker in workers)
    classifier = make_classifier(**CASES[case])
    assert set(first) == {n for n, p in classifier.named_parameters() if p.requires_grad}
    torch.testing.assert_close(first, second)


def test_dice_losses_are_divided_by_the_mean_number_of_classes_in_images(workers):
    """Each worker's sum by the same number: the authors' rule."""
    alone, numbers = [], []
    for rank in (0, 1):
        features, labels = make_batch(rank)
        alone.append(make_classifier().losses(features, labels))
        numbers.append(sum(len(image[image != 255].unique()) for image in labels))
    for losses, number, worker in zip(alone, numbers, workers):
        for name, loss in worker["all"]["losses"].items():
            factor = number / (sum(numbers) / 2) if "dice" in name else 1.0
            torch.testing.assert_close(loss, losses[name].detach() * factor)
