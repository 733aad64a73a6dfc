import jax
import jax.numpy as jnp
import numpy as np
import pytest

from m2dit_jax.diffusion.guidance import draw_given, guidance_weights, guide, rescale


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


def rescaled(guided, cond, phi):
    def shaped(x):
        return jnp.asarray(x, jnp.float32).reshape(1, -1, 1, 1, 1, 2)

    return np.asarray(rescale(shaped(guided), shaped(cond), jnp.float32(phi))).reshape(-1, 2)


def test_the_spread_of_each_scene_is_brought_back():
    # Standard deviations: 4 to 1 in the first scene, 1 to 3 in the second; the mean goes along.
    guided, cond = [[2.0, 10.0], [1.0, 3.0]], [[0.0, 2.0], [5.0, 11.0]]
    np.testing.assert_allclose(rescaled(guided, cond, 1.0), [[0.5, 2.5], [3.0, 9.0]], rtol=1e-6)
    # 0.7 / 4 + 0.3 = 0.475 and 0.7 x 3 + 0.3 = 2.4
    expected = [[0.95, 4.75], [2.4, 7.2]]
    np.testing.assert_allclose(rescaled(guided, cond, 0.7), expected, rtol=1e-6)
    np.testing.assert_array_equal(rescaled(guided, cond, 0.0), guided)


def test_a_prediction_without_spread_stays():
    np.testing.assert_array_equal(rescaled([[4.0, 4.0]], [[0.0, 2.0]], 0.7), [[4.0, 4.0]])
