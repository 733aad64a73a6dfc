import jax.numpy as jnp
import numpy as np
import pytest

from m2dit_jax.stories.store import SceneStore


@pytest.fixture
def store(tmp_path):
    return SceneStore(tmp_path / "scenes")


def test_everything_comes_back_exactly(store):
    rng = np.random.default_rng(0)
    latents = rng.normal(size=(2, 3, 4, 5)).astype(np.float32)
    frames = rng.integers(0, 256, (2, 8, 8, 3)).astype(np.uint8)
    embeds = np.asarray(jnp.asarray(rng.normal(size=(3, 4)), jnp.bfloat16))
    store.put_latents("a", latents, {"steps": 3})
    store.put_frames("a", frames, "whole")
    store.put_text("b", embeds)
    np.testing.assert_array_equal(store.latents("a"), latents)
    np.testing.assert_array_equal(store.frames("a"), frames)
    assert store.about("a") == {"steps": 3}
    found = store.text("b")
    assert store.has_text("b") and found.dtype == embeds.dtype
    np.testing.assert_array_equal(found, embeds)


def test_what_is_missing_is_said(store):
    assert store.about("a") is None
    assert not store.has_frames("a", "whole") and not store.has_text("a")
    for read in (store.latents, store.frames, store.text):
        with pytest.raises(KeyError):
            read("a")


def test_frames_of_another_decoder_do_not_count(store):
    store.put_frames("a", np.zeros((1, 2, 2, 3), np.uint8), "whole")
    assert store.has_frames("a", "whole") and not store.has_frames("a", "tiles")


@pytest.mark.parametrize("damage", [b"", b"nonsense", None])
def test_a_damaged_file_counts_as_missing(store, damage):
    store.put_latents("a", np.zeros((1, 4, 4, 3), np.float32), {})
    (path,) = store.folder.iterdir()
    path.write_bytes(path.read_bytes()[:-7] if damage is None else damage)
    assert store.about("a") is None
    with pytest.raises(KeyError):
        store.latents("a")
