import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from m2dit_jax.diffusion.options import SamplingOptions
from m2dit_jax.diffusion.samplers import sampling_steps
from m2dit_jax.diffusion.sampling import Conditions
from m2dit_jax.diffusion.schedule import NoiseSchedule
from m2dit_jax.models.cogvideox.transformer import TransformerConfig
from m2dit_jax.models.network import LoadedNetwork
from m2dit_jax.parallel.context import placement_on
from m2dit_jax.parallel.mesh import make_mesh
from m2dit_jax.pipeline.denoise import denoise
from m2dit_jax.pipeline.given_cache import (
    cached_denoiser,
    cached_scenes,
    fill_cache,
    generated_part,
)
from tests.engines import random_engine
from tests.models.random_weights import random_transformer

SHAPE = (2, 3, 1, 4, 4, 2)  # B S F H W C


@functools.cache
def make_transformer(heads: int = 2) -> LoadedNetwork:
    config = TransformerConfig(
        channels=2,
        patch_size=2,
        layers=2,
        heads=heads,
        head_dim=16,
        text_dim=6,
        time_dim=8,
        mask="causal",
        attention="auto",
    )
    graphdef, params = nnx.split(random_transformer(config))
    return LoadedNetwork(graphdef, nnx.to_pure_dict(params))


def normal(seed, shape):
    return jax.random.normal(jax.random.key(seed), shape)


def make_story(given, negative=True) -> Conditions:
    return Conditions(
        clean=normal(0, SHAPE),
        given=jnp.array([given] * 2),
        text_embeds=normal(1, (2, 3, 3, 6)),
        negative_embeds=normal(2, (2, 3, 3, 6)) if negative else None,
    )


def run(story, sampler="ddim", heads=2, **options) -> list[Any]:
    steps = sampling_steps(NoiseSchedule(), sampler, 4, 3.0)
    noise = normal(4, SHAPE)
    transformer = make_transformer(heads)
    return list(
        denoise(transformer, steps, story, noise, lambda n: normal(9 + n, SHAPE), **options)
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("given", "sampler", "negative"),
    [
        ((True, True, False), "ddim", True),
        ((False, True, False), "dpm", True),
        ((False, True, True), "ddim", False),
        ((True, False, True), "dpm", False),
    ],
)
def test_every_step_is_the_one_without_the_cache(given, sampler, negative):
    story = make_story(given, negative)
    new, known = np.flatnonzero(np.logical_not(given)), np.flatnonzero(given)
    cached, plain = run(story, sampler), run(story, sampler, cache=False)
    for with_cache, without in zip(cached, plain, strict=True):
        np.testing.assert_allclose(with_cache.latents, without.latents, atol=1e-5)
        np.testing.assert_allclose(with_cache.x0[:, new], without.x0[:, new], atol=1e-5)
        np.testing.assert_allclose(with_cache.v_pred[:, new], without.v_pred[:, new], atol=1e-5)
        np.testing.assert_array_equal(with_cache.latents[:, known], story.clean[:, known])
        assert not np.any(with_cache.v_pred[:, known]) and np.any(without.v_pred[:, known])


@pytest.mark.slow
def test_savings_and_the_cache_go_together():
    story = make_story((True, True, False))
    options = SamplingOptions(
        sampler="unip_3",
        steps=6,
        guidance_scale=(9.0, 9.0, 3.0),
        guidance_start=0.2,
        reuse_uncond=2,
        cache_tolerance=1.0,
    )
    steps = options.table(NoiseSchedule(), scenes=3)
    cached, plain = (
        list(
            denoise(
                make_transformer(), steps, story, normal(4, SHAPE), lambda n: 0 * story.clean, **o
            )
        )
        for o in ({}, {"cache": False})
    )
    assert not np.any(cached[0].v_pred[:, :2])
    for with_cache, without in zip(cached, plain, strict=True):
        np.testing.assert_allclose(with_cache.latents, without.latents, atol=1e-4)
        np.testing.assert_array_equal(with_cache.evaluations, without.evaluations)
    assert {0, 1, 2} == {int(result.evaluations[0]) for result in cached}


def test_guidance_by_given_scenes_goes_without_the_cache():
    story = make_story((True, True, False))
    steps = SamplingOptions(steps=1, given_guidance_scale=2.0).table(NoiseSchedule())
    (result,) = denoise(make_transformer(), steps, story, normal(4, SHAPE), lambda n: story.clean)
    assert result.v_pred.shape[0] == 6 and np.any(result.v_pred[:, :2])


@pytest.mark.slow
@pytest.mark.parametrize(("devices", "heads"), [(4, 2), (8, 8)])
def test_over_several_devices_it_is_that_of_one(devices, heads, on_eight_devices):
    expected = run(make_story((True, False, True)), heads=heads)[-1].latents
    actual = on_eight_devices(_run_on, devices, heads)
    np.testing.assert_allclose(actual, expected, atol=1e-5)


def _run_on(devices, heads):
    # 2 heads on 4 devices do not divide: keys are gathered, and every device has the whole cache.
    mesh = make_mesh(
        {"data": 1, "fsdp": 2 if devices == 8 else 1, "context": -1},
        jax.devices()[:devices],
    )
    results = run(make_story((True, False, True)), heads=heads, placement=placement_on(mesh))
    return np.asarray(results[-1].latents)


def test_what_can_be_cached():
    story = np.array([[True, False, True]] * 2)
    assert cached_scenes("causal", story) == (True, False, True)
    assert cached_scenes("symmetric", story) is None
    assert cached_scenes("causal", ~story & story) is None
    assert cached_scenes("causal", story | True) is None
    assert cached_scenes("causal", np.array([[True, False], [False, True]])) is None


@pytest.mark.slow
def test_one_branch_of_a_cache_for_two_and_no_third():
    given = (True, True, False)
    story = make_story(given)
    model = nnx.merge(*make_transformer())
    part = generated_part(story, given)
    both = cached_denoiser(model, fill_cache(model, story, given), given)
    without = story._replace(negative_embeds=None)
    one = cached_denoiser(model, fill_cache(model, without, given), given)
    timesteps = jnp.full((2, 1), 500)
    args = (normal(5, part.clean.shape), part.text_embeds, timesteps, part.given)
    np.testing.assert_allclose(both(*args), one(*args), atol=1e-5)
    three = jax.tree.map(lambda x: jnp.concatenate([x, x, x]), args)
    with pytest.raises(ValueError, match="cache of given scenes has 4 stories.*called with 6"):
        both(*three)


@pytest.mark.slow
def test_the_compiled_loop_with_and_without(make_tiny_config):
    config = make_tiny_config()
    config.model.mask = "causal"
    engine = random_engine(config, scale=0.1)
    video = np.arange(2 * 2 * 2 * 8 * 8 * 3).reshape(2, 2, 2, 8, 8, 3).astype(np.uint8)

    def sample(cache):
        return engine.sample_many(
            [["a red cross moves left on gray", "it moves up on navy"]] * 2,
            [0, 1],
            options=SamplingOptions(sampler="dpm", steps=3, guidance_scale=2.0),
            clips=video,
            given=np.array([[True, False]] * 2),
            cache=cache,
        ).video

    cached, plain = sample(True), sample(False)
    difference = np.abs(cached.astype(int) - plain)
    # A value between two levels may be rounded to either.
    assert difference.max() <= 1 and difference.mean() < 1e-3
