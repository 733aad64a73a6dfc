import jax
import jax.numpy as jnp
import numpy as np
import pytest

from m2dit_jax.diffusion.guidance import draw_given, guidance_weights, guide


def test_guidance_goes_on_from_uncond_through_cond():
    uncond, cond = jnp.array([1.0]), jnp.array([2.0])
    assert [float(guide(uncond, cond, jnp.float32(g))[0]) for g in (0, 1, 3)] == [1, 2, 4]


def test_any_true_subset_is_given_and_never_all():
    given = np.asarray(draw_given(jax.random.key(0), 2000, 3, 1.0, "any"))
    number = given.sum(axis=1)
    assert set(number) == {1, 2}
    assert len({tuple(row) for row in given}) == 6  # all non-empty true subsets
    np.testing.assert_allclose(given.mean(axis=0), 0.5, atol=0.05)


def test_all_but_last_with_probability():
    given = np.asarray(draw_given(jax.random.key(1), 4000, 3, 0.25, "all_but_last"))
    assert {tuple(row) for row in given} == {(False, False, False), (True, True, False)}
    assert given[:, 0].mean() == pytest.approx(0.25, abs=0.03)


def test_a_single_scene_is_always_generated():
    assert not draw_given(jax.random.key(0), 5, 1, 1.0, "any").any()


def test_unknown_choice_is_named():
    with pytest.raises(ValueError, match="'first'"):
        draw_given(jax.random.key(0), 1, 2, 0.5, "first")


def test_dynamic_guidance_grows_from_one():
    weights = guidance_weights(6.0, np.arange(999, 0, -100), 10, dynamic=True)
    assert weights[0] == 1 and np.all(np.diff(weights) > 0) and weights[-1] < 7
    np.testing.assert_allclose(weights[5], 1 + 3 * (1 - np.cos(np.pi / 32)))
    np.testing.assert_array_equal(guidance_weights(6.0, np.arange(3), 3, dynamic=False), 6.0)
