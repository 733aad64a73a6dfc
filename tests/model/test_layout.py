import jax.numpy as jnp
import numpy as np
import pytest

from m2dit_jax.model.layout import Layout

LAYOUT = Layout(scenes=2, text=2, video=3)


def test_order_is_all_text_then_all_video():
    np.testing.assert_array_equal(LAYOUT.scene_ids(), [0, 0, 1, 1, 0, 0, 0, 1, 1, 1])
    np.testing.assert_array_equal(LAYOUT.is_text(), [True] * 4 + [False] * 6)


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


def test_counts_must_be_positive():
    with pytest.raises(ValueError, match="Layout.text must be at least 1, got 0"):
        Layout(scenes=1, text=0, video=1)
