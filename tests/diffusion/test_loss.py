import jax.numpy as jnp
import numpy as np

from m2dit_jax.diffusion.loss import scene_weights, v_loss


def test_generated_scenes_share_the_loss_and_given_ones_have_none():
    given = jnp.array([[True, False, False], [False, False, False]])
    np.testing.assert_allclose(scene_weights(given), [[0, 0.2, 0.2], [0.2, 0.2, 0.2]], rtol=1e-6)


def test_loss_by_hand():
    target = jnp.zeros((1, 2, 1, 1, 2, 1))
    pred = target.at[0, 0].set(100.0).at[0, 1, 0, 0, 0].set(2.0)
    weights = scene_weights(jnp.array([[True, False]]))
    assert v_loss(pred, target, weights) == 2.0  # mean of 2² and 0², the given scene left out


def test_nothing_to_generate_is_no_loss():
    pred = jnp.ones((1, 2, 1, 1, 1, 1))
    assert v_loss(pred, 0 * pred, scene_weights(jnp.ones((1, 2), bool))) == 0
