"""PNG files are read back unchanged and written atomically."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from d2_ctxseg.utils.png import encode_png, write_png

SIZES = st.tuples(st.integers(1, 9), st.integers(1, 9))


def decode(content):
    return cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)


@given(image=st.sampled_from([np.uint8, np.uint16]).flatmap(lambda t: arrays.arrays(t, SIZES)))
@settings(max_examples=30, deadline=None)
def test_values_are_read_back_unchanged(image):
    decoded = decode(encode_png(image))
    assert decoded.dtype == image.dtype
    np.testing.assert_array_equal(decoded, image)


def test_colours_are_rgb(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    write_png(tmp_path / "new" / "image.png", image)
    decoded = decode((tmp_path / "new" / "image.png").read_bytes())
    np.testing.assert_array_equal(decoded[:, :, ::-1], image)


def test_what_cannot_be_encoded_leaves_the_earlier_file(tmp_path):
    path = tmp_path / "image.png"
    path.write_bytes(b"before")
    with pytest.raises(cv2.error):
        write_png(path, np.zeros((0, 0), np.uint8))
    assert path.read_bytes() == b"before"
    assert [item.name for item in tmp_path.iterdir()] == ["image.png"]
