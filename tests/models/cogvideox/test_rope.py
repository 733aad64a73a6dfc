import jax.numpy as jnp
import numpy as np
import pytest

from m2dit_jax.models.cogvideox.rope import apply_rope, axis_dims, rope_table


def test_head_dim_is_shared_one_quarter_three_eighths_three_eighths():
    assert axis_dims(64) == (16, 24, 24)
    with pytest.raises(ValueError, match="multiple of 16, got 24"):
        axis_dims(24)


def test_table_by_hand():
    cos, sin = rope_table((2, 1, 2), head_dim=16)
    # Tokens (frame, column): (0,0) (0,1) (1,0) (1,1). Time has frequencies 1 and 1/100.
    np.testing.assert_allclose(sin[:, 0], [0, 0, np.sin(1), np.sin(1)], atol=1e-6)
    np.testing.assert_allclose(sin[:, 2], [0, 0, np.sin(0.01), np.sin(0.01)], atol=1e-6)
    np.testing.assert_array_equal(sin[:, 4:10], 0)  # one row only
    np.testing.assert_allclose(sin[:, 10], [0, np.sin(1), 0, np.sin(1)], atol=1e-6)
    np.testing.assert_array_equal(cos[:, 0::2], cos[:, 1::2])


def test_rotation_of_interleaved_pairs():
    x = jnp.array([1.0, 0.0, 0.0, 1.0])[None, None, None]
    angle = np.pi / 2
    cos, sin = np.full((1, 4), np.cos(angle)), np.full((1, 4), np.sin(angle))
    np.testing.assert_allclose(
        apply_rope(x, jnp.asarray(cos), jnp.asarray(sin))[0, 0, 0], [0, 1, -1, 0], atol=1e-6
    )


def test_products_depend_on_distance_only():
    cos, sin = rope_table((6, 1, 1), head_dim=16)
    x = jnp.broadcast_to(jnp.sin(jnp.arange(16.0)), (1, 6, 1, 16))
    turned = apply_rope(x, jnp.asarray(cos), jnp.asarray(sin))[0, :, 0]
    products = np.asarray(turned @ turned.T)
    np.testing.assert_allclose(np.diag(products, 2), products[0, 2], rtol=1e-5)
    assert abs(products[0, 2] - products[0, 3]) > 1e-3


def test_a_base_grid_sets_the_positions_of_rows_and_columns():
    # 2 x 2 in a base of 4 x 6: columns 1 to 5, so that positions are 0, 2 and 1, 3.
    _, sin = rope_table((2, 2, 2), head_dim=16, base=(4, 6))
    np.testing.assert_allclose(sin[:4, 4], np.sin([0, 0, 2, 2]), atol=1e-6)
    np.testing.assert_allclose(sin[:4, 10], np.sin([1, 3, 1, 3]), atol=1e-6)
    np.testing.assert_allclose(sin[:, 0], np.sin([0] * 4 + [1] * 4), atol=1e-6)  # not of time


def test_positions_within_a_base_grid_can_be_fractions():
    _, sin = rope_table((1, 4, 4), head_dim=16, base=(2, 2))
    np.testing.assert_allclose(sin[:4, 10], np.sin([0, 0.5, 1, 1.5]), atol=1e-6)
    np.testing.assert_allclose(sin[::4, 4], np.sin([0, 0.5, 1, 1.5]), atol=1e-6)


def test_a_grid_of_the_size_of_its_base_needs_none():
    for part, other in zip(
        rope_table((2, 3, 4), 32, base=(3, 4)), rope_table((2, 3, 4), 32), strict=True
    ):
        np.testing.assert_array_equal(part, other)
