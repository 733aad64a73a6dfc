import jax
import jax.numpy as jnp
import numpy as np

from m2dit_jax.diffusion.loss import min_snr_weights, scene_weights, story_weights, weighted_error
from m2dit_jax.diffusion.schedule import NoiseSchedule


def test_generated_scenes_share_the_loss_and_given_ones_have_none():
    given = jnp.array([[True, False, False], [False, False, False]])
    np.testing.assert_allclose(scene_weights(given), [[0, 0.2, 0.2], [0.2, 0.2, 0.2]], rtol=1e-6)


def test_loss_by_hand():
    target = jnp.zeros((1, 2, 1, 1, 2, 1))
    pred = target.at[0, 0].set(100.0).at[0, 1, 0, 0, 0].set(2.0)
    weights = scene_weights(jnp.array([[True, False]]))
    assert (
        weighted_error(pred, target, weights) == 2.0
    )  # mean of 2² and 0², the given scene left out


def test_nothing_to_generate_is_no_loss():
    pred = jnp.ones((1, 2, 1, 1, 1, 1))
    assert weighted_error(pred, 0 * pred, scene_weights(jnp.ones((1, 2), bool))) == 0


def test_by_story_an_extension_counts_as_much_as_a_whole_story():
    given = jnp.array([[True, True, False], [False, False, False]])
    expected = [[0, 0, 1 / 2], [1 / 6, 1 / 6, 1 / 6]]
    np.testing.assert_allclose(story_weights(given), expected, rtol=1e-6)
    np.testing.assert_allclose(scene_weights(given)[0].sum(), 1 / 4, rtol=1e-6)


def test_by_story_the_loss_is_the_mean_of_each_ranks_own_average():
    given = jnp.array([[True, True, False], [False, False, False], [True, False, False]])
    error = jax.random.uniform(jax.random.key(0), (3, 3, 2, 4, 4, 1))
    ranks = [jnp.mean(error[i][~given[i]] ** 2) for i in range(3)]
    loss = weighted_error(error, jnp.zeros_like(error), story_weights(given))
    np.testing.assert_allclose(loss, np.mean(ranks), rtol=1e-6)


def test_by_story_a_story_that_is_all_given_is_left_out():
    given = jnp.array([[True, True], [True, False]])
    np.testing.assert_array_equal(story_weights(given), [[0, 0], [0, 1]])


def test_min_snr_weights_are_those_of_the_paper():
    schedule = NoiseSchedule()
    timesteps = jnp.array([[0, 100, 500, 998, 999]])
    alphas = schedule.alphas_cumprod()[np.asarray(timesteps)]
    with np.errstate(divide="ignore"):
        snr = alphas / (1 - alphas)
    expected = np.minimum(snr, 5) / (snr + 1)
    weights = min_snr_weights(schedule, timesteps, 5.0)
    np.testing.assert_allclose(weights, expected, rtol=1e-3, atol=1e-7)
    assert weights[0, 0] < 0.01 and weights[0, -1] == 0, "hardly any noise, and no signal"
