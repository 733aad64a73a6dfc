import jax
import jax.numpy as jnp
import numpy as np

from m2dit_jax.diffusion.samplers import ddim_coefficients, ddim_step
from m2dit_jax.diffusion.schedule import NoiseSchedule


def test_true_v_leads_back_to_the_latents():
    schedule = NoiseSchedule(snr_shift=3.0)
    keys = jax.random.split(jax.random.key(0), 2)
    latents, noise = (jax.random.normal(k, (1, 1, 4)) for k in keys)
    x = noise
    coefficients = ddim_coefficients(schedule, 7)
    for timestep, weights in zip(schedule.trailing_timesteps(7), coefficients, strict=True):
        # On the straight path of this noise the true v is known at every timestep.
        v = schedule.v_target(latents, noise, jnp.full((1, 1), timestep))
        x = ddim_step(x, v, jnp.asarray(weights, jnp.float32))
    np.testing.assert_allclose(x, latents, atol=1e-5)


def test_one_step_is_the_prediction_of_the_latents():
    # From pure noise v = -latents, whatever the noise.
    np.testing.assert_allclose(ddim_coefficients(NoiseSchedule(), 1), [[0, -1]], atol=1e-12)


def test_coefficients_against_the_textbook_form():
    schedule = NoiseSchedule()
    alphas = schedule.alphas_cumprod()
    x, v = 0.3, -0.7
    t, following = schedule.trailing_timesteps(4)[1:3]
    a, s = np.sqrt(alphas[t]), np.sqrt(1 - alphas[t])
    x0, noise = a * x - s * v, a * v + s * x
    expected = np.sqrt(alphas[following]) * x0 + np.sqrt(1 - alphas[following]) * noise
    np.testing.assert_allclose(ddim_coefficients(schedule, 4)[1] @ [x, v], expected, rtol=1e-12)
