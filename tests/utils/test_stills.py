import numpy as np
import pytest
from PIL import Image

from m2dit_jax.utils import stills
from m2dit_jax.utils.stills import StillError, read_still


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)


@pytest.mark.parametrize("ending", ["png", "webp"])
def test_pixels_come_back_as_they_were(ending, pixels, tmp_path):
    path = tmp_path / f"bild ü.{ending}"
    Image.fromarray(pixels).save(path, **({"lossless": True} if ending == "webp" else {}))
    np.testing.assert_array_equal(read_still(path), pixels)


def test_a_picture_is_turned_as_its_exif_says(pixels, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    assert read_still(tmp_path / "turned.png").shape == (7, 5, 3)


def test_what_is_transparent_is_white(tmp_path):
    Image.new("RGBA", (2, 2), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    assert (read_still(tmp_path / "clear.png") == 255).all()


def test_what_cannot_be_shown_rightly_is_refused_by_name(pixels, tmp_path, monkeypatch):
    image = Image.fromarray(pixels)
    image.save(tmp_path / "two.webp", save_all=True, append_images=[Image.new("RGB", (7, 5))])
    Image.fromarray(pixels[..., 0].astype(np.uint16)).save(tmp_path / "deep.png")
    image.save(tmp_path / "film.gif")
    image.save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:60])
    problems = {
        "two.webp": "holds 2 pictures",
        "deep.png": "more than 8 bits",
        "film.gif": "PNG, JPEG, WEBP",
        "cut.png": "cannot be read",
        "none.png": "cannot be read",
    }
    for name, problem in problems.items():
        with pytest.raises(StillError, match=f"{name}.*{problem}"):
            read_still(tmp_path / name)
    monkeypatch.setattr(stills, "MOST_PIXELS", 34)
    with pytest.raises(StillError, match="35 pixels"):
        read_still(tmp_path / "whole.png")
