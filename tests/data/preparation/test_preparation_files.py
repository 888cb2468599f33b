"""Making the files of a dataset: labels, images, and pairs of them."""

import os
from pathlib import Path

import numpy as np
import pytest
from data_folders import write_image
from PIL import Image

from d2_ctxseg.data import DatasetError, read_label
from d2_ctxseg.data.preparation import ImageFile, LabelFile, Pair, class_indices
from d2_ctxseg.data.preparation.files import ExistingFileError, reduced_size
from d2_ctxseg.utils.errors import UserError

ID_MAP = class_indices([1, 2, 3], [0])


def label_file(folder: Path, values=((0, 1), (2, 3)), **options) -> LabelFile:
    source = write_image(folder / "official/a.png", np.array(values, np.uint8))
    return LabelFile(source, folder / "made/a.png", ID_MAP, **options)


def image_file(folder: Path, size=(40, 60), exif=None, **options) -> ImageFile:
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    source = folder / "official/a.jpg"
    source.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(source, **({} if exif is None else {"exif": exif}))
    return ImageFile(source, folder / "made/a.jpg", **options)


def turned(number: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = number
    return exif


class TestLabelFile:
    def test_holds_what_each_official_value_becomes(self, tmp_path):
        file = label_file(tmp_path)
        assert Pair(file).prepare()
        assert read_label(file.target).tolist() == [[255, 0], [1, 2]]

    def test_of_16_bits_keeps_large_values(self, tmp_path):
        source = write_image(tmp_path / "a.png", np.array([[0, 1], [2, 1]], np.uint8))
        id_map = class_indices([1, 2], [0], ignore_label=65535, first_index=845)
        file = LabelFile(source, tmp_path / "b.tif", id_map)
        Pair(file).prepare()
        assert read_label(file.target).tolist() == [[65535, 845], [846, 845]]
        file.check(verify=True)

    def test_is_reduced_by_taking_nearest_pixels(self, tmp_path):
        values = np.repeat(np.repeat([[1, 2, 3], [3, 0, 1]], 4, 0), 4, 1)
        file = label_file(tmp_path, values, short_side=2)
        Pair(file).prepare()
        assert read_label(file.target).tolist() == [[0, 1, 2], [2, 255, 0]]
        file.check(verify=True)

    def test_must_have_the_size_of_its_image(self, tmp_path):
        image = write_image(tmp_path / "a.jpg", np.zeros((4, 6, 3), np.uint8))
        with pytest.raises(DatasetError, match="2x2 pixels, but its image .* has 6x4"):
            label_file(tmp_path, image=image).label()

    @pytest.mark.parametrize("value", [4, 200])
    def test_refuses_a_value_that_is_no_label(self, tmp_path, value):
        with pytest.raises(DatasetError, match=rf"a\.png holds the value {value}, .*labels of"):
            label_file(tmp_path, [[1, value]]).label()

    def test_that_differs_is_noticed_with_verify_only(self, tmp_path):
        file = label_file(tmp_path)
        write_image(file.target, np.zeros((2, 2), np.uint8))
        file.check(verify=False)
        with pytest.raises(ExistingFileError, match="labels differ.*--overwrite"):
            file.check(verify=True)

    def test_of_another_size_is_noticed_always(self, tmp_path):
        file = label_file(tmp_path)
        write_image(file.target, np.zeros((2, 9), np.uint8))
        with pytest.raises(ExistingFileError, match="9x2, not 2x2"):
            file.check(verify=False)


class TestImageFile:
    def test_is_a_relative_link_that_survives_moving_the_root(self, tmp_path):
        file = image_file(tmp_path / "old")
        prepare_image(file)
        file.check(verify=True)
        (tmp_path / "old").rename(tmp_path / "new")
        moved = tmp_path / "new/made/a.jpg"
        assert moved.is_symlink() and not Path(os.readlink(moved)).is_absolute()
        assert moved.read_bytes() == (tmp_path / "new/official/a.jpg").read_bytes()

    def test_is_copied_where_links_cannot_be_made(self, tmp_path, monkeypatch):
        monkeypatch.setattr(Path, "symlink_to", lambda *_: (_ for _ in ()).throw(OSError()))
        file = image_file(tmp_path)
        prepare_image(file)
        assert not file.target.is_symlink()
        assert file.target.read_bytes() == file.source.read_bytes()
        file.check(verify=True)
        file.target.write_bytes(file.target.read_bytes() + b"more")
        with pytest.raises(ExistingFileError, match="its bytes differ"):
            file.check(verify=True)

    def test_is_reduced_to_the_shorter_side(self, tmp_path):
        file = image_file(tmp_path, short_side=20)
        prepare_image(file)
        assert Image.open(file.target).size == (30, 20)
        file.check(verify=True)

    @pytest.mark.parametrize("number", [3, 6])
    def test_is_stored_as_its_label_lies_when_exif_would_rotate_it(self, tmp_path, number):
        file = image_file(tmp_path, exif=turned(number))
        prepare_image(file)
        assert not file.target.is_symlink()
        with Image.open(file.source) as stored, Image.open(file.target) as image:
            assert image.size == (60, 40) and 0x0112 not in image.getexif()
            difference = np.asarray(image, float) - np.asarray(stored, float)
        assert np.abs(difference).mean() < 10

    def test_of_a_quality_is_always_written_again(self, tmp_path):
        file = image_file(tmp_path, quality=75)
        prepare_image(file)
        expected = tmp_path / "expected.jpg"
        Image.fromarray(np.asarray(Image.open(file.source))).save(expected)  # Pillow's default: 75
        assert file.target.read_bytes() == expected.read_bytes()
        file.check(verify=True)

    def test_of_another_quality_and_a_link_are_noticed(self, tmp_path):
        prepare_image(image_file(tmp_path))
        with pytest.raises(ExistingFileError, match="not a JPEG of quality 75"):
            image_file(tmp_path, quality=75).check(verify=False)
        Pair(label_file(tmp_path), image_file(tmp_path, quality=95)).prepare(overwrite=True)
        with pytest.raises(ExistingFileError, match="not a JPEG of quality 75"):
            image_file(tmp_path, quality=75).check(verify=False)


def prepare_image(file: ImageFile) -> None:
    folder = file.source.parents[1]
    Pair(label_file(folder), file).prepare()


class TestPair:
    def test_that_is_there_stays_as_it_is(self, tmp_path):
        pair = Pair(label_file(tmp_path), image_file(tmp_path))
        assert pair.prepare() is True
        before = pair.label.target.stat().st_mtime_ns
        assert pair.prepare(verify=True) is False
        assert pair.label.target.stat().st_mtime_ns == before
        assert pair.prepare(overwrite=True) is True

    @pytest.mark.parametrize("broken", ["image", "label"])
    def test_of_which_one_file_is_broken_leaves_no_files(self, tmp_path, broken):
        pair = Pair(label_file(tmp_path), image_file(tmp_path, short_side=20))
        getattr(pair, broken).source.write_bytes(b"no image")
        with pytest.raises(DatasetError, match=f"Cannot read the {broken}"):
            pair.prepare()
        assert not (tmp_path / "made").exists()

    def test_in_its_place_already_is_checked_and_never_written(self, tmp_path):
        label, image = label_file(tmp_path), image_file(tmp_path)
        pair = Pair(
            LabelFile(label.source, label.source, ID_MAP),
            ImageFile(image.source, image.source, short_side=None, copy=True),
        )
        before = image.source.read_bytes(), label.source.read_bytes()
        assert pair.prepare(overwrite=True) is False
        assert (image.source.read_bytes(), label.source.read_bytes()) == before
        write_image(label.source, np.full((2, 2), 9, np.uint8))
        with pytest.raises(DatasetError, match="holds the value 9"):
            pair.prepare(verify=True)

    def test_that_cannot_be_written_ends_the_run(self, tmp_path):
        (tmp_path / "made").write_text("a file where the folder should be")
        with pytest.raises(UserError, match="Cannot write .*made") as error:
            Pair(label_file(tmp_path)).prepare()
        assert not isinstance(error.value, DatasetError)


@pytest.mark.parametrize(
    ("size", "reduced"),
    [((683, 512), (683, 512)), ((1024, 768), (683, 512)), ((700, 1400), (512, 1024))],
)
def test_the_shorter_side_is_reduced_to_512_as_in_public_preparations(size, reduced):
    assert reduced_size(size, 512) == reduced
    assert reduced_size(size, None) == size
