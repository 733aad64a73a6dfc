import jax
import numpy as np
import pytest

from m2dit_jax.data.loader import make_loader
from m2dit_jax.data.shapes import ShapesSource


def tokenize(captions):
    return np.array([[len(caption), 1] for caption in captions], np.int32)


def source(length=6):
    return ShapesSource(0, 2, 2, 8, held_out=False, length=length)


def test_batches_are_the_stories_in_their_order():
    stories = source()
    batch = next(make_loader(stories, tokenize, 4))
    for i in range(4):
        np.testing.assert_array_equal(batch.video[i], stories[i]["video"])
        np.testing.assert_array_equal(batch.token_ids[i], tokenize(stories[i]["captions"]))


def test_stories_come_round_again():
    loader = make_loader(source(4), tokenize, 2)
    first, _, third = (next(loader) for _ in range(3))
    np.testing.assert_array_equal(first.video, third.video)


def test_a_saved_position_goes_on_with_the_next_batch():
    loader = make_loader(source(), tokenize, 2)
    next(loader)
    position = loader.get_state()
    following = next(loader)
    other = make_loader(source(), tokenize, 2)
    other.set_state(position)
    np.testing.assert_array_equal(next(other).video, following.video)


def test_each_process_has_its_own_share(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    batch = next(make_loader(source(), tokenize, 4))
    np.testing.assert_array_equal(batch.video, [source()[1]["video"], source()[3]["video"]])
    with pytest.raises(ValueError, match="5 stories does not divide over 2"):
        make_loader(source(), tokenize, 5)
