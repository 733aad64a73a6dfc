import jax
import jax.numpy as jnp
import numpy as np
import pytest

from m2dit_jax.diffusion.noising import SPACINGS
from m2dit_jax.diffusion.schedule import NoiseSchedule


@pytest.mark.parametrize("snr_shift", [1.0, 3.0, 8.0])
def test_terminal_snr_is_zero_and_the_first_step_keeps_its_noise(snr_shift):
    schedule = NoiseSchedule(snr_shift=snr_shift)
    alphas = schedule.alphas_cumprod()
    unscaled = 1 - 0.00085
    assert alphas[-1] == 0
    assert alphas[0] == pytest.approx(
        unscaled / (snr_shift + (1 - snr_shift) * unscaled), abs=1e-12
    )
    assert np.all(np.diff(alphas) < 0)


def test_snr_shift_divides_the_signal_to_noise_ratio():
    # Without the rescaling both ends would be exact; at the first step it changes nothing.
    plain, shifted = (NoiseSchedule(snr_shift=s).alphas_cumprod()[0] for s in (1.0, 4.0))
    assert (plain / (1 - plain)) / (shifted / (1 - shifted)) == pytest.approx(4.0)


def test_noise_and_v_recover_the_latents():
    schedule = NoiseSchedule()
    keys = jax.random.split(jax.random.key(0), 2)
    latents, noise = (jax.random.normal(k, (2, 3, 2, 4, 4, 3)) for k in keys)
    timesteps = jnp.array([[0, 300, 999], [999, 10, 700]])
    noisy = schedule.add_noise(latents, noise, timesteps)
    v = schedule.v_target(latents, noise, timesteps)
    a, s = schedule.signal_and_noise(timesteps, latents.ndim)
    np.testing.assert_allclose(a * noisy - s * v, latents, atol=2e-6)
    np.testing.assert_allclose(s * noisy + a * v, noise, atol=2e-6)
    np.testing.assert_array_equal(noisy[0, 2], noise[0, 2])  # timestep 999 is pure noise


def test_timesteps_are_trailing():
    np.testing.assert_array_equal(NoiseSchedule().sampling_timesteps(4), [999, 749, 499, 249])
    np.testing.assert_array_equal(NoiseSchedule().sampling_timesteps(3), [999, 666, 332])
    assert len(NoiseSchedule().sampling_timesteps(30)) == 30


@pytest.mark.parametrize("steps", [0, 1001])
def test_impossible_step_counts_are_refused(steps):
    with pytest.raises(ValueError, match=f"1..1000, got {steps}"):
        NoiseSchedule().sampling_timesteps(steps)


def test_timesteps_at_equal_distances_in_log_snr():
    # The log-SNR of timestep 0 with shift 24 is 3.891, where the search begins log(1 / 1000).
    schedule = NoiseSchedule(snr_shift=24.0, spacing="log_snr")
    np.testing.assert_array_equal(schedule.sampling_timesteps(4), [999, 355, 31, 0])
    alphas = schedule.alphas_cumprod()[[355, 31, 0]]
    np.testing.assert_allclose(np.log(alphas / (1 - alphas)), [-3.308, 0.292, 3.891], atol=0.03)
    np.testing.assert_array_equal(schedule.sampling_timesteps(1), [999])


@pytest.mark.parametrize("snr_shift", [1.0, 24.0])
@pytest.mark.parametrize("zero_terminal_snr", [False, True])
@pytest.mark.parametrize("spacing", SPACINGS)
def test_timesteps_fall_each_once_with_any_number_of_steps(spacing, zero_terminal_snr, snr_shift):
    schedule = NoiseSchedule(
        snr_shift=snr_shift, zero_terminal_snr=zero_terminal_snr, spacing=spacing
    )
    for steps in (1, 2, 3, 10, 99, 500, 998, 1000):
        timesteps = schedule.sampling_timesteps(steps)
        assert len(timesteps) == steps and (np.diff(timesteps) < 0).all()
        assert timesteps[-1] >= 0 and timesteps[0] <= 999


def test_the_error_of_clean_latents_counts_as_that_of_v():
    schedule = NoiseSchedule(snr_shift=24.0, prediction="x0")
    latents, noise, output = (
        jax.random.normal(key, (2, 3, 1, 2, 2, 3)) for key in jax.random.split(jax.random.key(0), 3)
    )
    timesteps = jnp.array([[0, 300, 999], [999, 10, 700]])
    noisy = schedule.add_noise(latents, noise, timesteps)
    weights = schedule.v_weights()
    assert weights is not None
    of_noisy, of_output = (
        jnp.asarray(column)[timesteps].reshape(2, 3, 1, 1, 1, 1) for column in weights.T
    )
    v = schedule.v_target(latents, noise, timesteps)
    np.testing.assert_allclose(of_noisy * noisy + of_output * latents, v, atol=1e-5)
    error = jnp.mean((of_noisy * noisy + of_output * output - v) ** 2, axis=(2, 3, 4, 5))
    target = schedule.target(latents, noise, timesteps)
    own = jnp.mean((output - target) ** 2, axis=(2, 3, 4, 5))
    np.testing.assert_allclose(schedule.v_error_weights(timesteps) * own, error, rtol=1e-4)


def test_a_prediction_of_v_counts_as_it_is():
    schedule = NoiseSchedule()
    assert schedule.v_weights() is None
    np.testing.assert_array_equal(schedule.v_error_weights(jnp.array([[0, 999]])), [[1, 1]])
    with pytest.raises(ValueError, match="unknown prediction 'epsilon'; there are v, x0"):
        NoiseSchedule(prediction="epsilon")
