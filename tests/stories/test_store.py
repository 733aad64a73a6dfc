import json
import random

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from m2dit_jax.stories.store import MemoryStore, SceneStore
from m2dit_jax.utils import digests
from tests.rot import damaged


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


def test_rot_is_never_silent(store):
    """300 damages of latents, frames and texts: the entry is not there, or it is as it was."""
    rng, drawn = random.Random(5), np.random.default_rng(5)
    latents = drawn.normal(size=(2, 3, 4, 5)).astype(np.float32)
    frames = drawn.integers(0, 256, (2, 8, 8, 3)).astype(np.uint8)
    embeds = np.asarray(jnp.asarray(drawn.normal(size=(3, 4)), jnp.bfloat16))
    store.put_latents("a", latents, {"steps": 3})
    store.put_frames("a", frames, "whole")
    store.put_text("a", embeds)
    noticed = 0
    for number in range(300):
        path = sorted(store.folder.iterdir())[number % 3]
        good = path.read_bytes()
        path.write_bytes(damaged(good, rng))
        fresh = SceneStore(store.folder)  # which has read none of them
        for there, read, wanted in (
            (fresh.about("a") == {"steps": 3}, fresh.latents, latents),
            (fresh.has_frames("a", "whole"), fresh.frames, frames),
            (fresh.has_text("a"), fresh.text, embeds),
        ):
            if there:
                assert np.array_equal(read("a"), wanted) and read("a").dtype == wanted.dtype
            else:
                noticed += 1
                with pytest.raises(KeyError):
                    read("a")
        path.write_bytes(good)
    assert noticed > 250


def test_zeroed_latents_are_a_problem_that_is_named(store, monkeypatch):
    store.put_latents("a", np.ones((1, 2, 2, 3), np.float32), {})
    path = store.folder / "a.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:-48] + bytes(48))
    assert store.about("a") is None
    assert store.problem("a") == "a.safetensors is damaged"
    assert store.problem("b") is None
    monkeypatch.setenv(digests.SKIP, "1")
    assert store.about("a") == {} and store.latents("a").max() == 0


def test_what_other_weights_made_does_not_count(tmp_path):
    """The key holds the ends of the weights' files only: what lies between may have changed."""
    old = SceneStore(tmp_path, lambda: "1")
    old.put_latents("a", np.ones((1, 2, 2, 3), np.float32), {})
    old.put_text("a", np.ones((2, 3), np.float32))
    assert old.about("a") == {} and old.problem("a") is None
    new = SceneStore(tmp_path, lambda: "2")
    assert new.about("a") is None and not new.has_text("a")
    assert new.problem("a") == "the model's weights have changed, within their files"
    kept = MemoryStore(lambda: "2")
    kept.put_latents("a", np.zeros((1, 2, 2, 3), np.float32), {})
    kept.copy_to(tmp_path)
    assert new.about("a") == {} and old.about("a") is None


def test_files_of_older_versions_are_taken_as_they_are(tmp_path):
    about = json.dumps({"steps": 3})
    save_file(
        {"array": np.ones((1, 1, 1, 3), np.float32)},
        tmp_path / "a.safetensors",
        metadata={"about": about},
    )
    store = SceneStore(tmp_path, lambda: "1")
    assert store.about("a") == {"steps": 3} and store.latents("a").sum() == 3
