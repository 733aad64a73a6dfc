import jax
import jax.numpy as jnp
import numpy as np
import pytest

from m2dit_jax.diffusion.samplers import SAMPLERS, sampling_steps
from m2dit_jax.diffusion.schedule import NoiseSchedule


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("steps", [1, 2, 7, 50])
def test_true_v_leads_back_to_the_latents(sampler, steps):
    schedule = NoiseSchedule(snr_shift=3.0)
    keys = jax.random.split(jax.random.key(0), 3)
    latents, x, *fresh = (jax.random.normal(k, (1, 1, 4)) for k in keys)
    last_x0 = before = jnp.zeros_like(x)
    table = sampling_steps(schedule, sampler, steps, 1.0)
    for timestep, weights, x0_weights in zip(
        table.timesteps, table.weights, table.x0_weights, strict=True
    ):
        # x = a latents + s n, so v = a n - s latents = (a x - latents) / s.
        a, s = schedule.signal_and_noise(jnp.full((1, 1), timestep), 3)
        v = (a * x - latents) / s
        x0 = x0_weights[0] * x + x0_weights[1] * v
        np.testing.assert_allclose(x0, latents, atol=2e-5)
        x = weights[0] * x + weights[1] * v + weights[2] * last_x0 + weights[3] * fresh[0]
        x = x + weights[4] * before if len(weights) == 5 else x
        last_x0, before = x0, last_x0
    np.testing.assert_allclose(x, latents, atol=2e-5)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_one_step_is_the_prediction_of_the_latents(sampler):
    # From pure noise v = -latents, whatever the noise.
    table = sampling_steps(NoiseSchedule(), sampler, 1, 1.0)
    np.testing.assert_allclose(table.weights[:, :4], [[0, -1, 0, 0]], atol=1e-12)
    np.testing.assert_array_equal(table.weights[:, 4:], 0)


def test_ddim_against_the_textbook_form():
    schedule = NoiseSchedule()
    alphas = schedule.alphas_cumprod()
    x, v = 0.3, -0.7
    t, following = schedule.sampling_timesteps(4)[1:3]
    a, s = np.sqrt(alphas[t]), np.sqrt(1 - alphas[t])
    x0, noise = a * x - s * v, a * v + s * x
    expected = np.sqrt(alphas[following]) * x0 + np.sqrt(1 - alphas[following]) * noise
    weights = sampling_steps(schedule, "ddim", 4, 1.0).weights[1]
    np.testing.assert_allclose(np.dot(weights, [x, v, 0, 0]), expected, rtol=1e-6)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_latents_keep_their_variance(sampler):
    # With x0 and noise independent of variance 1, x has variance 1 at every timestep. Higher orders
    # correct with the last x0: here the second step, of first or second order, whose sum counts.
    table = sampling_steps(NoiseSchedule(), sampler, 10, 1.0)
    alphas = NoiseSchedule().alphas_cumprod()
    t, following = table.timesteps[1:3]
    keep, v_weight, last, fresh, *_ = table.weights[1].astype(np.float64)
    a, s = np.sqrt(alphas[t]), np.sqrt(1 - alphas[t])
    of_x0, of_noise = keep * a - v_weight * s + last, keep * s + v_weight * a
    np.testing.assert_allclose(of_x0**2, alphas[following], rtol=1e-4)
    np.testing.assert_allclose(of_noise**2 + fresh**2, 1 - alphas[following], rtol=1e-4)


def test_reference_has_its_defects_and_the_default_has_not():
    schedule = NoiseSchedule()
    assert sampling_steps(schedule, "ddim", 61, 1.0).timesteps[-1] > 0
    table = sampling_steps(schedule, "ddim", 61, 1.0, as_reference=True)
    assert len(table.timesteps) == 62 and table.timesteps[-1] == -1
    np.testing.assert_allclose(table.weights[-1], [0, -1, 0, 0], atol=1e-12)
    # 7 steps: the reference leaves the last timestep, 142, for 0 and not for the clean latents.
    assert sampling_steps(schedule, "ddim", 7, 1.0, as_reference=True).weights[-1, 0] > 0.02
    clean = sampling_steps(schedule, "ddim", 7, 1.0)
    np.testing.assert_allclose(clean.weights[-1, :2], clean.x0_weights[-1], atol=1e-7)
    # Where the steps divide the timesteps both are the same.
    for both in zip(
        sampling_steps(schedule, "dpm", 50, 6.0),
        sampling_steps(schedule, "dpm", 50, 6.0, as_reference=True),
        strict=True,
    ):
        np.testing.assert_array_equal(*both)


def test_unknown_sampler_is_refused():
    with pytest.raises(ValueError, match="unknown sampler 'heun'; there are ddim, dpm, unip_3"):
        sampling_steps(NoiseSchedule(), "heun", 5, 1.0)


def run_made_up(table, x):
    """With a model that is no more than a formula."""
    x0s = (0.0, 0.0)
    for row in range(len(table.timesteps)):
        weights = table.weights[row].astype(np.float64)
        v = np.tanh(0.5 * x + table.timesteps[row] / 1000)
        x0 = np.dot(table.x0_weights[row].astype(np.float64), np.stack([x, v]))
        x = weights[0] * x + weights[1] * v + weights[2] * x0s[0] + weights[4] * x0s[1]
        x0s = (x0, x0s[0])
    return x


@pytest.mark.parametrize(
    ("steps", "expected"),
    [(8, [-0.174959, -0.840417, 0.75867]), (20, [-0.16436, -0.877183, 0.83121])],
)
def test_third_order_ends_where_diffusers_does(steps, expected):
    # diffusers 0.42.1: UniPCMultistepScheduler(1000, 0.00085, 0.012, "scaled_linear",
    # solver_order=3, prediction_type="v_prediction", solver_type="bh2", disable_corrector=all,
    # rescale_betas_zero_snr=True, timestep_spacing="trailing", final_sigmas_type="zero"), float64.
    # At an SNR of zero it has one of 2**-24, which is where the difference comes from.
    table = sampling_steps(NoiseSchedule(), "unip_3", steps, 1.0)
    last = run_made_up(table, np.array([0.3, -1.2, 2.0]))
    np.testing.assert_allclose(last, expected, atol=5e-5)


@pytest.mark.parametrize(("sampler", "order"), [("ddim", 1), ("unip_3", 3)])
def test_the_order_of_convergence(sampler, order):
    """Of data from N(0, 4), whose trajectories are known, amid the run."""
    schedule = NoiseSchedule(timesteps=100_000, beta_start=0.85e-5, beta_end=12e-5)
    alphas = schedule.alphas_cumprod()
    deviation = np.sqrt(4 * alphas + 1 - alphas)  # x keeps to a multiple of it
    errors = []
    for steps in (20, 40, 80):
        table = sampling_steps(schedule, sampler, steps, 1.0)
        t, a = table.timesteps, np.sqrt(alphas[table.timesteps])
        exact = 4 * a / deviation[t]  # x0 along the exact trajectory
        begin, end = steps // 4, 3 * steps // 4
        x, x0s = deviation[t[begin]], [exact[begin - 1], exact[begin - 2]]
        for row in range(begin, end):
            x0 = 4 * a[row] / deviation[t[row]] ** 2 * x
            v = (a[row] * x - x0) / np.sqrt(1 - alphas[t[row]])
            weights = np.append(table.weights[row], 0.0).astype(np.float64)
            x = weights[0] * x + weights[1] * v + weights[2] * x0s[0] + weights[4] * x0s[1]
            x0s = [x0, x0s[0]]
        errors.append(abs(x - deviation[t[end]]))
    measured = np.log2(np.divide(errors[:-1], errors[1:]))
    np.testing.assert_allclose(measured, order, atol=0.35)
