from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from m2dit_jax.data.shapes import ShapesSource
from m2dit_jax.utils.frames import (
    brightness,
    colours,
    cut_strength,
    find_cuts,
    is_cut,
    is_frozen,
    motion,
    saturation,
    sharpness,
)
from m2dit_jax.utils.media import read_clip

REAL = Path(__file__).parents[2] / "../shared/data"

videos = arrays(
    np.uint8, st.tuples(st.integers(1, 4), st.just(4), st.just(5), st.just(3)), fill=st.nothing()
)


def flat(*frames):
    """A video whose frames have one colour each."""
    return np.stack([np.full((16, 16, 3), colour, np.uint8) for colour in frames])


@pytest.fixture(scope="module")
def stories():
    source = ShapesSource(5, 3, 3, 16, True, 40)
    return [source[number]["video"] for number in range(40)]


def test_motion_is_the_mean_change():
    assert motion(flat(0, 10, 40)) == 20
    assert motion(flat((0, 0, 0), (30, 0, 0))) == 10
    with pytest.raises(ValueError, match="at least 2 frames, found 1"):
        motion(flat(0))


def test_saturation_brightness_and_sharpness_of_known_colours():
    assert saturation(flat((255, 0, 0), (128, 128, 128))) == 0.5
    assert saturation(flat(0)) == 0
    assert saturation(flat((200, 100, 150))) == pytest.approx(0.5)
    assert brightness(flat((255, 0, 0))) == pytest.approx(0.299 * 255)
    assert brightness(flat(255, 0)) == pytest.approx(127.5)
    board = np.indices((16, 16)).sum(0) % 2 * 255
    assert sharpness(np.repeat(board[None, ..., None], 3, -1).astype(np.uint8)) == pytest.approx(
        255
    )
    assert sharpness(flat(90)) == 0
    assert sharpness(np.zeros((1, 1, 1, 3), np.uint8)) == 0


def test_frozen_is_a_still_with_flicker_but_no_scene_that_moves(stories):
    still = np.repeat(stories[0][0][:1], 5, 0)
    assert is_frozen(still)
    flicker = still.copy()
    flicker[::2, ::16, ::16] ^= 1
    assert motion(flicker) > 0
    assert is_frozen(flicker)
    assert not any(is_frozen(scene) for story in stories for scene in story)


def test_cuts_of_shapes_stories_are_found_in_three_small_frames(stories):
    for story in stories:
        for before, after in zip(story[:-1], story[1:], strict=True):
            assert is_cut(before, after)
            assert is_cut(before[-1:], after[:1])


def test_a_scene_that_goes_on_has_no_cut(stories):
    for story in stories:
        for scene in story:
            assert not is_cut(scene[:2], scene[2:])
            assert not is_cut(scene[:1], scene[1:])


def test_what_only_moves_is_no_change():
    picture = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    assert cut_strength(picture[None], np.roll(picture, 5, 1)[None]) == pytest.approx(0, abs=1e-9)


def test_a_cut_must_stand_out_from_the_changes_around_it():
    flashing = flat(0, 60, 0, 60, 0)
    assert cut_strength(flashing, flat(60)) > 0.12
    assert not is_cut(flashing, flat(60, 0, 60))
    assert is_cut(flat(0, 0, 0), flat(60, 60, 60))


def test_a_cross_fade_has_no_cut():
    fade = flat(*range(0, 256, 8))
    assert not any(is_cut(fade[:i], fade[i:]) for i in range(1, len(fade)))


def test_colours_between_levels_count_for_both():
    # levels are 0, 85, 170 and 255
    shares = colours(flat((0, 0, 0), (34, 85, 255)))
    assert shares[0, 0] == 1
    near, far = (0 * 4 + 1) * 4 + 3, (1 * 4 + 1) * 4 + 3
    np.testing.assert_allclose(shares[1, [near, far]], [0.6, 0.4])


def test_cuts_are_found_where_they_are():
    red, green, blue = ((200, 0, 0), (0, 200, 0), (0, 0, 200))
    assert find_cuts(colours(flat(*[red] * 3, *[green] * 4, *[blue] * 2))) == [3, 7]
    assert find_cuts(colours(flat(*[red] * 5))) == []
    assert find_cuts(colours(flat(red))) == []
    # Half blue, then blue: one cut, at the stronger of two neighbouring changes.
    between = (120, 0, 80)
    assert len(find_cuts(colours(flat(*[red] * 4, between, *[blue] * 4)))) == 1
    # What changes all the time has no cuts.
    assert find_cuts(colours(flat(*[red, green] * 6))) == []


@given(video=videos, other=videos)
@settings(deadline=None, max_examples=40)
def test_ranges_and_symmetry(video, other):
    np.testing.assert_allclose(colours(video).sum(1), 1)
    strength = cut_strength(video, other)
    assert 0 <= strength <= 1
    assert strength == pytest.approx(cut_strength(other[::-1], video[::-1]))
    assert cut_strength(video, video[::-1]) == 0
    assert 0 <= saturation(video) <= 1
    assert 0 <= brightness(video) <= 255


@pytest.mark.slow
@pytest.mark.skipif(not REAL.is_dir(), reason="needs ../shared/data")
def test_real_shots():
    shots = [read_clip(REAL / f"example_shot{i}.mp4", 78, 54, 96) for i in (1, 2, 3)]
    assert is_cut(shots[0], shots[1])
    assert is_cut(shots[1], shots[2])
    quiet = [read_clip(REAL / f"scene_{i}.mp4", 40, 62, 128) for i in (1, 2)]
    assert not any(is_frozen(shot) for shot in [*shots, *quiet])
    for shot in shots:
        assert not any(is_cut(shot[i - 8 : i], shot[i : i + 8]) for i in range(8, 70, 10))
