"""Batches follow from seed and position: not from worker processes, not from interruptions."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from d2_ctxseg.engine.data_loader import ResumableLoader
from d2_ctxseg.engine.random_state import get_random_state
from detectron2.data import build_detection_train_loader
from detectron2.data.samplers import TrainingSampler
from detectron2.utils import comm

NUM_IMAGES = 7
# Wide and upright images by turns would hide an order that depends on the shape.
WIDTHS = [2, 2, 0, 2, 0, 0, 2]


def augment(record):
    """A mapper that draws from the generator that Detectron2's augmentations draw from."""
    return {**record, "drawn": np.random.rand()}  # noqa: NPY002


def build(batch_size=2, grouped=True, num_workers=0, seed=5, **options):
    records = [{"index": i, "width": width, "height": 1} for i, width in enumerate(WIDTHS)]
    loader = build_detection_train_loader(
        dataset=records,
        sampler=TrainingSampler(NUM_IMAGES, seed=1),
        mapper=augment,
        total_batch_size=batch_size * comm.get_world_size(),
        aspect_ratio_grouping=grouped,
        num_workers=num_workers,
        **options,
    )
    return ResumableLoader(loader, seed=seed)


def take(loader, count):
    return list(itertools.islice(iter(loader), count))


@settings(max_examples=30, deadline=None)
@given(
    batch_size=st.integers(1, 4),
    grouped=st.booleans(),
    stops=st.lists(st.integers(0, 8), min_size=1, max_size=3),
)
def test_a_resumed_stream_is_the_uninterrupted_one(batch_size, grouped, stops):
    whole = take(build(batch_size, grouped), sum(stops))
    pieces, state = [], None
    for count in stops:
        loader = build(batch_size, grouped)
        if state is not None:
            loader.load_state_dict(state)
        pieces += take(loader, count)
        state = loader.state_dict()
    assert pieces == whole


@pytest.mark.parametrize("grouped", [True, False])
def test_worker_processes_change_nothing(grouped):
    expected = take(build(3, grouped), 6)
    for num_workers in (1, 2):
        assert take(build(3, grouped, num_workers), 6) == expected


def test_a_stream_is_resumed_with_other_workers_than_before():
    expected = take(build(), 8)
    loader = build(num_workers=2)
    assert take(loader, 5) == expected[:5]
    state = loader.state_dict()
    resumed = build(num_workers=0)
    resumed.load_state_dict(state)
    assert take(resumed, 3) == expected[5:]


def test_without_grouping_the_order_is_that_of_detectron2():
    indices = [image["index"] for batch in take(build(3, False), 5) for image in batch]
    sampler = iter(TrainingSampler(NUM_IMAGES, seed=1))
    assert indices == list(itertools.islice(sampler, 15))


def test_a_group_has_images_of_one_shape_and_no_image_is_lost():
    batches = take(build(2), 60)
    assert all(len({image["width"] for image in batch}) == 1 for batch in batches)
    counts = np.bincount([image["index"] for batch in batches for image in batch])
    # 120 images are 17 epochs and a bit; a group may wait for one more image.
    assert counts.min() >= 16 and counts.max() <= 18


def test_augmentation_differs_between_images_epochs_and_seeds():
    one, other = (take(build(seed=seed), 20) for seed in (0, 1))
    drawn = [image["drawn"] for batch in one + other for image in batch]
    assert len(set(drawn)) == len(drawn)


def test_processes_augment_differently(monkeypatch):
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    drawn = []
    for rank in range(2):
        monkeypatch.setattr(comm, "get_rank", lambda rank=rank: rank)
        drawn += [image["drawn"] for batch in take(build(), 6) for image in batch]
    assert len(set(drawn)) == len(drawn)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_the_random_numbers_of_the_training_are_left_alone(num_workers):
    before = get_random_state()
    take(build(num_workers=num_workers), 3)
    after = get_random_state()
    assert torch.equal(before["torch"], after["torch"])
    assert torch.equal(before["numpy"]["key"], after["numpy"]["key"])
    assert torch.equal(before["python"]["words"], after["python"]["words"])


def test_images_can_be_skipped():
    loader = build(1, grouped=False)
    loader.skip(4)
    assert take(loader, 3) == take(build(1, grouped=False), 7)[4:]


def test_another_loader_is_refused():
    with pytest.raises(TypeError, match="list is not a loader that Detectron2"):
        ResumableLoader([], seed=0)
