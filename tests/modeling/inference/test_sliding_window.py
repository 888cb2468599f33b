"""Sliding-window prediction."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from segmentor_cases import LOSSES, batch

from d2_ctxseg.modeling.inference.scores import Logits
from d2_ctxseg.modeling.inference.sliding_window import (
    SlidingWindow,
    sliding_window_scores,
    window_starts,
)
from d2_ctxseg.utils.errors import UserError
from detectron2.modeling import build_model


class TestWindowStarts:
    @given(st.integers(1, 200), st.integers(1, 200), st.integers(1, 200))
    def test_windows_cover_every_pixel_and_stay_inside(self, length, window, stride):
        window, stride = min(window, length), min(stride, window)
        covered = [0] * length
        for start in window_starts(length, window, stride):
            assert 0 <= start <= length - window
            for i in range(start, start + window):
                covered[i] += 1
        assert min(covered) >= 1

    def test_they_lie_as_in_mmsegmentation(self):
        # h_grids = max(length - window + stride - 1, 0) // stride + 1, the last one moved back.
        assert window_starts(1024, 512, 341) == [0, 341, 512]
        assert window_starts(512, 512, 341) == [0]
        assert window_starts(513, 512, 341) == [0, 1]
        assert window_starts(300, 512, 341) == [0]
        assert window_starts(1194, 512, 341) == [0, 341, 682]

    @given(st.integers(1, 2000), st.integers(1, 800), st.integers(1, 800))
    def test_there_are_no_more_windows_than_in_mmsegmentation(self, length, window, stride):
        stride = min(stride, window)
        count = max(length - window + stride - 1, 0) // stride + 1
        assert len(window_starts(length, window, stride)) == count


def sliding_window_logits(predict, image, windows):
    """All scores of a function from images (B, C, h, w) to logits (B, K, h, w)."""
    scores = sliding_window_scores(lambda x: map(Logits, predict(x)), image, windows)
    return scores.tensor()


class TestSlidingWindowScores:
    @settings(deadline=None, max_examples=40)
    @given(
        st.tuples(st.integers(1, 40), st.integers(1, 40)),
        st.tuples(st.integers(1, 20), st.integers(1, 20)),
        st.tuples(st.integers(1, 20), st.integers(1, 20)),
        st.integers(1, 5),
    )
    def test_a_model_that_looks_at_single_pixels_gives_the_same_as_on_the_whole_image(
        self, shape, size, stride, batch_size
    ):
        stride = tuple(min(pair) for pair in zip(stride, size))
        image = torch.randn(3, *shape, dtype=torch.float64)
        result = sliding_window_logits(
            lambda x: torch.cat([x, x.sum(1, keepdim=True)], 1),
            image,
            SlidingWindow(size, stride, batch_size),
        )
        torch.testing.assert_close(result, torch.cat([image, image.sum(0, keepdim=True)]))

    def test_overlaps_are_averaged(self):
        calls = []

        def predict(windows):
            calls.append(len(windows))
            first = sum(calls[:-1])
            values = torch.arange(first, first + len(windows), dtype=torch.float32)
            return values.view(-1, 1, 1, 1).expand(-1, 2, *windows.shape[-2:])

        image = torch.zeros(1, 4, 6)
        result = sliding_window_logits(predict, image, SlidingWindow((4, 4), (4, 2), 1))
        # Windows 0 and 1 start at columns 0 and 2.
        expected = torch.tensor([0, 0, 0.5, 0.5, 1, 1]).expand(2, 4, 6)
        torch.testing.assert_close(result, expected)
        assert calls == [1, 1]

    def test_no_more_windows_at_once_than_requested(self):
        sizes = []

        def predict(windows):
            sizes.append(len(windows))
            return windows

        sliding_window_logits(predict, torch.zeros(1, 9, 9), SlidingWindow((3, 3), (3, 3), 4))
        assert sizes == [4, 4, 1]

    def test_half_precision_is_summed_in_single_precision(self):
        image = torch.zeros(1, 8, 8, dtype=torch.bfloat16)
        result = sliding_window_logits(lambda x: x, image, SlidingWindow((4, 4), (2, 2)))
        assert result.dtype == torch.float32


class TestBadValues:
    @pytest.mark.parametrize(
        ("size", "stride", "batch_size", "message"),
        [
            ((0, 4), (1, 1), 1, r"SLIDING_WINDOW\.SIZE must be a positive height and width"),
            ((4, 4), (4,), 1, r"SLIDING_WINDOW\.STRIDE must be a positive height and width"),
            ((4, 4), (4, 5), 1, "would have no prediction"),
            ((4, 4), (4, 4), 0, "BATCH_SIZE must be at least 1"),
        ],
    )
    def test_are_reported(self, size, stride, batch_size, message):
        with pytest.raises(UserError, match=message):
            SlidingWindow(size, stride, batch_size)


class TestSegmentorsInWindows:
    def test_one_window_as_large_as_the_image_is_whole_image_prediction(self, tiny_config):
        whole = build_model(tiny_config).eval()
        tiny_config.TEST.SLIDING_WINDOW.ENABLED = True
        tiny_config.TEST.SLIDING_WINDOW.SIZE = [128, 128]
        tiny_config.TEST.SLIDING_WINDOW.STRIDE = [128, 128]
        windows = build_model(tiny_config).eval()
        windows.load_state_dict(whole.state_dict())
        inputs = batch((128, 128), (128, 128), (50, 70))
        with torch.no_grad():
            for image in inputs:
                expected = whole([image])[0]["sem_seg"]
                torch.testing.assert_close(windows([image])[0]["sem_seg"], expected)

    def test_images_of_a_batch_do_not_mix(self, tiny_config):
        tiny_config.TEST.SLIDING_WINDOW.ENABLED = True
        tiny_config.TEST.SLIDING_WINDOW.SIZE = [64, 64]
        tiny_config.TEST.SLIDING_WINDOW.STRIDE = [40, 40]
        model = build_model(tiny_config).eval()
        inputs = batch((100, 90), (30, 130))
        with torch.no_grad():
            together = model(inputs)
            for image, output in zip(inputs, together):
                assert output["sem_seg"].shape == (5, *image["image"].shape[-2:])
                torch.testing.assert_close(model([image])[0]["sem_seg"], output["sem_seg"])

    def test_training_sees_whole_crops(self, tiny_config):
        tiny_config.TEST.SLIDING_WINDOW.ENABLED = True
        assert set(build_model(tiny_config)(batch((64, 96)))) == LOSSES["ContextAwareSegmentor"]
