import jax
import jax.numpy as jnp
import numpy as np
import pytest

from m2dit_jax.diffusion.consistency import consistency_target, small_steps
from m2dit_jax.diffusion.noising import SPACINGS
from m2dit_jax.diffusion.samplers import sampling_steps
from m2dit_jax.diffusion.schedule import NoiseSchedule

SCHEDULE = NoiseSchedule(snr_shift=24.0)
SHAPE = (3, 2, 1, 2, 2, 1)


def _normal(seed, shape=SHAPE):
    return jax.random.normal(jax.random.key(seed), shape)


def _at(timestep):
    return jnp.full(SHAPE[:2], timestep, jnp.int32)


NONE_GIVEN = jnp.zeros(SHAPE[:2], bool)


def _ddim(latents, v, angle, to):
    """A DDIM step by its definition, from one angle to another."""
    x0 = np.cos(angle) * latents - np.sin(angle) * v
    noise = np.sin(angle) * latents + np.cos(angle) * v
    return np.cos(to) * x0 + np.sin(to) * noise


def test_the_small_steps_of_trailing_are_the_teachers_own():
    steps = small_steps(SCHEDULE, 4, 20, guidance_scale=3.0, guidance_end=0.5)
    np.testing.assert_array_equal(steps.timesteps, SCHEDULE.sampling_timesteps(20))
    np.testing.assert_array_equal(steps.following, [*steps.timesteps[1:], 0])
    np.testing.assert_array_equal(steps.guidance, [3.0] * 10 + [1.0] * 10)
    weights = sampling_steps(SCHEDULE, "ddim", 20, 1.0).weights
    np.testing.assert_allclose(np.cos(steps.turns), weights[:, 0], atol=1e-6)
    np.testing.assert_allclose(-np.sin(steps.turns), weights[:, 1], atol=1e-6)


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("number", [1, 2, 4])
def test_every_step_of_the_student_is_covered_by_small_ones(number, spacing):
    schedule = NoiseSchedule(snr_shift=24.0, spacing=spacing)
    steps = small_steps(schedule, number, 24)
    assert set(schedule.sampling_timesteps(number)) <= set(steps.timesteps.tolist())
    assert (np.diff(steps.timesteps) < 0).all() and (steps.turns > 0).all()
    assert len(steps.timesteps) == 24 or spacing != "trailing"
    # From the start of a student's step its small ones add up to the whole.
    whole = sampling_steps(schedule, "ddim", number, 1.0).weights[:, 0]
    starts = np.isin(steps.timesteps, schedule.sampling_timesteps(number))
    np.testing.assert_allclose(np.cos(steps.turns + steps.left)[starts], whole, atol=1e-6)
    # Each small step begins where the one before ended, or the student's step did.
    goes_on = ~starts[1:]
    np.testing.assert_allclose(
        steps.left[:-1][goes_on], (steps.turns + steps.left)[1:][goes_on], atol=1e-12
    )
    np.testing.assert_allclose(steps.left[:-1][starts[1:]], 0, atol=1e-12)


def test_in_log_snr_they_are_equally_far_apart():
    schedule = NoiseSchedule(snr_shift=24.0, spacing="log_snr")
    steps = small_steps(schedule, 3, 12)
    middle = steps.timesteps[(steps.timesteps >= 0) & (steps.timesteps <= 157)]
    alphas = schedule.alphas_cumprod()[middle]
    np.testing.assert_allclose(np.diff(np.log(alphas / (1 - alphas))), 5.4 / 4, atol=0.25)
    one = small_steps(schedule, 1, 12).timesteps
    np.testing.assert_array_equal(one, schedule.sampling_timesteps(12))


def test_the_target_is_what_the_two_steps_by_their_definition_come_to():
    """Linear models, whose results can be computed by hand."""
    steps = small_steps(SCHEDULE, 2, 6, guidance_scale=3.0, guidance_end=0.9)
    latents = _normal(0)
    for row, (timestep, following) in enumerate(
        zip(steps.timesteps.tolist(), steps.following.tolist(), strict=True)
    ):
        target = consistency_target(
            steps,
            lambda x, t: 0.5 * x + t[..., None, None, None, None] / 1000,
            lambda x, t: 0.1 * x,
            lambda x, t: -0.3 * x + t[..., None, None, None, None] / 500,
            latents,
            _at(timestep),
            NONE_GIVEN,
        )
        x = np.asarray(latents, np.float64)
        angle = steps.angles[row]
        cond, uncond = 0.5 * x + timestep / 1000, 0.1 * x
        scale = 3.0 if row < 6 * 0.9 else 1.0
        moved = _ddim(x, uncond + scale * (cond - uncond), angle, angle - steps.turns[row])
        end = angle - steps.turns[row] - steps.left[row]
        reached = _ddim(moved, -0.3 * moved + following / 500, angle - steps.turns[row], end)
        np.testing.assert_allclose(
            _ddim(x, np.asarray(target, np.float64), angle, end), reached, atol=1e-5
        )


def test_the_students_step_ends_exactly_where_the_last_small_step_does():
    steps = small_steps(SCHEDULE, 4, 20)
    for row in (4, 9, 14, 19):
        target = consistency_target(
            steps,
            lambda x, t: jnp.sin(x),
            None,
            lambda x, t: jnp.full_like(x, 7.0),  # does not matter there
            _normal(1),
            _at(steps.timesteps[row]),
            NONE_GIVEN,
        )
        np.testing.assert_allclose(target, jnp.sin(_normal(1)), atol=1e-5)


@pytest.mark.parametrize("spacing", ["trailing", "log_snr"])
def test_a_student_that_is_consistent_with_its_teacher_is_its_own_target(spacing):
    """Of latents that are all one clean story, the true v of any noise is known."""
    schedule = NoiseSchedule(snr_shift=24.0, spacing=spacing)
    steps = small_steps(schedule, 4, 20)
    clean = _normal(2)

    def exact(noisy, timesteps):
        signal, sigma = schedule.signal_and_noise(timesteps, noisy.ndim)
        return (signal * noisy - clean) / sigma

    for timestep in steps.timesteps.tolist():
        noisy = schedule.add_noise(clean, _normal(3), _at(timestep))
        target = consistency_target(steps, exact, None, exact, noisy, _at(timestep), NONE_GIVEN)
        np.testing.assert_allclose(target, exact(noisy, _at(timestep)), atol=2e-4)
    noisy = _normal(3)
    off = consistency_target(steps, exact, None, lambda x, t: x, noisy, _at(999), NONE_GIVEN)
    assert jnp.abs(off - exact(noisy, _at(999))).max() > 0.1, "another student's is another"


def test_given_scenes_stay_as_they_are_at_timestep_0():
    steps = small_steps(SCHEDULE, 4, 20)
    given = NONE_GIVEN.at[:, 0].set(True)
    timesteps = jnp.where(given, 0, 749)
    seen = {}

    def student(latents, timesteps):
        seen.update(latents=latents, timesteps=timesteps)
        return latents

    latents = _normal(4)
    target = consistency_target(steps, lambda x, t: -x, None, student, latents, timesteps, given)
    np.testing.assert_array_equal(seen["latents"][:, 0], latents[:, 0])
    np.testing.assert_array_equal(seen["timesteps"], jnp.where(given, 0, 699))
    assert not np.allclose(seen["latents"][:, 1], latents[:, 1])
    assert np.isfinite(target).all()


def test_the_teachers_clean_latents_can_be_limited():
    steps = small_steps(SCHEDULE, 4, 4)
    latents, timestep = _normal(5), 249
    v = 3 * _normal(6)
    target = consistency_target(
        steps, lambda x, t: v, None, lambda x, t: x, latents, _at(timestep), NONE_GIVEN, 0.5
    )
    signal, sigma = SCHEDULE.signal_and_noise(_at(timestep), latents.ndim)
    x0 = jnp.clip(signal * latents - sigma * v, -0.5, 0.5)
    np.testing.assert_allclose(signal * latents - sigma * target, x0, atol=1e-5)
