import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from m2dit_jax.model.attention_grouped import grouped
from m2dit_jax.model.layout import Layout
from m2dit_jax.model.masks import MASKS, scene_mask


def sum_of_keys(query, key, value):
    """Attention that gives every query the sum of all values."""
    return jnp.broadcast_to(value.sum(1, keepdims=True), query.shape)


@settings(max_examples=12, deadline=None)
@given(
    st.integers(1, 5),
    st.lists(st.integers(1, 6), min_size=1, max_size=4),
    st.booleans(),
    st.integers(0, 2),
    st.sampled_from(MASKS),
)
def test_groups_are_the_mask_for_any_counts(text, video, equal, padding, mask):
    layout = Layout(len(video), text, video[0] if equal else tuple(video), padding)
    one_hot = jnp.eye(layout.tokens)[None, :, None]
    quick = {"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False}
    group = jax.jit(lambda x: grouped(x, x, x, layout, mask, sum_of_keys), compiler_options=quick)
    np.testing.assert_array_equal(group(one_hot)[0, :, 0], scene_mask(layout, mask))
