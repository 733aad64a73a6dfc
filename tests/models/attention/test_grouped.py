import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from m2dit_jax.models.attention.grouped import grouped
from m2dit_jax.models.layout import Layout
from m2dit_jax.models.masks import STATIC_MASKS, scene_mask


def sum_of_keys(query, key, value):
    """Attention that gives every query the sum of all values."""
    return jnp.broadcast_to(value.sum(1, keepdims=True), query.shape)


@pytest.mark.parametrize("together", [True, False])
@settings(max_examples=6, deadline=None)
@given(
    st.integers(1, 5),
    st.lists(st.integers(1, 6), min_size=1, max_size=4),
    st.booleans(),
    st.booleans(),
    st.integers(0, 2),
    st.sampled_from(STATIC_MASKS),
)
def test_groups_are_the_mask_for_any_counts(together, text, video, frames, equal, padding, mask):
    frame = 2 if frames else 1
    video = [frame * count for count in video]
    layout = Layout(len(video), text, video[0] if equal else tuple(video), padding, frame=frame)
    one_hot = jnp.asarray(np.eye(layout.tokens, dtype=np.float32)[None, :, None])
    run = jax.jit(lambda x: grouped(x, x, x, layout, mask, sum_of_keys, together))
    np.testing.assert_array_equal(np.asarray(run(one_hot))[0, :, 0], scene_mask(layout, mask))
