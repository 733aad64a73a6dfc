import numpy as np
import pytest

from m2dit_jax.models.wan.rope import axis_dims, rope_table


def test_a_head_is_shared_by_thirds_and_time_has_the_rest():
    assert axis_dims(128) == (44, 42, 42)  # of all released models
    assert axis_dims(16) == (8, 4, 4)
    for head_dim in (7, 4):
        with pytest.raises(ValueError, match=f"an even number from 6 on, got {head_dim}"):
            axis_dims(head_dim)


def test_time_may_begin_anywhere_and_columns_change_fastest():
    cos, sin = rope_table(np.arange(4), 2, 3, 12)
    later = rope_table(np.array([2, 3]), 2, 3, 12)
    np.testing.assert_array_equal(cos[12:], later[0])
    np.testing.assert_array_equal(sin[12:], later[1])
    np.testing.assert_allclose(sin[1, 8:10], np.sin(1), rtol=1e-6)  # the second column
    np.testing.assert_allclose(sin[3, 4:6], np.sin(1), rtol=1e-6)  # the second row
    np.testing.assert_allclose(sin[6, :2], np.sin(1), rtol=1e-6)  # the second frame
