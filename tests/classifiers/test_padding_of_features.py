"""What a classifier estimates from an image does not depend on the padding around it."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import d2_ctxseg.classifiers
from d2_ctxseg.classifiers import CLASSIFIER_REGISTRY, ContextAwareClassifier
from d2_ctxseg.losses.functional import valid_mask

OWN = [
    classifier_class
    for name, classifier_class in CLASSIFIER_REGISTRY
    if hasattr(d2_ctxseg.classifiers, name)
]
WITH_SIZES = [classifier_class for classifier_class in OWN if classifier_class.takes_sizes]
# Its dice losses count all pixels of an image, ignored ones too, as the authors' do.
WITHOUT_DICE = {
    "SemanticSpatialClassifier": {"loss_weight_dice": 0.0, "loss_weight_dice_oracle": 0.0}
}
sides = st.tuples(st.integers(1, 7), st.integers(1, 7))


def build(classifier_class, **options):
    torch.manual_seed(0)
    classifier = classifier_class(8, 4, **options).eval()
    for parameter in classifier.parameters():
        # Away from initial scores that are nearly equal, whatever goes in.
        torch.nn.init.normal_(parameter, std=0.5)
    return classifier


def padded(sizes, size=(8, 9), seed=0):
    """Features of images, each alone, and all of them in one batch amid large numbers."""
    generator = torch.Generator().manual_seed(seed)
    features = [torch.randn(8, *one, generator=generator) for one in sizes]
    batch = 10 * torch.randn(len(sizes), 8, *size, generator=generator)
    for one, part in zip(features, batch):
        part[:, : one.shape[1], : one.shape[2]] = one
    return features, batch


def sizes_for(classifier, sizes):
    return {"sizes": torch.tensor(sizes)} if classifier.takes_sizes else {}


@pytest.mark.parametrize("classifier_class", OWN)
@given(sizes=st.lists(sides, min_size=1, max_size=3), seed=st.integers(0, 1000))
@settings(deadline=None, max_examples=12)
def test_an_image_is_predicted_alike_alone_and_padded(classifier_class, sizes, seed):
    classifier = build(classifier_class)
    features, batch = padded(sizes, seed=seed)
    with torch.no_grad():
        together = classifier(batch, **sizes_for(classifier, sizes))
        for one, logits in zip(features, together):
            alone = classifier(one[None])[0]
            found = logits[:, : one.shape[1], : one.shape[2]]
            torch.testing.assert_close(found, alone, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("classifier_class", WITH_SIZES)
class TestWithSizes:
    sizes = [(3, 9), (8, 5), (8, 9)]

    def test_the_padding_would_change_the_prediction(self, classifier_class):
        """So the test above has something to find."""
        classifier = build(classifier_class)
        features, batch = padded(self.sizes)
        with torch.no_grad():
            difference = classifier(batch)[0, :, :3] - classifier(features[0][None])[0]
        assert difference.abs().max() > 0.05

    def test_one_entry_is_for_all_images(self, classifier_class):
        classifier = build(classifier_class)
        batch = torch.randn(3, 8, 8, 9)
        with torch.no_grad():
            one = classifier(batch, torch.tensor([(5, 7)]))
            each = classifier(batch, torch.tensor([(5, 7)] * 3))
        torch.testing.assert_close(one, each)

    def test_without_padding_nothing_changes(self, classifier_class):
        classifier = build(classifier_class)
        features, labels = torch.randn(2, 8, 8, 9), torch.randint(0, 4, (2, 16, 18))
        whole = torch.tensor([(8, 9), (8, 9)])
        torch.testing.assert_close(classifier(features, whole), classifier(features))
        torch.testing.assert_close(
            classifier.losses(features, labels, whole), classifier.losses(features, labels)
        )

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_under_autocast(self, classifier_class, dtype):
        classifier = build(classifier_class)
        features, batch = padded(self.sizes)
        with torch.no_grad(), torch.autocast("cpu", dtype=dtype):
            together = classifier(batch, torch.tensor(self.sizes))[0, :, :3]
            alone = classifier(features[0][None])[0]
        torch.testing.assert_close(together.float(), alone.float(), atol=0.05, rtol=0.05)

    def test_no_loss_looks_at_it(self, classifier_class):
        """Neither losses nor their gradients, where the labels of the padding are ignored."""
        options = WITHOUT_DICE.get(classifier_class.__name__, {})
        classifier = build(classifier_class, **options)
        sizes = torch.tensor(self.sizes)
        labels = torch.randint(0, 4, (3, 8, 9))
        valid = valid_mask(sizes, 8, 9)
        labels = labels.where(valid[:, 0], 255)
        results = []
        for seed in (0, 1):
            _, batch = padded(self.sizes)
            noise = torch.randn(batch.shape, generator=torch.Generator().manual_seed(seed))
            batch = batch.where(valid, noise).requires_grad_()
            losses = classifier.losses(batch, labels, sizes)
            sum(losses.values()).backward()
            assert not batch.grad.masked_select(~valid).any()
            results.append((losses, batch.grad))
        torch.testing.assert_close(*results, atol=1e-5, rtol=1e-4)

    def test_it_leaves_pytorch_with_sizes_that_are_not_fixed(self, classifier_class):
        classifier = build(classifier_class)
        sizes = torch.tensor(self.sizes)
        program = torch.export.export(classifier, (torch.randn(3, 8, 8, 9), sizes))
        _, batch = padded(self.sizes)
        other = torch.tensor([(8, 8), (1, 2), (4, 4)])
        with torch.no_grad():
            for one in (sizes, other):
                expected = classifier(batch, one)
                torch.testing.assert_close(program.module()(batch, one), expected)


def test_the_context_is_the_mean_of_the_valid_pixels_alone():
    """With the vanilla classifier sure of one class everywhere the context is a plain mean."""
    seen = {}
    classifier = ContextAwareClassifier(8, 1).eval()
    classifier.estimated_projector.register_forward_hook(
        lambda module, inputs, output: seen.update(context=inputs[0][..., :8])
    )
    features, batch = padded([(3, 4)])
    classifier(batch, torch.tensor([(3, 4)]))
    torch.testing.assert_close(seen["context"][0, 0], features[0].mean(dim=(1, 2)))


@given(sizes=st.lists(sides, min_size=1, max_size=3))
def test_the_mask_is_true_in_the_upper_left_part(sizes):
    mask = valid_mask(torch.tensor(sizes), 7, 8)
    assert mask.shape == (len(sizes), 1, 7, 8)
    for one, (height, width) in zip(mask[:, 0], sizes):
        assert one[:height, :width].all() and one.sum() == height * width
