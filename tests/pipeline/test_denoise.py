from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from m2dit_jax.diffusion.flow import FlowSchedule
from m2dit_jax.diffusion.options import SamplingOptions
from m2dit_jax.diffusion.samplers import SAMPLERS, sampling_steps
from m2dit_jax.diffusion.sampling import Conditions, generate, noise_given
from m2dit_jax.diffusion.schedule import NoiseSchedule
from m2dit_jax.models.coding import (
    decode_scene,
    encode_clips,
    encode_prompts,
    to_unit_range,
)
from m2dit_jax.models.network import LoadedNetwork
from m2dit_jax.parallel.context import placement_on
from m2dit_jax.parallel.mesh import make_mesh
from m2dit_jax.pipeline.denoise import denoise
from m2dit_jax.weights.released import ReleasedModel

GOLDEN_TI2V = Path(__file__).parents[1] / "golden_wan/pipe_wan22_ti2v"
SHAPE = (1, 2, 1, 4, 4, 4)  # B S F H W C


@pytest.fixture(scope="module")
def model(golden) -> ReleasedModel:
    return ReleasedModel(golden / "pipe_5b")


@pytest.fixture(scope="module")
def transformer(model) -> LoadedNetwork:
    return model.transformer()


@pytest.fixture(scope="module")
def vae(model):
    return nnx.merge(*model.vae())


def normal(seed, shape):
    return jax.random.normal(jax.random.key(seed), shape)


def story(negative: bool) -> Conditions:
    return Conditions(
        clean=normal(0, SHAPE),
        given=jnp.array([[True, False]]),
        text_embeds=normal(1, (1, 2, 12, 32)),
        negative_embeds=normal(2, (1, 2, 12, 32)) if negative else None,
    )


def step_noise(number):
    return jax.random.normal(jax.random.fold_in(jax.random.key(3), number), SHAPE)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("negative", [True, False])
def test_steps_one_by_one_end_where_the_compiled_loop_does(transformer, sampler, negative):
    steps = sampling_steps(NoiseSchedule(), sampler, 4, 3.0)
    noise = normal(4, SHAPE)
    results = list(denoise(transformer, steps, story(negative), noise, step_noise))
    assert len(results) == 4
    expected = generate(nnx.merge(*transformer), steps, story(negative), noise, step_noise).latents
    np.testing.assert_allclose(results[-1].latents, expected, atol=1e-4)
    assert not np.allclose(results[-2].latents, expected, atol=1e-2)
    assert results[0].v_pred.shape[0] == (2 if negative else 1)
    for result in results:
        np.testing.assert_array_equal(result.latents[:, 0], story(negative).clean[:, 0])


@pytest.mark.parametrize(
    ("options", "evaluations"),
    [
        ({"guidance_start": 0.4, "reuse_uncond": 2}, [1, 1, 2, 1, 2]),
        ({"sampler": "unip_3", "cache_tolerance": 100.0}, [2, 2, 0, 0, 2]),
        ({"given_guidance_scale": 2.0, "guidance_scale": (1.0, 3.0)}, [3] * 5),
        ({"spacing": "log_snr", "guidance_rescale": 0.7, "clip_x0": 1.0}, [2] * 5),
    ],
)
def test_what_is_saved_one_by_one_is_saved_in_the_compiled_loop(transformer, options, evaluations):
    options = SamplingOptions(**({"steps": 5, "guidance_scale": 3.0} | options))
    steps, noise = options.table(NoiseSchedule(), scenes=2), normal(4, SHAPE)
    results = list(denoise(transformer, steps, story(True), noise, step_noise))
    expected = generate(nnx.merge(*transformer), steps, story(True), noise, step_noise)
    np.testing.assert_allclose(results[-1].latents, expected.latents, atol=1e-4)
    np.testing.assert_array_equal([r.evaluations for r in results], expected.evaluations)
    np.testing.assert_array_equal(expected.evaluations[:, 0], evaluations)
    for result in results:
        np.testing.assert_array_equal(result.latents[:, 0], story(True).clean[:, 0])


def test_a_step_is_compiled_once(transformer, caplog):
    steps = sampling_steps(NoiseSchedule(), "dpm", 4, 3.0)
    here = transformer._replace(params=jax.device_put(transformer.params, jax.devices()[0]))
    jax.clear_caches()
    with jax.log_compiles():
        list(denoise(here, steps, story(True), normal(4, SHAPE), step_noise))
    compiled = [r for r in caplog.messages if r.startswith("Compiling jit(sampling_step)")]
    assert len(compiled) == 1


def test_steps_are_taken_when_they_are_asked_for(transformer):
    asked = []

    def count(number):
        asked.append(number)
        return step_noise(number)

    steps = sampling_steps(NoiseSchedule(), "ddim", 3, 1.0)
    results = denoise(transformer, steps, story(negative=False), normal(4, SHAPE), count)
    assert asked == []
    next(results)
    assert asked == [0]
    assert len(list(results)) == 2
    assert asked == [0, 1, 2]


def test_prompts_are_encoded_each_alone(model):
    network = model.text_encoder()
    ids = jax.random.randint(jax.random.key(0), (2, 3, 12), 0, 400)
    embeds = encode_prompts(network, ids)
    assert embeds.shape == (2, 3, 12, 32)
    np.testing.assert_allclose(encode_prompts(network, ids[1:, 2:])[0, 0], embeds[1, 2], atol=2e-5)
    other = encode_prompts(network, ids.at[0, 0, 3].add(1))
    np.testing.assert_array_equal(other[0, 1:], embeds[0, 1:])
    assert not np.allclose(other[0, 0], embeds[0, 0], atol=1e-2)


def test_latents_of_clips_are_scaled_draws(vae):
    clips = jnp.tanh(normal(0, (2, 1, 16, 16, 3)))
    noise = normal(1, (2, 1, 2, 2, 4))
    mean, logvar = vae.encode(clips)
    assert vae.config.scaling_factor == 0.7
    np.testing.assert_allclose(encode_clips(vae, clips, jnp.zeros_like(noise)), 0.7 * mean, 1e-5)
    np.testing.assert_allclose(
        encode_clips(vae, clips, noise), 0.7 * (mean + jnp.exp(logvar / 2) * noise), atol=1e-5
    )


def test_given_latents_get_the_noise_of_timestep_0():
    schedule = NoiseSchedule()
    latents, noise = normal(0, SHAPE), normal(1, SHAPE)
    noisy = noise_given(schedule, latents, noise)
    # The README of the golden files: a[0] = 0.99915 with an SNR shift of 1.
    expected = np.sqrt(0.99915) * latents + np.sqrt(1 - 0.99915) * noise
    np.testing.assert_allclose(noisy, expected, atol=1e-6)


def test_scenes_are_decoded_to_pictures(vae):
    latents = 3 * normal(0, (2, 1, 2, 2, 4))
    video = decode_scene(vae, latents)
    assert video.shape == (2, 1, 16, 16, 3)
    raw = vae.decode(latents / 0.7)
    assert np.any(np.abs(raw) > 1)
    np.testing.assert_allclose(video, np.clip((raw + 1) / 2, 0, 1), atol=1e-6)
    # Videos of a batch share nothing.
    np.testing.assert_allclose(decode_scene(vae, latents[::-1]), video[::-1], atol=1e-5)


def test_the_range_of_pictures():
    values = to_unit_range(jnp.array([-3.0, -1.0, 0.0, 0.5, 1.0, 2.0]))
    np.testing.assert_array_equal(values, [0, 0, 0.5, 0.75, 1, 1])


@pytest.mark.slow
@pytest.mark.parametrize("devices", [2, 8])
def test_a_story_over_several_devices_is_that_of_one(devices, golden, on_eight_devices):
    expected = _denoise_on(1, golden)
    actual = on_eight_devices(_denoise_on, devices, golden)
    np.testing.assert_allclose(actual, expected, atol=1e-4)


def _denoise_on(devices, golden):
    # 2 heads: on 2 devices they are exchanged for tokens, on 8 keys and values are gathered.
    axes = {"data": 1, "fsdp": 1, "context": -1}
    mesh = make_mesh(axes, jax.devices()[:devices])
    transformer = ReleasedModel(golden / "pipe_5b").transformer(mesh=mesh)
    options = SamplingOptions(
        steps=4, guidance_scale=3.0, reuse_uncond=2, cache_tolerance=1e-6, given_guidance_scale=2.0
    )
    steps = options.table(NoiseSchedule())
    noise, place = normal(4, SHAPE), placement_on(mesh)
    *_, last = denoise(transformer, steps, story(True), noise, step_noise, place)
    return np.asarray(last.latents)


def test_a_frame_that_is_held_is_clean_and_at_timestep_0_at_every_step():
    """As diffusers' image-to-video pipeline has it with a timestep for each token."""
    network = ReleasedModel(GOLDEN_TI2V).transformer()
    model = jax.jit(nnx.merge(*network))
    steps = sampling_steps(FlowSchedule(1000, 3.0, "linspace"), "euler", 3, 4.0)
    clean, noise = normal(0, (1, 2, 2, 4, 4, 6)), normal(1, (1, 2, 2, 4, 4, 6))
    texts = normal(2, (2, 2, 6, 32))
    held = jnp.array([[[False, False], [True, False]]])
    given = jnp.zeros((1, 2), bool)
    story = Conditions(clean, given, texts[:1], texts[1:], held=held)
    *_, found = denoise(network, steps, story, noise, lambda number: jnp.zeros_like(noise))

    latents = noise.at[0, 1, 0].set(clean[0, 1, 0])
    sigmas = np.append(-steps.x0_weights[:, 1], 0)
    for number, timestep in enumerate(steps.timesteps):
        times = jnp.full((1, 2, 2), timestep).at[0, 1, 0].set(0)
        cond, negative = (model(latents, text[None], times, given) for text in texts)
        v = negative + 4.0 * (cond - negative)
        latents = latents + (sigmas[number + 1] - sigmas[number]) * v
        latents = latents.at[0, 1, 0].set(clean[0, 1, 0])
    np.testing.assert_allclose(found.latents, latents, atol=1e-5)
    np.testing.assert_array_equal(found.x0[0, 1, 0], clean[0, 1, 0])
