import numpy as np
import pytest

from m2dit_jax.diffusion.options import SamplingOptions, option_problems
from m2dit_jax.diffusion.samplers import ALL, CONDITIONAL, REUSED, SAMPLERS, sampling_steps
from m2dit_jax.diffusion.schedule import NoiseSchedule
from m2dit_jax.utils.options import OptionError

SCHEDULE = NoiseSchedule()


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_with_everything_off_the_table_is_the_samplers_own(sampler):
    plain = sampling_steps(SCHEDULE, sampler, 7, 3.0, dynamic_guidance=True)
    for off in (
        {},
        {"guidance_start": 0.0, "guidance_end": 1.0, "reuse_uncond": 1, "cache_tolerance": 0.0},
    ):
        plain_options = {"sampler": sampler, "steps": 7, "guidance_scale": 3.0}
        options = SamplingOptions(**plain_options, dynamic_guidance=True, **off)
        for ours, theirs in zip(options.table(SCHEDULE), plain, strict=True):
            np.testing.assert_array_equal(ours, theirs)
        assert options.full() == options


def test_spacing_stands_in_for_the_schedules():
    leading = NoiseSchedule(spacing="leading")
    for name, timesteps in {
        None: [750, 500, 250, 0],
        "trailing": [999, 749, 499, 249],
        "leading": [750, 500, 250, 0],
        "linspace": [999, 666, 333, 0],
        "log_snr": [999, 638, 76, 0],
    }.items():
        table = SamplingOptions(steps=4, spacing=name).table(leading)
        np.testing.assert_array_equal(table.timesteps, timesteps)


def test_what_limits_the_prediction_is_in_every_step_or_not_there():
    table = SamplingOptions(steps=2, guidance_rescale=0.5, clip_x0=1.0).table(SCHEDULE)
    np.testing.assert_array_equal(table.rescale, [0.5, 0.5])
    np.testing.assert_array_equal(table.x0_limit, [1, 1])
    plain = SamplingOptions(steps=2, guidance_rescale=0.0, clip_x0=0.0).table(SCHEDULE)
    assert plain.rescale is None and plain.x0_limit is None


def test_which_branches_are_evaluated():
    options = SamplingOptions(
        steps=10, guidance_scale=3.0, guidance_start=0.2, guidance_end=0.8, reuse_uncond=4
    )
    table = options.table(SCHEDULE)
    assert table.refresh is not None
    expected = [CONDITIONAL] * 2 + [ALL, REUSED, REUSED, REUSED, ALL, REUSED] + [CONDITIONAL] * 2
    np.testing.assert_array_equal(table.refresh, expected)
    np.testing.assert_array_equal(table.guidance, [1, 1, 3, 3, 3, 3, 3, 3, 1, 1])
    assert options.full() == SamplingOptions(steps=10, guidance_scale=3.0)


def test_steps_that_are_never_left_out():
    # The first, the last, and the first with guidance, which nothing is known of before.
    table = SamplingOptions(steps=5, cache_tolerance=0.5, guidance_start=0.4).table(SCHEDULE)
    assert table.tolerance is not None
    np.testing.assert_array_equal(table.tolerance, [0, 0.5, 0, 0.5, 0])


def test_a_scale_for_each_scene():
    options = SamplingOptions(
        steps=2, guidance_scale=(1.0, 2.0, 3.0), given_guidance_scale=1.5, guidance_end=0.5
    )
    table = options.table(SCHEDULE, scenes=3)
    np.testing.assert_array_equal(table.guidance, [[1, 2, 3], [1, 1, 1]])
    np.testing.assert_array_equal(table.given_guidance, [1.5, 1])
    of_two = table.for_scenes([0, 2])
    np.testing.assert_array_equal(of_two.guidance, [[1, 3], [1, 1]])
    np.testing.assert_array_equal(of_two.given_guidance, [1.5, 1])


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"sampler": "heun"}, "found 'heun', needs one of ddim, dpm, unip_3"),
        ({"steps": 0}, "found 0, needs a whole number, from 1 to 100000"),
        ({"steps": 2.0}, "found 2.0, needs a whole number, from 1 to 100000"),
        (
            {"guidance_scale": float("nan")},
            "found nan, needs a finite number, from 0 to 1000, or",
        ),
        (
            {"guidance_scale": (1.0, -2.0)},
            "found a list of 2, needs a finite number, from 0 to",
        ),
        ({"given_guidance_scale": -1.0}, "found -1.0, needs a finite number, from 0 to 1000"),
        ({"guidance_start": -0.1}, "found -0.1, needs a finite number, from 0 to 1"),
        ({"reuse_uncond": 0}, "found 0, needs a whole number, from 1 to 100000"),
        ({"cache_tolerance": -0.5}, "found -0.5, needs a finite number, from 0 to 1000"),
        ({"spacing": "karras"}, "found 'karras', needs one of trailing, leading, linspace, log_sn"),
        ({"guidance_rescale": 1.5}, "found 1.5, needs a finite number, from 0 to 1"),
        ({"clip_x0": -1.0}, "found -1.0, needs a finite number, from 0 to 1000"),
    ],
)
def test_what_cannot_be_is_never_made(changed, problem):
    (name,) = changed
    with pytest.raises(OptionError) as error:
        SamplingOptions(**changed)
    assert str(error.value).startswith(f"{name}: {problem}")
    with pytest.raises(OptionError, match=f"^{name}: found"):
        SamplingOptions().replace(**changed)


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"steps": 1001}, "found 1001, needs a number from 1 to 1000"),
        ({"guidance_scale": (1.0, 2.0)}, "needs one number, or one for each of 3 scenes"),
        ({"guidance_end": 0.0}, "needs a share above guidance_start 0 by so much"),
    ],
)
def test_what_does_not_fit_the_run_is_named(changed, problem):
    options = SamplingOptions(**changed)
    (name,) = changed
    problems = option_problems(options, SCHEDULE, scenes=3)
    assert list(problems) == [name] and problem in problems[name]
    with pytest.raises(ValueError, match=f"^{name}: found"):
        options.table(SCHEDULE, scenes=3)


def test_the_reference_has_no_third_order_and_is_not_repeated_with_it():
    options = SamplingOptions(sampler="unip_3", as_reference=True)
    assert "found true, needs false" in option_problems(options, SCHEDULE)["as_reference"]
    assert not option_problems(SamplingOptions(sampler="dpm", as_reference=True), SCHEDULE)
    spaced = SamplingOptions(as_reference=True, spacing="log_snr")
    assert "found true, needs false" in option_problems(spaced, SCHEDULE)["as_reference"]


def test_when_a_negative_prompt_is_needed():
    assert not SamplingOptions(guidance_scale=1.0).needs_negative
    assert SamplingOptions(guidance_scale=(1.0, 2.0)).needs_negative
    assert SamplingOptions(guidance_scale=1.0, dynamic_guidance=True).needs_negative
    assert SamplingOptions(guidance_scale=1.0, given_guidance_scale=1.5).needs_negative
    assert SamplingOptions(guidance_scale=1.0, guidance_scale_2=0.0).needs_negative
