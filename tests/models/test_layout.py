import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from m2dit_jax.models.layout import Layout

LAYOUT = Layout(scenes=2, text=2, video=3)
UNEQUAL = Layout(scenes=2, text=1, video=(3, 1), padding=2)  # t0 t1 v0 v0 v0 v1 p p


def test_order_is_all_text_then_all_video():
    np.testing.assert_array_equal(LAYOUT.scene_ids(), [0, 0, 1, 1, 0, 0, 0, 1, 1, 1])


def test_split_is_the_inverse_of_join():
    text = jnp.arange(2 * 2 * 2 * 3.0).reshape(2, 2, 2, 3)
    video = -jnp.arange(2 * 2 * 3 * 3.0).reshape(2, 2, 3, 3)
    back_text, back_video = LAYOUT.split(LAYOUT.join(text, video))
    np.testing.assert_array_equal(back_text, text)
    np.testing.assert_array_equal(back_video, video)


def test_spread_gives_each_token_the_vector_of_its_scene_and_kind():
    text = jnp.array([[[1.0], [2.0]]])
    video = jnp.array([[[10.0], [20.0]]])
    np.testing.assert_array_equal(
        LAYOUT.spread(text, video)[0, :, 0], [1, 1, 2, 2, 10, 10, 10, 20, 20, 20]
    )


def test_padding_is_added_by_join_and_dropped_by_split():
    layout = Layout(scenes=2, text=2, video=3, padding=2)
    text, video = jnp.ones((1, 2, 2, 3)), jnp.full((1, 2, 3, 3), 2.0)
    tokens = layout.join(text, video)
    np.testing.assert_array_equal(tokens[0, :, 0], [1] * 4 + [2] * 6 + [0] * 2)
    back_text, back_video = layout.split(tokens)
    np.testing.assert_array_equal(back_text, text)
    np.testing.assert_array_equal(back_video, video)


def test_unequal_scenes_and_padding_lie_in_this_order():
    assert (UNEQUAL.text_tokens, UNEQUAL.real_tokens, UNEQUAL.tokens) == (2, 6, 8)
    np.testing.assert_array_equal(UNEQUAL.scene_ids(), [0, 1, 0, 0, 0, 1, -1, -1])
    np.testing.assert_array_equal(UNEQUAL.segments(), [0, 1, 2, 2, 2, 3, 4, 4])
    np.testing.assert_array_equal(UNEQUAL.table_rows(), [0, 1, 2, 2, 2, 3, 3, 3])
    assert [UNEQUAL.text_slice(scene) for scene in (0, 1)] == [slice(0, 1), slice(1, 2)]
    assert [UNEQUAL.video_slice(scene) for scene in (0, 1)] == [slice(2, 5), slice(5, 6)]


def test_spread_over_unequal_scenes():
    text = jnp.array([[[1.0], [2.0]]])
    video = jnp.array([[[10.0], [20.0]]])
    spread = UNEQUAL.spread(text, video)
    np.testing.assert_array_equal(spread[0, : UNEQUAL.real_tokens, 0], [1, 2, 10, 10, 10, 20])
    assert spread.shape == (1, UNEQUAL.tokens, 1)


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 3), st.lists(st.integers(1, 5), min_size=1, max_size=4), st.integers(0, 3))
def test_split_scenes_is_the_inverse_of_join_scenes(text, video, padding):
    layout = Layout(len(video), text, tuple(video), padding)
    tokens = np.arange(1.0, layout.tokens + 1)[None, :, None]
    tokens[:, layout.real_tokens :] = 0
    parts = layout.split_scenes(jnp.asarray(tokens))
    np.testing.assert_array_equal(jax.jit(layout.join_scenes)(*parts), tokens)
    assert [part.shape[1] for part in parts[0]] == [text] * len(video)
    assert [part.shape[1] for part in parts[1]] == video


def test_equal_counts_are_one_layout_however_they_are_given():
    assert Layout(2, 1, (3, 3)) == Layout(2, 1, 3)


def test_join_and_split_of_unequal_scenes_are_refused():
    with pytest.raises(
        ValueError, match=r"join needs scenes of equal length.*\(3, 1\).*join_scenes"
    ):
        UNEQUAL.join(jnp.ones((1, 2, 1, 1)), jnp.ones((1, 2, 2, 1)))
    with pytest.raises(ValueError, match="use split_scenes"):
        UNEQUAL.split(jnp.ones((1, UNEQUAL.tokens, 1)))


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((1, -1, 1), "Layout.text must be at least 0, got -1"),
        ((1, 1, 0), "Layout.video must be at least 1, got 0"),
        ((2, 1, (2, 0)), r"Layout.video must be at least 1, got \(2, 0\)"),
        ((0, 1, 1), "Layout.scenes must be at least 1, got 0"),
        ((1, 1, 1, -1), "Layout.padding must be at least 0, got -1"),
        ((3, 1, (2, 1)), r"Layout.video has 2 counts for 3 scenes: \(2, 1\)"),
    ],
)
def test_counts_must_be_possible(arguments, message):
    with pytest.raises(ValueError, match=message):
        Layout(*arguments)


def test_global_text_comes_first_and_has_no_video():
    layout = Layout(3, 2, (0, 3, 1), global_text=True)
    assert layout.tokens == 10 and not layout.equal_scenes
    np.testing.assert_array_equal(layout.scene_ids(), [0, 0, 1, 1, 2, 2, 1, 1, 1, 2])
    with pytest.raises(ValueError, match="must be 0 for the global text"):
        Layout(2, 2, 3, global_text=True)
    with pytest.raises(ValueError, match="must be at least 1"):
        Layout(3, 2, (0, 0, 1), global_text=True)
