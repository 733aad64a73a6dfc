import jax.numpy as jnp
import numpy as np
import pytest

from m2dit_jax.diffusion.options import SamplingOptions
from m2dit_jax.diffusion.samplers import SAMPLERS
from m2dit_jax.models.pixels import decode_pixels
from tests.engines import random_engine

PROMPTS = [["a red cross moves left on gray", "it moves up on navy"]] * 2
OTHER_PROMPTS = [["a blue circle moves right on white", "it moves down on olive"]] * 2


@pytest.fixture(scope="module")
def engine(make_tiny_config):
    return random_engine(make_tiny_config())


def run(
    engine,
    given=(False, False),
    prompts=PROMPTS,
    seeds=(0, 1),
    scale=1.0,
    negative="",
    name="ddim",
    noise_given=False,
):
    video = np.arange(2 * 2 * 2 * 8 * 8 * 3).reshape(2, 2, 2, 8, 8, 3).astype(np.uint8)
    made = engine.sample_many(
        prompts,
        seeds,
        options=SamplingOptions(sampler=name, steps=2, guidance_scale=scale),
        clips=video,
        given=np.broadcast_to(np.array(given), (2, 2)),
        negative_prompt=negative,
        noise_clips=noise_given,
    )
    return video, made.video


@pytest.mark.parametrize("noise_given", [False, True])
@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("given", [(True, False), (False, True)])
def test_given_scenes_come_back_byte_for_byte(engine, given, name, noise_given):
    video, made = run(engine, given, name=name, noise_given=noise_given)
    kept = np.array(given)
    np.testing.assert_array_equal(made[:, kept], video[:, kept])
    assert (made[:, ~kept] != video[:, ~kept]).any()


def test_a_story_depends_on_its_own_key_and_prompts_only(engine):
    _, made = run(engine)
    others = [PROMPTS[0], ["a blue circle moves right on white", "it moves down on olive"]]
    _, beside_others = run(engine, prompts=others, seeds=(0, 7))
    np.testing.assert_array_equal(made[0], beside_others[0])
    assert (made[1] != beside_others[1]).any()


def test_savings_are_counted_for_each_story_by_itself(engine):
    options = SamplingOptions(steps=8, guidance_scale=2.0, cache_tolerance=3.0, reuse_uncond=2)

    def run_counted(prompts, seeds):
        return engine.sample_many(prompts, seeds, options=options)

    made = run_counted(PROMPTS, (0, 1))
    beside_others = run_counted([PROMPTS[0], OTHER_PROMPTS[0]], (0, 7))
    np.testing.assert_allclose(made.latents[0], beside_others.latents[0], atol=1e-5)
    np.testing.assert_array_equal(made.evaluations[:, 0], beside_others.evaluations[:, 0])
    assert made.evaluations.shape == (8, 2)
    assert set(np.unique(made.evaluations)) == {0, 1, 2}
    np.testing.assert_array_equal(made.video, decode_pixels(jnp.asarray(made.latents)))


def test_prompts_and_guidance_matter(engine):
    _, plain = run(engine)
    _, guided = run(engine, scale=5.0)
    assert (plain != guided).any()
    _, other = run(engine, prompts=OTHER_PROMPTS)  # the same keys
    assert all((plain[i] != other[i]).any() for i in range(2))


def test_at_scale_1_the_negative_prompt_changes_nothing(engine):
    _, plain = run(engine)
    _, other = run(engine, negative="a blue circle")
    # u + 1 * (c - u) is c but for rounding
    np.testing.assert_allclose(plain.astype(int), other.astype(int), atol=1)


def test_at_scale_0_only_the_negative_prompt_changes_anything(engine):
    _, plain = run(engine, scale=0.0)
    _, other_prompts = run(engine, scale=0.0, prompts=OTHER_PROMPTS)
    np.testing.assert_array_equal(plain, other_prompts)
    _, other_negative = run(engine, scale=0.0, negative="a blue circle")
    assert np.abs(plain.astype(int) - other_negative).max() > 1


def test_unknown_words_are_refused(engine):
    with pytest.raises(ValueError, match="unknown words: dragon"):
        run(engine, prompts=[["a red dragon moves left on gray"] * 2] * 2)


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_story_is_the_same_again_and_samplers_differ(engine, name):
    _, made = run(engine, name=name)
    np.testing.assert_array_equal(made, run(engine, name=name)[1])
    # In so few steps those that draw no noise are one and the same.
    other = "ddim" if name == "dpm" else "dpm"
    assert (made != run(engine, name=other)[1]).any()


def test_noise_on_given_scenes_matters_to_the_others(engine):
    _, clean = run(engine, (True, False))
    _, noisy = run(engine, (True, False), noise_given=True)
    assert (clean[:, 1] != noisy[:, 1]).any()
