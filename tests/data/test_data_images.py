"""Reading images: 8 bits as Detectron2 does, more bits and more channels, EXIF orientations."""

import cv2
import numpy as np
import pytest
from data_folders import write_image
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from d2_ctxseg import add_ctxseg_config
from d2_ctxseg.data import DatasetError
from d2_ctxseg.data.images import (
    check_channels,
    read_common,
    read_display_image,
    read_image,
    upright,
)
from d2_ctxseg.utils.errors import UserError
from detectron2.config import get_cfg
from detectron2.data.detection_utils import read_image as read_detectron2_image

DEEP = np.array([[[0, 4095, 2048]], [[1, 2, 3]]], np.uint16)
RANGE = (0, 4095)


def write_deep(path, array):
    """With OpenCV, which takes colours as BGR."""
    if path.suffix == ".npy":
        np.save(path, array)
    else:
        is_color = array.ndim == 3 and array.shape[2] >= 3
        order = [2, 1, 0, 3][: array.shape[2]] if is_color else slice(None)
        assert cv2.imwrite(str(path), array[..., order] if is_color else array)
    return path


class TestEightBits:
    @pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "LA", "CMYK", "1"])
    @pytest.mark.parametrize("image_format", ["BGR", "RGB", "L"])
    def test_are_read_as_detectron2_does(self, tmp_path, mode, image_format):
        pixels = np.random.default_rng(0).integers(0, 256, (5, 4, 3), np.uint8)
        path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
        Image.fromarray(pixels).convert(mode).save(path)
        expected = read_detectron2_image(str(path), image_format)
        np.testing.assert_array_equal(read_image(path, image_format), expected)
        np.testing.assert_array_equal(read_image(path, image_format, (0, 1)), expected)
        np.testing.assert_array_equal(
            read_display_image(path), read_detectron2_image(str(path), "RGB")
        )

    @pytest.mark.parametrize(("mode", "channels"), [("RGB", 3), ("L", 1), ("RGBA", 4), ("P", 3)])
    def test_give_all_channels_on_demand(self, tmp_path, mode, channels):
        pixels = np.random.default_rng(0).integers(0, 256, (5, 4, 3), np.uint8)
        Image.fromarray(pixels).convert(mode).save(tmp_path / "a.png")
        result = read_image(tmp_path / "a.png", "ALL")
        assert result.dtype == np.float32 and result.shape == (5, 4, channels)
        colors = "L" if mode == "L" else "RGB"
        expected = read_detectron2_image(str(tmp_path / "a.png"), colors)
        np.testing.assert_array_equal(result[..., :3], expected)


class TestCommonFiles:
    """JPEG and PNG files are decoded by OpenCV, to the pixels that Pillow gives."""

    pixels = cv2.resize(
        np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8), (61, 43), interpolation=3
    )

    def save(self, path, mode="RGB", **options):
        Image.fromarray(self.pixels).convert(mode).save(path, **options)
        return path

    @pytest.mark.parametrize("subsampling", [0, 1, 2])
    @pytest.mark.parametrize("progressive", [False, True])
    @pytest.mark.parametrize("image_format", ["RGB", "BGR"])
    def test_photographs(self, tmp_path, subsampling, progressive, image_format):
        options = {"subsampling": subsampling, "progressive": progressive, "quality": 80}
        path = self.save(tmp_path / "a.jpg", **options)
        assert read_common(path, image_format) is not None
        expected = read_detectron2_image(str(path), image_format)
        np.testing.assert_array_equal(read_image(path, image_format), expected)

    @pytest.mark.parametrize("suffix", [".jpg", ".png"])
    def test_of_one_channel(self, tmp_path, suffix):
        path = self.save(tmp_path / f"a{suffix}", "L")
        with Image.open(path) as image:
            np.testing.assert_array_equal(read_common(path, "L"), np.asarray(image))
        assert read_common(path, "RGB") is None
        assert read_common(self.save(tmp_path / f"b{suffix}"), "L") is None

    def test_without_opencvs_newer_flag(self, tmp_path, monkeypatch):
        path = self.save(tmp_path / "a.png")
        monkeypatch.delattr(cv2, "IMREAD_COLOR_RGB", raising=False)
        np.testing.assert_array_equal(read_common(path, "RGB"), self.pixels)

    @pytest.mark.parametrize("number", range(1, 9))
    def test_are_rotated_upright(self, tmp_path, number):
        exif = Image.Exif()
        exif[0x0112] = number
        for path in (tmp_path / "a.jpg", tmp_path / "a.png"):
            self.save(path, exif=exif)
            expected = read_detectron2_image(str(path), "RGB")
            np.testing.assert_array_equal(read_image(path, "RGB"), expected)

    @pytest.mark.parametrize(
        ("mode", "options"),
        [("RGBA", {}), ("P", {}), ("1", {}), ("RGB", {"transparency": (0, 0, 0)})],
    )
    def test_others_are_left_to_pillow(self, tmp_path, mode, options):
        path = self.save(tmp_path / "a.png", mode, **options)
        for image_format in ("RGB", "L"):
            assert read_common(path, image_format) is None
        deep = write_deep(tmp_path / "deep.png", self.pixels.astype(np.uint16) * 256)
        assert read_common(deep, "RGB") is None

    def read_like_pillow(self, path):
        """Whether Pillow reads it, and then that read_image gives the same."""
        try:
            expected = read_detectron2_image(str(path), "RGB")
        except Exception:
            return False
        np.testing.assert_array_equal(read_image(path, "RGB"), expected)
        return True

    @pytest.mark.parametrize("suffix", [".jpg", ".png"])
    @given(kept=st.floats(0, 1, exclude_max=True))
    @settings(deadline=None, max_examples=40)
    def test_that_are_cut_off_are_refused(self, tmp_path_factory, suffix, kept):
        path = self.save(tmp_path_factory.mktemp("cut") / f"a{suffix}")
        content = path.read_bytes()
        path.write_bytes(content[: int(kept * len(content))])
        if not self.read_like_pillow(path):
            with pytest.raises(DatasetError, match="Cannot read the image"):
                read_image(path, "RGB")

    @pytest.mark.parametrize("suffix", [".jpg", ".png"])
    @given(place=st.floats(0, 1, exclude_max=True), change=st.integers(1, 255))
    @settings(deadline=None, max_examples=40)
    def test_with_a_wrong_byte_are_read_as_pillow_does(
        self, tmp_path_factory, suffix, place, change
    ):
        path = self.save(tmp_path_factory.mktemp("wrong") / f"a{suffix}")
        content = bytearray(path.read_bytes())
        content[int(place * len(content))] ^= change
        path.write_bytes(content)
        if not self.read_like_pillow(path) and suffix == ".png":
            # In a JPEG file, OpenCV passes over some wrong markers that Pillow stops at.
            with pytest.raises(DatasetError, match="Cannot read the image"):
                read_image(path, "RGB")


class TestMoreBits:
    @pytest.mark.parametrize("suffix", [".png", ".tif", ".npy"])
    @pytest.mark.parametrize("image_format", ["RGB", "BGR"])
    def test_colours_become_8_bits_through_the_value_range(self, tmp_path, suffix, image_format):
        path = write_deep(tmp_path / f"a{suffix}", DEEP)
        result = read_image(path, image_format, RANGE)
        assert result.dtype == np.uint8
        expected = np.array([[[0, 255, 128]], [[0, 0, 0]]])
        np.testing.assert_array_equal(result, expected[..., :: 1 if image_format == "RGB" else -1])
        np.testing.assert_array_equal(read_display_image(path, RANGE), expected)

    @pytest.mark.parametrize("dtype", [np.uint16, np.int16, np.float32, np.float64])
    def test_one_channel_of_any_type_is_grey(self, tmp_path, dtype):
        suffix = ".npy" if dtype in (np.int16, np.float64) else ".tif"
        path = write_deep(tmp_path / f"a{suffix}", np.array([[100, 200], [150, 400]], dtype))
        result = read_image(path, "RGB", (100, 200))
        assert result[..., 0].tolist() == [[0, 255], [128, 255]]
        assert (result == result[..., :1]).all()

    @pytest.mark.parametrize("suffix", [".png", ".tif", ".npy"])
    def test_keep_their_precision_and_what_is_outside_with_all_channels(self, tmp_path, suffix):
        path = write_deep(tmp_path / f"a{suffix}", DEEP)
        result = read_image(path, "ALL", (0, 2048))
        assert result.dtype == np.float32
        np.testing.assert_allclose(result, DEEP * (255 / 2048), rtol=1e-6)

    @pytest.mark.parametrize("suffix", [".png", ".tif", ".npy"])
    @pytest.mark.parametrize("channels", [1, 3])
    @pytest.mark.parametrize("image_format", ["RGB", "BGR", "ALL"])
    def test_are_refused_where_their_range_is_not_known(
        self, tmp_path, suffix, channels, image_format
    ):
        path = write_deep(
            tmp_path / f"a{suffix}", DEEP[..., :channels].squeeze(2) if channels == 1 else DEEP
        )
        with pytest.raises(DatasetError, match=r"a\..* type uint16.*'value_range: \[0, 65535\]'"):
            read_image(path, image_format)

    @pytest.mark.parametrize("value", [np.nan, np.inf])
    def test_that_are_no_numbers_are_refused(self, tmp_path, value):
        path = write_deep(tmp_path / "a.tif", np.array([[1, value]], np.float32))
        with pytest.raises(DatasetError, match=r"a\.tif holds NaN or infinity"):
            read_image(path, "ALL", (0, 1))


class TestMoreChannels:
    @pytest.mark.parametrize("channels", [2, 4, 5, 13])
    def test_are_read_in_the_order_of_the_file(self, tmp_path, channels):
        pixels = np.random.default_rng(0).integers(0, 4096, (3, 4, channels)).astype(np.uint16)
        np.save(tmp_path / "a.npy", pixels)
        result = read_image(tmp_path / "a.npy", "ALL", (0, 255))
        np.testing.assert_array_equal(result, pixels)

    def test_of_a_tiff_file_are_colours_and_one_more(self, tmp_path):
        pixels = np.random.default_rng(0).integers(0, 4096, (3, 4, 4)).astype(np.uint16)
        path = write_deep(tmp_path / "a.tif", pixels)
        np.testing.assert_array_equal(read_image(path, "ALL", (0, 255)), pixels)

    @pytest.mark.parametrize("channels", [2, 4, 5])
    @pytest.mark.parametrize("image_format", ["RGB", "BGR", "L"])
    def test_are_not_dropped_silently(self, tmp_path, channels, image_format):
        np.save(tmp_path / "a.npy", np.zeros((2, 2, channels), np.uint8))
        with pytest.raises(DatasetError, match=f"{channels} channels.*INPUT.FORMAT to 'ALL'"):
            read_image(tmp_path / "a.npy", image_format)

    @pytest.mark.parametrize(
        ("channels", "shown"), [(1, [0, 0, 0]), (2, [0, 0, 0]), (5, [0, 1, 2])]
    )
    def test_are_shown_by_the_first_three(self, tmp_path, channels, shown):
        pixels = np.random.default_rng(0).integers(0, 256, (2, 2, channels), np.uint8)
        np.save(tmp_path / "a.npy", pixels)
        np.testing.assert_array_equal(read_display_image(tmp_path / "a.npy"), pixels[..., shown])


class TestErrors:
    @pytest.mark.parametrize("content", [b"", b"no image", None])
    @pytest.mark.parametrize("name", ["a.jpg", "a.tif", "a.npy"])
    def test_a_file_that_cannot_be_read_is_reported(self, tmp_path, content, name):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        for read in (read_display_image, lambda path: read_image(path, "RGB")):
            with pytest.raises(DatasetError, match=f"Cannot read the image .*{name}"):
                read(tmp_path / name)

    @pytest.mark.parametrize("array", [np.zeros(3), np.zeros((1, 2, 3, 4)), np.array([["a"]])])
    def test_an_array_of_another_kind_is_reported(self, tmp_path, array):
        np.save(tmp_path / "a.npy", array)
        with pytest.raises(DatasetError, match=r"a\.npy is an array"):
            read_image(tmp_path / "a.npy", "ALL", (0, 1))

    def test_pickled_objects_are_not_run(self, tmp_path):
        np.save(tmp_path / "a.npy", np.array([[None]]), allow_pickle=True)
        with pytest.raises(DatasetError, match="Cannot read the image"):
            read_image(tmp_path / "a.npy", "ALL", (0, 1))


@settings(deadline=None)
@given(number=st.integers(1, 8), height=st.integers(1, 5), width=st.integers(1, 5))
def test_arrays_are_rotated_as_detectron2_turns_images(tmp_path_factory, number, height, width):
    pixels = np.arange(height * width * 3, dtype=np.uint8).reshape(height, width, 3)
    exif = Image.Exif()
    exif[0x0112] = number
    path = tmp_path_factory.mktemp("images") / "a.png"
    Image.fromarray(pixels).save(path, exif=exif)
    expected = read_detectron2_image(str(path), "RGB")
    np.testing.assert_array_equal(upright(pixels, number), expected)
    np.testing.assert_array_equal(read_image(path, "RGB"), expected)
    np.testing.assert_array_equal(read_image(path, "ALL"), expected)


@pytest.mark.parametrize("number", [3, 6])
def test_more_bits_are_rotated_too(tmp_path, number):
    values = np.array([[1, 2, 3]], np.uint16)
    exif = Image.Exif()
    exif[0x0112] = number
    Image.fromarray(values).save(tmp_path / "a.png", exif=exif)
    result = read_image(tmp_path / "a.png", "ALL", (0, 255))
    np.testing.assert_array_equal(result[..., 0], upright(values, number))


class TestConfig:
    def config(self, *options):
        cfg = get_cfg()
        add_ctxseg_config(cfg)
        cfg.merge_from_list(list(options))
        return cfg

    def test_of_three_colours_or_as_many_channels_as_there_are_means(self):
        check_channels(self.config())
        check_channels(
            self.config("INPUT.FORMAT", "L", "MODEL.PIXEL_MEAN", [1.0], *["MODEL.PIXEL_STD", [1.0]])
        )
        five = ["MODEL.PIXEL_MEAN", [1.0] * 5, "MODEL.PIXEL_STD", [1.0] * 5]
        check_channels(self.config("INPUT.FORMAT", "ALL", *five))

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (["MODEL.PIXEL_STD", [1.0]], "PIXEL_MEAN has 3 values and MODEL.PIXEL_STD 1"),
            (
                ["MODEL.PIXEL_MEAN", [1.0] * 5, "MODEL.PIXEL_STD", [1.0] * 5],
                "'BGR' has 3 channels, but MODEL.PIXEL_MEAN has 5.*set INPUT.FORMAT to 'ALL'",
            ),
            (
                ["INPUT.FORMAT", "ALL", "INPUT.COLOR_AUG_SSD", True],
                "Set INPUT.COLOR_AUG_SSD to False",
            ),
            (["INPUT.FORMAT", "L", "INPUT.BRIGHTNESS_SHIFT", 9], "Set INPUT.BRIGHTNESS_SHIFT to 0"),
        ],
    )
    def test_that_disagrees_with_itself_is_refused(self, options, message):
        with pytest.raises(UserError, match=message):
            check_channels(self.config(*options))


def test_ordinary_files_need_no_second_look(tmp_path):
    """A palette image keeps its colours, not its indices, with all channels."""
    path = write_image(tmp_path / "a.png", np.array([[7, 200]], np.uint8), mode="P")
    assert read_image(path, "ALL")[..., 2].tolist() == [[7, 7]]
