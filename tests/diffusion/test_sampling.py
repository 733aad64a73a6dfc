import jax
import jax.numpy as jnp
import numpy as np
import pytest

from m2dit_jax.diffusion.options import SamplingOptions
from m2dit_jax.diffusion.samplers import SAMPLERS, sampling_steps
from m2dit_jax.diffusion.sampling import Conditions, denoise_step, for_story, generate, start
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

    return generate(
        denoiser, steps, Conditions(CLEAN, given, text, negative), NOISE, step_noise
    ).latents


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


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_known_frames_come_out_as_they_are_and_have_each_steps_noise(sampler):
    shape = (1, 2, 3, 2, 2, 1)
    clean, noise = jnp.full(shape, 0.5), jax.random.normal(jax.random.key(3), shape)
    known = jnp.zeros((1, 2, 3), bool).at[0, 1, 0].set(True)
    text, seen = jnp.zeros((1, 2, 1, 1)), []

    def denoiser(latents, text_embeds, timesteps, given):
        jax.debug.callback(lambda x: seen.append(np.asarray(x)), latents)
        return jnp.ones_like(latents)

    story = Conditions(clean, jnp.zeros((1, 2), bool), text, None, known=known)
    steps = sampling_steps(NoiseSchedule(), sampler, 5, 1.0)
    out = generate(denoiser, steps, story, noise, lambda n: jnp.zeros(shape)).latents
    jax.effects_barrier()
    np.testing.assert_allclose(out[0, 1, 0], 0.5, atol=1e-5)
    plain = generate(
        denoiser, steps, story._replace(known=None), noise, lambda n: jnp.zeros(shape)
    ).latents
    np.testing.assert_array_equal(out[0, 0], plain[0, 0])
    # Nearer to what is known from step to step, and never there before the last one.
    distances = [float(np.abs(x[0, 1, 0] - 0.5).mean()) for x in seen[:5]]
    assert distances == sorted(distances, reverse=True) and distances[-1] > 1e-3


def test_guidance_uses_the_negative_text_as_uncond():
    def denoiser(latents, text_embeds, timesteps, given):
        return jnp.broadcast_to(text_embeds[..., None, None], latents.shape)

    # v = negative + 3 (text - negative) = -1 + 3 * 2 = 5, the same as text 5 without guidance.
    guided = run(denoiser, False, 3.0, text=TEXT + 1, negative=TEXT - 1)
    plain = run(denoiser, False, 1.0, text=TEXT + 5, negative=TEXT)
    np.testing.assert_allclose(guided, plain, rtol=1e-5)


class Counted:
    """A denoiser that keeps how many rows it was called with."""

    def __init__(self, predict):
        self.predict = predict
        self.rows = []

    def __call__(self, latents, text_embeds, timesteps, given):
        jax.debug.callback(lambda x: self.rows.append(len(x)), latents)
        return self.predict(latents, text_embeds, timesteps, given)


def swirl(latents, text_embeds, timesteps, given):
    """Depends on all that a model's output depends on."""
    time = timesteps[:, :, None, None, None, None] / 1000
    text = text_embeds.mean((2, 3))[:, :, None, None, None, None]
    others = jnp.mean(latents, 1, keepdims=True)
    is_given = given[:, :, None, None, None, None]
    return jnp.tanh(latents - others + time + text * latents**2 + 0.5 * is_given)


def run_with(
    options, denoiser=swirl, given=(False, False, False), stories=slice(None), noise=NOISE
):
    given = jnp.broadcast_to(jnp.asarray(given), (2, 3))
    story = Conditions(CLEAN, given, TEXT + 1, TEXT - 1)
    counted = Counted(denoiser)
    made = generate(
        counted,
        options.table(NoiseSchedule()),
        jax.tree.map(lambda x: x[stories], story),
        noise[stories],
        lambda number: jnp.zeros_like(noise[stories]),
    )
    jax.effects_barrier()
    return made, counted.rows


def options(**changed):
    return SamplingOptions(**({"steps": 8, "guidance_scale": 3.0} | changed))


@pytest.mark.parametrize(
    ("saving", "rows"),
    [
        ({"guidance_start": 0.25, "guidance_end": 0.5}, [2, 2, 4, 4, 2, 2, 2, 2]),
        ({"reuse_uncond": 3}, [4, 2, 2, 4, 2, 2, 4, 2]),
        ({"reuse_uncond": 3, "guidance_start": 0.5}, [2, 2, 2, 2, 4, 2, 2, 4]),
        ({"cache_tolerance": 1e-9}, [4] * 8),
        ({}, [4] * 8),
    ],
)
def test_what_is_not_needed_is_not_evaluated(saving, rows):
    made, called = run_with(options(**saving))
    assert called == rows
    np.testing.assert_array_equal(made.evaluations, np.array(rows)[:, None] // 2 * [[1, 1]])


def test_without_guidance_in_a_step_it_is_one_of_the_conditional_branch():
    steps = options().table(NoiseSchedule())
    scales = np.where(np.arange(8) < 4, steps.guidance, 1).astype(np.float32)
    story = Conditions(CLEAN, jnp.zeros((2, 3), bool), TEXT + 1, TEXT - 1)
    plain = generate(swirl, steps._replace(guidance=scales), story, NOISE, lambda n: NOISE)
    made, _ = run_with(options(guidance_end=0.5))
    np.testing.assert_allclose(made.latents, plain.latents, atol=1e-5)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_branches_that_differ_by_the_same_all_the_time_can_be_reused(sampler):
    def denoiser(latents, text_embeds, timesteps, given):
        return jnp.tanh(latents) + text_embeds[..., None, None]

    plain, _ = run_with(options(sampler=sampler), denoiser)
    reused, rows = run_with(options(sampler=sampler, reuse_uncond=8), denoiser)
    assert sum(rows) == 4 + 7 * 2
    np.testing.assert_allclose(reused.latents, plain.latents, atol=1e-4)


@pytest.mark.parametrize("sampler", ["ddim", "unip_3"])
def test_steps_that_change_nothing_are_left_out(sampler):
    def denoiser(latents, text_embeds, timesteps, given):
        a, s = NoiseSchedule().signal_and_noise(timesteps, latents.ndim)
        return (a * latents - jnp.concatenate([CLEAN, CLEAN])) / s

    made, rows = run_with(options(sampler=sampler, cache_tolerance=0.01), denoiser)
    assert rows == [4, 4, 4]
    np.testing.assert_array_equal(made.evaluations[:, 0], [2, 2, 0, 0, 0, 0, 0, 2])
    np.testing.assert_allclose(made.latents, CLEAN, atol=1e-4)


def test_the_larger_the_tolerance_the_fewer_evaluations_and_the_larger_the_error():
    full, _ = run_with(options(steps=30))
    errors, evaluations = [], []
    for tolerance in (1e-9, 0.05, 0.2):
        made, _ = run_with(options(steps=30, cache_tolerance=tolerance))
        errors.append(float(jnp.abs(made.latents - full.latents).mean()))
        evaluations.append(int(made.evaluations.sum()))
    assert errors[0] < 1e-5 < errors[1] < errors[2] < 1
    assert evaluations[0] == 120 > evaluations[1] > evaluations[2] > 12


@pytest.mark.slow
def test_a_story_leaves_out_the_same_steps_whatever_is_beside_it():
    noise = NOISE.at[1].multiply(3.0)
    saving = options(steps=30, cache_tolerance=0.1, reuse_uncond=3)
    both, _ = run_with(saving, noise=noise)
    assert (both.evaluations[:, 0] != both.evaluations[:, 1]).any()
    for story in (slice(0, 1), slice(1, 2)):
        alone, _ = run_with(saving, stories=story, noise=noise)
        np.testing.assert_array_equal(alone.evaluations, both.evaluations[:, story])
        np.testing.assert_allclose(alone.latents, both.latents[story], atol=1e-5)


def test_given_scenes_stay_and_have_no_say_in_what_is_left_out():
    saving = options(steps=20, cache_tolerance=0.1, reuse_uncond=2, given_guidance_scale=2.0)
    made, _ = run_with(saving, given=(True, False, True))
    np.testing.assert_array_equal(made.latents[:, ::2], CLEAN[:, ::2])
    assert set(np.unique(made.evaluations)) == {0, 1, 3}


def test_guidance_by_given_scenes_by_hand():
    """v is 1 for a given scene in the story, 10 for the text 1, and nothing of both otherwise."""

    def denoiser(latents, text_embeds, timesteps, given):
        by_given = given.any(1)[:, None, None, None, None, None]
        return jnp.ones_like(latents) * by_given + 5 * (text_embeds[..., None, None] + 1)

    chosen = options(steps=1, given_guidance_scale=(9.0, 4.0, 2.0), guidance_scale=3.0)
    made, rows = run_with(chosen, denoiser, given=(True, False, False))
    assert rows == [6]
    # One step from pure noise is -v: 0 + 4 (1 - 0) + 3 (11 - 1), and with 2 for the last scene.
    np.testing.assert_allclose(made.latents[:, 1], -34, rtol=1e-5)
    np.testing.assert_allclose(made.latents[:, 2], -32, rtol=1e-5)


def test_where_nothing_is_given_scenes_are_noisy_and_all_at_the_steps_timestep():
    seen = []

    def denoiser(latents, text_embeds, timesteps, given):
        args = latents[0], timesteps[0], given[0]
        jax.debug.callback(lambda *x: seen.append([np.asarray(y) for y in x]), *args)
        return jnp.zeros_like(latents)

    run_with(options(steps=4, given_guidance_scale=2.0), denoiser, given=(True, False, False))
    timesteps = [999, 749, 499, 249]
    for (latents, at, given), timestep in zip(seen, timesteps, strict=True):
        a, s = NoiseSchedule().signal_and_noise(jnp.full((1, 1), timestep), 6)
        np.testing.assert_allclose(latents[:1], (a * CLEAN + s * NOISE)[0, :1], atol=1e-5)
        assert at.tolist() == [timestep] * 3 and not given.any()


def test_guidance_by_given_scenes_needs_a_negative_branch_and_given_scenes():
    steps = options(given_guidance_scale=2.0).table(NoiseSchedule())
    story = Conditions(CLEAN, jnp.ones((2, 3), bool), TEXT, None)
    with pytest.raises(ValueError, match="needs negative_embeds, found None"):
        generate(swirl, steps, story, NOISE, lambda n: NOISE)
    assert for_story(steps, np.zeros((2, 3), bool)).given_guidance is None
    assert for_story(steps, np.eye(2, 3, dtype=bool)) is steps


def test_a_scale_for_each_scene():
    scales = (1.0, 3.0, 5.0)

    def denoiser(latents, text_embeds, timesteps, given):  # no scene sees another
        return jnp.tanh(latents + text_embeds[..., None, None])

    made, _ = run_with(options(guidance_scale=scales), denoiser)
    for scene, scale in enumerate(scales):
        alike, _ = run_with(options(guidance_scale=scale), denoiser)
        np.testing.assert_allclose(made.latents[:, scene], alike.latents[:, scene], atol=1e-5)


def by_text(latents, text_embeds, timesteps, given):
    """v is the latents times the text, which is 1 and, as negative prompt, -1."""
    return text_embeds[..., None, None] * latents


@pytest.mark.parametrize(("phi", "expected"), [(0.0, -5.0), (0.5, -3.0), (1.0, -1.0)])
def test_rescaled_guidance_brings_the_spread_back_to_that_without(phi, expected):
    # The only step begins without signal, so that it ends at x0 = -v. Guided v is -x + 3 (x + x).
    made, _ = run_with(options(steps=1, guidance_rescale=phi), by_text)
    np.testing.assert_allclose(made.latents, expected * NOISE, rtol=1e-5)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_clean_latents_beyond_the_limit_are_cut_off(sampler):
    schedule = NoiseSchedule()

    def perfect(latents, text_embeds, timesteps, given):
        a, s = schedule.signal_and_noise(timesteps, latents.ndim)
        return (a * latents - jnp.concatenate([CLEAN, CLEAN])) / s

    made, _ = run_with(options(sampler=sampler, clip_x0=2.0), perfect)
    np.testing.assert_allclose(made.latents, jnp.minimum(CLEAN, 2), atol=1e-5)


def test_a_step_with_limited_clean_latents_is_ddims_with_these():
    steps = options(clip_x0=0.5, guidance_scale=1.0).table(NoiseSchedule())
    story = Conditions(CLEAN, jnp.zeros((2, 3), bool), TEXT + 1, None)
    story, state = start(steps, story, NOISE)
    step = jax.tree.map(lambda x: x[0], steps)
    following, result = denoise_step(by_text, story, step, state, NOISE)
    np.testing.assert_allclose(result.x0, np.clip(-NOISE, -0.5, 0.5), rtol=1e-6)
    # The second of 8 trailing timesteps is 874, of alpha a: root(a) x0 + root(1 - a) noise.
    a = NoiseSchedule().alphas_cumprod()[874]
    expected = np.sqrt(a) * np.clip(-NOISE, -0.5, 0.5) + np.sqrt(1 - a) * NOISE
    np.testing.assert_allclose(following.latents, expected, rtol=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        *({"sampler": sampler} for sampler in SAMPLERS),
        {"given_guidance_scale": 1.5, "guidance_rescale": 0.7},
        {"cache_tolerance": 0.2, "reuse_uncond": 2, "clip_x0": 1.0},
    ],
)
def test_a_model_of_clean_latents_samples_as_the_same_model_of_v(options):
    options = SamplingOptions(steps=5, guidance_scale=2.0, **options)
    schedule = NoiseSchedule(prediction="x0")
    weights = jnp.asarray(schedule.v_weights(), jnp.float32)

    def of_clean(latents, text_embeds, timesteps, given):
        return jnp.tanh(latents) + text_embeds.mean() + 1e-3 * timesteps.mean()

    def of_v(latents, text_embeds, timesteps, given):
        # Of the step: given scenes are at timestep 0, but what they become does not matter.
        of_noisy, of_output = weights[timesteps.max()]
        return of_noisy * latents + of_output * of_clean(latents, text_embeds, timesteps, given)

    given = jnp.broadcast_to(jnp.array([True, False, False]), (2, 3))
    story = Conditions(CLEAN, given, TEXT + 0.2, TEXT)
    made = [
        generate(denoiser, options.table(chosen), story, NOISE, lambda number: 0.1 * NOISE).latents
        for denoiser, chosen in ((of_clean, schedule), (of_v, NoiseSchedule()))
    ]
    np.testing.assert_allclose(*made, atol=1e-4)
