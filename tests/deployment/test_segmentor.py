"""A trained model in the library: its inputs and its results."""

import numpy as np
import pytest
import torch
from daylight import DAY, NIGHT, half_bright, make_run
from PIL import Image

import d2_ctxseg
from d2_ctxseg.utils.errors import MissingFileError, UserError

ORIENTATION = 274  # of the EXIF standard


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    """Exports of a model that distinguishes dark and bright pixels."""
    return make_run(tmp_path_factory.mktemp("model") / "run", "LinearSegmentor", "daylight_library")


@pytest.fixture(scope="module")
def segmentor(run_folder):
    return d2_ctxseg.load_segmentor(run_folder, device="cpu")


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.png"
    Image.fromarray(half_bright()).save(path)
    return path


class TestWhatCanBePredicted:
    def test_a_path_a_pillow_image_and_an_array_are_the_same(self, segmentor, photo):
        expected = segmentor.predict(half_bright())
        for image in (photo, str(photo), Image.open(photo)):
            result = segmentor.predict(image)
            assert np.array_equal(result.labels, expected.labels)
            assert np.array_equal(result.image, half_bright())
        assert segmentor.predict(photo).path == photo and expected.path is None
        assert (expected.labels[:, :60] == 0).all() and (expected.labels[:, 68:] == 1).all()

    @pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK"])
    def test_pillow_images_of_other_modes_become_rgb(self, segmentor, mode):
        labels = segmentor.predict(Image.fromarray(half_bright()).convert(mode)).labels
        assert (labels == segmentor.predict(half_bright()).labels).mean() > 0.97

    def test_a_pillow_image_is_rotated_upright_as_its_file_is(self, segmentor, tmp_path):
        path, image = tmp_path / "turned.png", Image.fromarray(half_bright())
        image.getexif()[ORIENTATION] = 6
        image.save(path, exif=image.getexif())
        labels = segmentor.predict(Image.open(path)).labels
        assert labels.shape == (128, 96)
        assert np.array_equal(labels, segmentor.predict(path).labels)

    def test_an_array_may_be_a_view(self, segmentor):
        image = half_bright()[:, ::-1]
        assert segmentor.predict(image).labels[0, 0] == 1


class TestLists:
    def test_a_list_gives_a_list_in_its_order(self, segmentor, photo):
        images = [half_bright(), photo, half_bright()[:50], half_bright()[:, ::-1]]
        for batch_size in (1, 3):
            results = segmentor.predict(images, batch_size=batch_size)
            for image, result in zip(images, results, strict=True):
                assert np.array_equal(result.labels, segmentor.predict(image).labels)

    def test_images_of_one_size_share_a_batch(self, segmentor, monkeypatch):
        batches, forward = [], segmentor.model.low_resolution_logits
        monkeypatch.setattr(
            segmentor.model,
            "low_resolution_logits",
            lambda images, sizes=None: batches.append(len(images)) or forward(images, sizes),
        )
        large, small = half_bright(), half_bright()[:64]
        segmentor.predict([large, small, large, large], batch_size=3)
        assert batches == [2, 1, 1]

    def test_of_no_image_is_empty(self, segmentor):
        assert segmentor.predict([]) == []

    def test_a_generator_is_read_as_the_results_are_taken(self, segmentor):
        taken = []
        images = (taken.append(number) or half_bright() for number in range(5))
        results = segmentor.predict_all(images, batch_size=2)
        assert taken == []
        next(results)
        assert taken == [0, 1]


class TestConfidence:
    def test_it_is_the_probability_of_the_pixels_class(self, segmentor):
        result = segmentor.predict(half_bright(), confidence=True)
        inputs = [{"image": torch.from_numpy(half_bright().transpose(2, 0, 1).copy()).float()}]
        with torch.no_grad():
            probabilities = segmentor.model(inputs)[0]["sem_seg"].softmax(0)
        assert np.allclose(result.confidence, probabilities.amax(0), atol=1e-5)
        assert np.array_equal(result.labels, probabilities.argmax(0))
        assert result.confidence.dtype == np.float32

    def test_only_what_is_requested_is_there(self, segmentor):
        assert segmentor.predict(half_bright()).confidence is None
        result = segmentor.predict(half_bright(), classes=False, confidence=True)
        assert result.labels is None and result.confidence.shape == (96, 128)
        with pytest.raises(UserError, match="classes=True"):
            result.overlay()
        with pytest.raises(UserError, match="set at least one"):
            segmentor.predict(half_bright(), classes=False)

    def test_classes_and_confidence_follow_the_image_in_this_order(self, segmentor):
        result = segmentor.predict(half_bright(), False, True)
        assert result.labels is None and result.confidence is not None
        [result] = segmentor.predict([half_bright()], True, True)
        assert result.labels is not None and result.confidence is not None
        [result] = segmentor.predict_all(iter([half_bright()]), True, False)
        assert result.confidence is None
        with pytest.raises(TypeError):
            segmentor.predict(half_bright(), True, False, 4)  # batch_size has to be named


class TestTiles:
    def test_one_tile_for_all_is_the_image(self, segmentor):
        tiled = segmentor.predict(half_bright(), tiles=(96, 128))
        assert np.array_equal(tiled.labels, segmentor.predict(half_bright()).labels)

    def test_small_ones_still_tell_dark_from_bright(self, segmentor):
        before = segmentor.model.sliding_window
        labels = segmentor.predict(half_bright(), tiles=(64, 112)).labels
        assert (labels[:, :56] == 0).mean() > 0.95 and (labels[:, 72:] == 1).mean() > 0.95
        assert segmentor.model.sliding_window is before

    def test_they_take_images_that_are_too_large_in_one_piece(self, run_folder, photo):
        segmentor = d2_ctxseg.load_segmentor(
            run_folder, device="cpu", opts=["TEST.MAX_MEGAPIXELS", 0.01]
        )
        for image in (half_bright(), photo, Image.open(photo)):
            with pytest.raises(
                UserError, match=r"128 x 96 pixels, 0\.0 megapixels.*MAX_MEGAPIXELS"
            ):
                segmentor.predict(image)
            assert segmentor.predict(image, tiles=64).labels.shape == (96, 128)

    @pytest.mark.parametrize("tiles", [4, (64,), (64, 0), 64.5])
    def test_that_make_no_sense_are_refused(self, segmentor, tiles):
        with pytest.raises((UserError, TypeError), match="tiles|iterable"):
            segmentor.predict(half_bright(), tiles=tiles)


class TestResult:
    @pytest.fixture(scope="class")
    def result(self, segmentor):
        return segmentor.predict(half_bright())

    def test_classes_have_the_datasets_names_and_colours(self, segmentor, result):
        assert segmentor.classes == result.classes == ("night", "day")
        assert result.palette.tolist() == [NIGHT, DAY] and result.palette.dtype == np.uint8
        assert result.ignore_label == 255

    def test_shares_are_by_name_and_add_up(self, result):
        assert sum(result.shares().values()) == pytest.approx(1)
        assert result.shares()["night"] == pytest.approx((result.labels == 0).mean())

    def test_a_mask_is_where_its_class_is(self, result):
        assert np.array_equal(result.mask("day"), result.labels == 1)
        with pytest.raises(UserError, match="no class 'noon'.* The classes are night, day"):
            result.mask("noon")

    def test_colours_are_the_palettes(self, result):
        assert result.colors()[0, 0].tolist() == NIGHT and result.colors()[0, -1].tolist() == DAY

    def test_an_overlay_is_an_image_with_the_classes_colours(self, result):
        overlay = result.overlay(alpha=1.0, legend=False)
        assert overlay.dtype == np.uint8 and overlay.shape[2] == 3
        assert overlay[5, 5].tolist() == NIGHT
        assert result.overlay().shape[1] > overlay.shape[1]  # the legend beside it

    def test_labels_are_saved_as_indices(self, result, tmp_path):
        result.save_labels(tmp_path / "labels.png")
        assert np.array_equal(np.asarray(Image.open(tmp_path / "labels.png")), result.labels)


class TestWrongImages:
    @pytest.mark.parametrize(
        ("image", "message"),
        [
            (np.zeros((8, 8), np.uint8), "greyscale, expected RGB"),
            (np.zeros((2, 8, 8, 3), np.uint8), "as a list"),
            (np.zeros((3, 8, 8), np.uint8), "channels come first"),
            (np.zeros((8, 8, 4), np.uint8), "alpha channel"),
            (np.zeros((8, 8, 7), np.uint8), r"\(8, 8, 7\).*expected RGB"),
            (np.zeros((8, 8, 3), np.float32), r"float32.*255 \* image"),
            (np.zeros((8, 8, 3), np.uint16), "uint16.*Scale it"),
            (np.zeros((0, 8, 3), np.uint8), "is empty"),
            (Image.new("I;16", (8, 8)), "'I;16'.*expected 8 bits"),
            (torch.zeros(3, 8, 8), r"torch.Tensor.*permute\(1, 2, 0\)"),
            (b"\xff\xd8", "bytes.*BytesIO"),
            (None, "NoneType, expected a path"),
        ],
    )
    def test_say_what_was_given_and_what_is_expected(self, segmentor, image, message):
        with pytest.raises(UserError, match=message):
            segmentor.predict(image)

    def test_a_missing_file_is_reported(self, segmentor, tmp_path):
        with pytest.raises(MissingFileError, match=f"no image '{tmp_path}/nowhere.png'"):
            segmentor.predict(tmp_path / "nowhere.png")

    def test_a_folder_is_no_image(self, segmentor, tmp_path):
        with pytest.raises(UserError, match="is a folder, expected an image"):
            segmentor.predict(tmp_path)

    @pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n but cut off"])
    def test_a_file_that_cannot_be_decoded_is_reported(self, segmentor, tmp_path, content):
        path = tmp_path / "broken.png"
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"Cannot read the image .*broken\.png"):
            segmentor.predict(path)

    def test_a_pillow_image_that_is_cut_off_is_an_error(self, segmentor, photo):
        photo.write_bytes(photo.read_bytes()[:2000])
        with pytest.raises(UserError, match="cannot be decoded"):
            segmentor.predict(Image.open(photo))

    def test_the_results_before_it_are_not_lost(self, segmentor, tmp_path):
        results = segmentor.predict_all([half_bright(), tmp_path / "nowhere.png"])
        assert next(results).labels.shape == (96, 128)
        with pytest.raises(MissingFileError):
            next(results)
