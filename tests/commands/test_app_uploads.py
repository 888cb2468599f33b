"""Uploads that demo/app.py accepts as images, and uploads that it rejects."""

import numpy as np
import pytest
from daylight import half_bright
from PIL import Image, ImageFile
from uploaded_images import write_bomb

from d2_ctxseg.commands.app import uploads as app_uploads
from d2_ctxseg.utils.errors import UserError


def read(path, max_megapixels=20):
    return app_uploads.read_upload(path, max_megapixels)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".tif", ".webp"])
def test_images_are_read_as_rgb(tmp_path, suffix):
    Image.fromarray(half_bright()).save(tmp_path / f"photo{suffix}", quality=95)
    image = read(tmp_path / f"photo{suffix}")
    assert image.shape == (96, 128, 3) and image.dtype == np.uint8
    assert image[:, :56].mean() < 60 and image[:, 72:].mean() > 180


@pytest.mark.parametrize("mode", ["L", "P", "RGBA"])
def test_images_of_other_modes_become_rgb(tmp_path, mode):
    Image.fromarray(half_bright()).convert(mode).save(tmp_path / "photo.png")
    image = read(tmp_path / "photo.png")
    assert image.shape == (96, 128, 3) and image.dtype == np.uint8


def test_an_image_taken_sideways_is_rotated_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise
    Image.fromarray(half_bright()).save(tmp_path / "photo.jpg", exif=exif)
    image = read(tmp_path / "photo.jpg")
    assert image.shape == (128, 96, 3)
    assert image[:56].mean() < 60 and image[72:].mean() > 180


@pytest.mark.parametrize("content", [b"", b"%!PS-Adobe-3.0 EPSF-3.0\n"])
def test_what_is_no_image_is_refused_by_name(tmp_path, content):
    (tmp_path / "notes.png").write_bytes(content)
    with pytest.raises(UserError, match=r"^notes.png is not an image .* Choose a JPEG, PNG"):
        read(tmp_path / "notes.png")


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ((8000, 5000), "8000 x 5000 pixels, 40.0 megapixels.* at most 20 megapixels"),
        ((20000, 20000), "more than 179 megapixels.* at most 20 megapixels"),  # Pillow's own limit
    ],
)
def test_a_bomb_is_refused_without_decoding_it(tmp_path, monkeypatch, size, message):
    bomb = write_bomb(tmp_path / "bomb.png", *size)
    assert bomb.stat().st_size < 100_000

    def load(self):
        raise AssertionError("the bomb was decoded")

    monkeypatch.setattr(ImageFile.ImageFile, "load", load)
    with pytest.raises(UserError, match=f"^bomb.png .*{message}.*--max-megapixels"):
        read(bomb)


def test_the_limit_is_the_largest_image_taken(tmp_path):
    bomb = write_bomb(tmp_path / "bomb.png", 1000, 1000)
    assert read(bomb, max_megapixels=1).shape == (1000, 1000, 3)
    with pytest.raises(UserError, match="1.0 megapixels"):
        read(bomb, max_megapixels=0.999)


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_an_image_cut_off_is_refused_as_damaged(tmp_path, suffix):
    whole = tmp_path / f"whole{suffix}"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (99, 99, 3), np.uint8)).save(whole)
    (tmp_path / f"part{suffix}").write_bytes(whole.read_bytes()[:-3000])
    with pytest.raises(UserError, match=f"^part{suffix} (is damaged|is not an image|cannot be)"):
        read(tmp_path / f"part{suffix}")


@pytest.mark.parametrize("size", [(15, 40), (1000, 20)])
def test_an_image_too_thin_for_the_models_is_refused(tmp_path, size):
    Image.new("RGB", size).save(tmp_path / "thin.png")
    with pytest.raises(UserError, match=f"thin.png is {size[0]} x {size[1]} pixels"):
        read(tmp_path / "thin.png")
