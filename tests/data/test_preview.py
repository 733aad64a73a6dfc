import base64
import io
import re
import shutil

import ml_dtypes
import numpy as np
import pytest
from PIL import Image

from m2dit_jax.data.encode.codecs import NETWORKS_USED, fingerprint
from m2dit_jax.data.encoded import EncodedError, EncodedInfo, EncodedStory, Origin, shard_name
from m2dit_jax.data.encoded_writing import finish_dataset, write_shard
from m2dit_jax.data.preview import write_preview

EVIL = "<script>alert(1)</script>\"'&<img src=http://x/y>"


def write_dataset(path, info, settings, arrays):
    """One story of two scenes; every text in it is hostile."""
    path.mkdir()
    origin = Origin(
        scene=1,
        place=EVIL,
        video=EVIL + "\udcff",
        start=0.5,
        end=None,
        source={"width": 40, "height": 30, "fps": 23.976, "seconds": 2.0},
        frames=[3, 6, 9, 12, 15],
        metadata={EVIL: EVIL},
    )
    story = EncodedStory(
        name=EVIL, captions=["a red cross " + EVIL, ""], origins=[origin, origin], **arrays
    )
    embeds = np.zeros(info.text_shape, ml_dtypes.bfloat16) if info.text_shape else None
    finish_dataset(
        path,
        info,
        {"sampling": "middle", "stride": 3, **settings},
        [write_shard(path / shard_name(0, 1), info, [story])],
        [2],
        {"size": {"40 x 30": 2}, "fps": {"23.976": 2}, "seconds": {"2": 2}, "words": {"3": 2}},
        {"items": [{"place": EVIL, "video": EVIL, "kind": EVIL, "reason": EVIL}]},
        embeds,
    )


def pictures(page):
    coded = re.findall(r'src="data:image/(?:png|jpeg);base64,([^"]*)"', page)
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))) for data in coded]


def is_harmless(page):
    """No element, and no attribute's end, comes from a text of the user."""
    tags = set(re.findall(r"<\s*(\w+)", page.replace("<!doctype", "")))
    return "script" not in tags and "src=http" not in page.replace("&lt;img src=http", "")


def test_pixels(tmp_path):
    info = EncodedInfo("pixels", "stories", 10, 24, 40)
    colours = np.linspace(0, 250, 20).astype(np.uint8).reshape(2, 10, 1, 1, 1)
    pixels = np.broadcast_to(colours, (2, 10, 24, 40, 3)).copy()
    write_dataset(tmp_path / "set", info, {}, {"pixels": pixels})
    path = write_preview(tmp_path / "set")
    page = path.read_text()
    assert path == tmp_path / "set/preview.html"
    assert is_harmless(page)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    found = pictures(page)
    assert len(found) == 2 * 8
    np.testing.assert_array_equal(found[0], pixels[0, 0])
    np.testing.assert_array_equal(found[15], pixels[1, 9])
    for text in ("40 x 30 (2)", "frames 3, 6, …, 15", "from 0.5 s to its end", "2 scenes"):
        assert text in page
    assert page.count("<details>") == 3


@pytest.fixture
def model(golden, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(golden / "pipe_5b", folder)
    return folder


def write_vae_dataset(path, model):
    info = EncodedInfo("vae", "stories", 5, 16, 24, (2, 2, 3, 4), (12, 32), 0.7)
    rng = np.random.default_rng(0)
    arrays = {
        name: rng.standard_normal((2, *shape)).astype(dtype)
        for name, (shape, dtype) in info.arrays.items()
    }
    settings = {"model": str(model), "weights": fingerprint(model, NETWORKS_USED)}
    write_dataset(path, info, settings, arrays)


@pytest.mark.slow
def test_latents_are_decoded_and_captions_are_what_the_model_reads(tmp_path, model):
    write_vae_dataset(tmp_path / "set", model)
    page = write_preview(tmp_path / "set").read_text()
    found = pictures(page)
    assert len(found) == 2 * 5  # of the two latent frames the decoder makes five
    assert found[0].shape == (16, 24, 3)
    assert is_harmless(page)
    captions = re.findall(r'<p class="caption" dir="auto">(.*?)</p>', page, re.DOTALL)
    assert captions[0].startswith("a red cross") and captions[0].endswith("…")
    assert captions[1] == ""


def test_without_the_model_latents_are_shown_as_they_are(tmp_path, model):
    write_vae_dataset(tmp_path / "set", model)
    config = model / "vae/config.json"
    config.write_text(config.read_text() + "\n")
    page = write_preview(tmp_path / "set").read_text()
    assert f"{model}: has changed since" in page
    shutil.rmtree(model)
    page = write_preview(tmp_path / "set").read_text()
    assert f"{model}: no such folder" in page
    found = pictures(page)
    assert len(found) == 2 * 2
    assert found[0].shape == (2, 3, 3)
    assert is_harmless(page)


def test_a_folder_that_is_no_dataset(tmp_path):
    with pytest.raises(EncodedError, match="is no output of"):
        write_preview(tmp_path)
