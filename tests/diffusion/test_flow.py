"""Flow matching: its own formulas, and the parts that it shares with the other schedule."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from m2dit_jax.diffusion.flow import FlowSchedule
from m2dit_jax.diffusion.loss import min_snr_weights, scene_weights, weighted_error
from m2dit_jax.diffusion.options import SamplingOptions, option_problems
from m2dit_jax.diffusion.samplers import SAMPLERS, sampling_steps
from m2dit_jax.diffusion.sampling import Conditions, generate, start
from m2dit_jax.diffusion.timesteps import TimestepDraw

GOLDEN = Path(__file__).parents[1] / "golden_wan"
SPACING_OF = {"unipc": "trailing", "euler": "linspace"}


def test_golden_trajectories():
    arrays = np.load(GOLDEN / "schedulers.npz")
    runs = {name.removesuffix("_x") for name in arrays if name.endswith("_x")}
    assert len(runs) == 30
    for run in runs:
        sampler, shift, steps = run.split("_")
        schedule = FlowSchedule(1000, float(shift.removeprefix("shift")), SPACING_OF[sampler])
        table = sampling_steps(schedule, sampler, int(steps), 1.0)
        np.testing.assert_array_equal(table.timesteps, arrays[f"{run}_timesteps"])
        x = arrays[f"{run}_x"][0]
        last, before = np.zeros_like(x), np.zeros_like(x)
        for row, expected in enumerate(arrays[f"{run}_x"][1:]):
            told = np.float32(table.timesteps[row]) / np.float32(1000)
            v = np.tanh(np.float32(0.5) * x + told)
            x0 = table.x0_weights[row] @ np.stack([x, v]).reshape(2, -1)
            known = [x, v, last, np.zeros_like(x), before][: table.weights.shape[1]]
            x = np.tensordot(table.weights[row], np.stack(known), 1)
            last, before = x0.reshape(x.shape), last
            np.testing.assert_allclose(x, expected, atol=1e-5, rtol=0, err_msg=run)


def test_noise_and_target_lie_on_a_straight_line():
    schedule = FlowSchedule(shift=3.0)
    latents, noise = (jax.random.normal(jax.random.key(k), (2, 3, 4)) for k in (0, 1))
    timesteps = jnp.array([[0.0, 250.5, 1000.0]] * 2)
    noisy = schedule.add_noise(latents, noise, timesteps)
    np.testing.assert_array_equal(noisy[:, 0], latents[:, 0])
    np.testing.assert_allclose(noisy[:, 2], noise[:, 2], atol=1e-6)
    np.testing.assert_allclose(
        noisy[:, 1], 0.7495 * latents[:, 1] + 0.2505 * noise[:, 1], atol=1e-6
    )
    target = schedule.target(latents, noise, timesteps)
    np.testing.assert_array_equal(target, noise - latents)
    whole = timesteps.astype(jnp.int32)
    np.testing.assert_array_equal(schedule.to_v(target, noisy, whole), target)


@pytest.mark.parametrize("spacing", FlowSchedule.spacings)
@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_the_true_flow_leads_to_the_latents(sampler, steps, spacing):
    latents, noise, fresh = np.random.default_rng(0).standard_normal((3, 5))
    schedule = FlowSchedule(shift=5.0, spacing=spacing)
    table, points = sampling_steps(schedule, sampler, steps, 1.0), schedule.points(steps)
    x, last, before = noise, 0 * latents, 0 * latents
    for row, weights in enumerate(table.weights):
        v = (x - latents) / points.noise[row]
        x0 = table.x0_weights[row, 0] * x + table.x0_weights[row, 1] * v
        np.testing.assert_allclose(x0, latents, atol=1e-4)
        known = np.stack([x, v, last, fresh, before][: len(weights)])
        x, last, before = weights @ known, x0, last
    np.testing.assert_allclose(x, latents, atol=1e-4)


def test_given_scenes_and_guidance_by_them_go_through_the_same_loop():
    schedule = FlowSchedule(shift=3.0)
    options = SamplingOptions(sampler="unipc", steps=4, given_guidance_scale=2.0, guidance_scale=3)
    shape = (1, 2, 1, 2, 2, 3)
    clean, noise = (jax.random.normal(jax.random.key(k), shape) for k in (0, 1))
    given = jnp.array([[True, False]])
    story = Conditions(clean, given, jnp.ones((1, 2, 1, 1)), jnp.zeros((1, 2, 1, 1)))
    seen = []

    def denoiser(latents, text, timesteps, given):
        seen.append((timesteps, given))
        sigma = jnp.maximum(timesteps, 1)[:, :, None, None, None, None] / 1000
        return (latents - 0.5) / sigma  # x0 is 0.5, whatever is asked

    table = options.table(schedule, 2)
    result = generate(denoiser, table, story, noise, lambda number: jnp.zeros(shape))
    np.testing.assert_array_equal(result.latents[:, 0], clean[:, 0])
    # Timesteps are whole numbers, sigmas not quite: so is x0.
    np.testing.assert_allclose(result.latents[:, 1], 0.5, atol=0.05)
    assert seen[0][0].shape == (3, 2)
    _, state = start(table, story, noise)
    np.testing.assert_array_equal(state.latents[:, 1], noise[:, 1])
    signal, sigma = jax.tree.map(lambda x: x[1], table).levels
    assert signal + sigma == pytest.approx(1)


def test_reuse_and_step_caches_work_for_flows():
    options = SamplingOptions(sampler="euler", steps=8, reuse_uncond=2, cache_tolerance=0.5)
    shape = (1, 1, 1, 2, 2, 3)
    noise = jax.random.normal(jax.random.key(0), shape)
    text = jnp.ones((1, 1, 1, 1))
    story = Conditions(jnp.zeros(shape), jnp.zeros((1, 1), bool), text, 0 * text)

    def denoiser(latents, text, timesteps, given):
        return latents - 0.1

    table = options.table(FlowSchedule(), 1)
    result = generate(denoiser, table, story, noise, lambda number: jnp.zeros(shape))
    assert np.isfinite(result.latents).all()
    assert result.evaluations.sum() < 2 * 8 - 3


def test_an_unknown_spacing_is_an_option_s_problem():
    problems = option_problems(SamplingOptions(spacing="log_snr"), FlowSchedule())
    assert "trailing, linspace" in problems["spacing"]
    with pytest.raises(ValueError, match="unknown spacing"):
        FlowSchedule(spacing="leading")
    with pytest.raises(ValueError, match=r"steps must be in 1\.\.10"):
        FlowSchedule(10).points(11)


def test_shifted_draws_have_shifted_odds():
    schedule = FlowSchedule()
    drawn = np.asarray(TimestepDraw(timestep_shift=3.0).draw(jax.random.key(0), 40_000, schedule))
    unshifted = (drawn / 1000) / (3 - 2 * drawn / 1000)
    counts, _ = np.histogram(unshifted, 4, (0, 1))
    np.testing.assert_allclose(counts, 10_000, atol=400)


def test_logit_normal_draws_are_normal_in_log_snr():
    draw = TimestepDraw(1.0, log_snr_mean=-1.0, log_snr_std=2.0, timestep_shift=2.0)
    drawn = np.asarray(draw.draw(jax.random.key(0), 40_000, FlowSchedule())) / 1000
    logits = np.log(drawn / (1 - drawn))
    assert logits.mean() == pytest.approx(0.5 + np.log(2), abs=0.03)
    assert logits.std() == pytest.approx(1, abs=0.03)


def test_min_snr_weights_of_flows():
    weights = min_snr_weights(FlowSchedule(), jnp.array([[0, 500, 900]]), 5.0)
    np.testing.assert_allclose(weights, [[0, 0.25, 0.01]], atol=1e-6)


def test_golden_noise_and_loss():
    arrays = np.load(GOLDEN / "training/wan21_cond.npz")
    given = jnp.asarray(arrays["given"])

    def to_scenes(name):
        x = arrays[name]
        parts = x.reshape(*x.shape[:2], int(arrays["scenes"]), -1, *x.shape[3:])
        return jnp.asarray(np.moveaxis(parts, (2, 1), (1, -1)))

    latents, noise, output = map(to_scenes, ("latents", "noise", "model_output"))
    schedule = FlowSchedule()
    timesteps = jnp.asarray(arrays["sigma"]) * schedule.timesteps
    noisy = schedule.add_noise(latents, noise, jnp.where(given, 0, timesteps))
    np.testing.assert_allclose(noisy, to_scenes("noisy"), atol=1e-6)
    loss = weighted_error(output, schedule.target(latents, noise, timesteps), scene_weights(given))
    np.testing.assert_allclose(loss, arrays["loss"], rtol=1e-5)
