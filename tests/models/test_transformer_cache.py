import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from m2dit_jax.models.cogvideox.transformer import M2DiT, TransformerConfig
from tests.models.random_weights import random_transformer

FIELDS = dict(
    channels=3, patch_size=2, layers=2, heads=2, head_dim=16, text_dim=6, time_dim=8, mask="causal"
)


@functools.cache
def make_model(**changes) -> M2DiT:
    return random_transformer(TransformerConfig(**(FIELDS | changes)))


def make_inputs(given):
    keys = jax.random.split(jax.random.key(2), 2)
    latents = jax.random.normal(keys[0], (2, len(given), 2, 4, 4, 3))
    text_embeds = jax.random.normal(keys[1], (2, len(given), 3, 6))
    return latents, text_embeds, jnp.where(jnp.array([given] * 2), 0, 500)


@pytest.mark.parametrize(
    ("given", "changes"),
    [
        ((True, True, False), {}),
        ((False, True, False), {"scan": False, "added_positions": True}),
        ((False, False, True), {"added_positions": True, "base_grid": (2, 3, 3)}),
    ],
)
def test_with_the_cache_generated_scenes_are_as_in_the_whole_story(given, changes):
    graphdef, params = nnx.split(make_model(**changes))
    inputs = make_inputs(given)
    known, new = np.flatnonzero(given), np.flatnonzero(np.logical_not(given))

    @jax.jit
    def both(params, latents, text, timesteps):
        model = nnx.merge(graphdef, params)
        whole = model(latents, text, timesteps, jnp.array([given] * 2))
        cached = model.cache_given(latents[:, known], text[:, known], given)
        alone = model.predict_cached(
            latents[:, new], text[:, new], timesteps[:, new], cached, given
        )
        return whole[:, new], alone

    whole, alone = both(params, *inputs)
    np.testing.assert_allclose(alone, whole, atol=1e-5)
    assert float(jnp.std(whole)) > 0.1


def test_in_bfloat16_it_differs_by_its_rounding_only():
    given = (True, False, True)
    graphdef, params = nnx.split(make_model())
    latents, text, timesteps = make_inputs(given)

    @jax.jit
    def both(params):
        exact = nnx.merge(graphdef, params)
        rounded = nnx.merge(graphdef, jax.tree.map(lambda p: p.astype(jnp.bfloat16), params))
        whole = exact(latents, text, timesteps, jnp.array([given] * 2))
        cached = rounded.cache_given(latents[:, ::2], text[:, ::2], given)
        new = latents[:, 1:2], text[:, 1:2], timesteps[:, 1:2]
        return whole[:, 1:2], rounded.predict_cached(*new, cached, given), cached

    whole, alone, cached = both(params)
    assert cached.keys.dtype == jnp.bfloat16
    np.testing.assert_allclose(alone, whole, atol=0.05 * float(jnp.abs(whole).max()))


def test_other_masks_have_no_cache():
    model = make_model(mask="symmetric")
    latents, text, _ = make_inputs((True,))
    with pytest.raises(ValueError, match="'causal' only, this model has 'symmetric'"):
        model.cache_given(latents, text, (True, False))


def test_a_causal_model_must_be_told_what_is_given():
    with pytest.raises(ValueError, match="'causal' needs to know which scenes are `given`"):
        make_model()(*make_inputs((True, False)))
