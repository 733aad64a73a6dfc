import jax
import jax.numpy as jnp
import numpy as np
import pytest

from m2dit_jax.diffusion.generate import Story, generate
from m2dit_jax.diffusion.samplers import SAMPLERS, sampling_steps
from m2dit_jax.diffusion.schedule import NoiseSchedule

SHAPE = (2, 3, 1, 2, 2, 1)  # B S F H W C
CLEAN = jnp.broadcast_to(jnp.arange(1.0, 4)[None, :, None, None, None, None], SHAPE)
NOISE = jax.random.normal(jax.random.key(0), SHAPE)
TEXT = jnp.zeros((2, 3, 1, 1))


def run(denoiser, given, guidance_scale=1.0, text=TEXT, negative=TEXT, sampler="ddim"):
    given = jnp.broadcast_to(jnp.asarray(given), (2, 3))
    steps = sampling_steps(NoiseSchedule(), sampler, 5, guidance_scale)

    def step_noise(number):
        return jax.random.normal(jax.random.fold_in(jax.random.key(1), number), SHAPE)

    return generate(denoiser, steps, Story(CLEAN, given, text, negative), NOISE, step_noise).latents


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("given", [(True, False, False), (False, True, False), (True, False, True)])
def test_given_scenes_stay_wherever_they_stand(given, sampler):
    seen = []

    def denoiser(latents, text_embeds, timesteps, given):
        jax.debug.callback(
            lambda x, t: seen.append((np.asarray(x), np.asarray(t))), latents, timesteps
        )
        return jnp.ones_like(latents)

    out = run(denoiser, given, sampler=sampler)
    jax.effects_barrier()
    np.testing.assert_array_equal(out[:, np.array(given)], CLEAN[:, np.array(given)])
    assert not np.any(np.isclose(out[:, ~np.array(given)], CLEAN[:, ~np.array(given)]))
    assert len(seen) == 5
    for latents, timesteps in seen:
        np.testing.assert_array_equal(latents[:2, np.array(given)], CLEAN[:, np.array(given)])
        assert np.all(timesteps[:, np.array(given)] == 0)
        assert np.all(timesteps[:, ~np.array(given)] > 0)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_perfect_denoiser_gives_the_clean_latents(sampler):
    schedule = NoiseSchedule()

    def denoiser(latents, text_embeds, timesteps, given):
        a, s = schedule.signal_and_noise(timesteps, latents.ndim)
        clean = jnp.concatenate([CLEAN, CLEAN])
        return (a * latents - clean) / s  # from x = a x0 + s n: v = (a x - x0) / s

    np.testing.assert_allclose(run(denoiser, False, sampler=sampler), CLEAN, atol=1e-5)


def test_guidance_uses_the_negative_text_as_uncond():
    def denoiser(latents, text_embeds, timesteps, given):
        return jnp.broadcast_to(text_embeds[..., None, None], latents.shape)

    # v = negative + 3 (text - negative) = -1 + 3 * 2 = 5, the same as text 5 without guidance.
    guided = run(denoiser, False, 3.0, text=TEXT + 1, negative=TEXT - 1)
    plain = run(denoiser, False, 1.0, text=TEXT + 5, negative=TEXT)
    np.testing.assert_allclose(guided, plain, rtol=1e-5)
