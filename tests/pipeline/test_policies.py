"""Policies of memory and weights in 8 bits on the golden model: the same frames, or nearly so."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from m2dit_jax.diffusion.sampling import Conditions
from m2dit_jax.models.quantized import FORMS
from m2dit_jax.pipeline.device_plan import on_host_cpu
from m2dit_jax.pipeline.load import load
from m2dit_jax.pipeline.memory import MEMORY
from m2dit_jax.pipeline.memory_plan import StorySize
from m2dit_jax.pipeline.streaming import StreamedNetwork
from m2dit_jax.stories.noise import START, scene_noise, story_keys

PROMPTS = ["A striped cat waits.", "It runs.", "It sleeps."]
SIZE = {"frames": 5, "height": 32, "width": 32}
STEPS = 3
# Root mean square errors against float32, of the root mean square: of v at the first step, and of
# the latents after the last; as measured, with some room.
MOST_ERROR = {"int8": (0.02, 0.02), "int8_w8a8": (0.04, 0.04), "fp8": (0.08, 0.08)}


def generated(pipe):
    """v of the first step and the latents after the last, without decoding them."""
    pipe.networks.prepare(StorySize(len(PROMPTS), *SIZE.values(), 2))
    with pipe.networks.session(together=True):
        embeds = pipe.embed_prompts([PROMPTS])
        shape = pipe.codec.latent_shape(*SIZE.values())
        clean = jnp.zeros((1, len(PROMPTS), *shape))
        negative = jnp.broadcast_to(pipe.embed_prompt(""), embeds.shape)
        story = Conditions(clean, jnp.zeros((1, len(PROMPTS)), bool), embeds, negative)
        noise = scene_noise(story_keys([0], range(len(PROMPTS))), START, shape)
        steps = pipe.options.replace(steps=STEPS).table(pipe.schedule, len(PROMPTS))
        results = list(pipe.denoise(steps, story, noise, lambda number: clean))
        transformer = pipe.networks.get("transformer")
    return np.asarray(results[0].v_pred), np.asarray(results[-1].latents), transformer


def error(found, true):
    return float(np.sqrt(np.mean((found - true) ** 2) / np.mean(true**2)))


@pytest.fixture(scope="module")
def model(golden):
    return golden / "pipe_5b"


@pytest.fixture(scope="module")
def plain(model):
    return generated(load(model))


@pytest.mark.parametrize("memory", [name for name in MEMORY if name != "turns"])
def test_every_policy_makes_the_same_bits(model, plain, memory):
    lines = []
    v, latents, transformer = generated(load(model, memory=memory, say=lines.append))
    np.testing.assert_array_equal(v, plain[0])
    np.testing.assert_array_equal(latents, plain[1])
    assert isinstance(transformer, StreamedNetwork) == (memory == "stream")
    chosen = "offload" if memory == "auto" else memory
    told = [line for line in lines if line.startswith("memory: ")]
    assert len(told) == 1 and told[0].startswith(f"memory: {chosen} (")


@pytest.mark.parametrize("form", FORMS)
def test_8_bits_change_little(model, plain, form):
    v, latents, transformer = generated(load(model, quantize=form))
    kernels = transformer.params["blocks"]["attention"]["to_q"]["kernel"]
    assert kernels.dtype.itemsize == 1
    errors = error(v, plain[0]), error(latents, plain[1])
    assert all(0 < found < most for found, most in zip(errors, MOST_ERROR[form], strict=True)), (
        errors
    )
    if form == "int8":
        streamed = generated(load(model, quantize=form, memory="stream"))
        np.testing.assert_array_equal(streamed[1], latents)


def test_frames_of_a_streamed_story_are_the_same(model):
    made = [
        load(model, memory=memory)(PROMPTS[:2], steps=1, seed=3, **SIZE)
        for memory in ("offload", "stream")
    ]
    for scene in range(2):
        np.testing.assert_array_equal(*(story.frames[scene] for story in made))


def test_a_text_encoder_on_the_cpu_is_committed_to_it(model):
    pipe = load(model)
    network = on_host_cpu(pipe.networks._loaders["text encoder"])
    cpu = jax.devices("cpu")[0]
    assert all(x.devices() == {cpu} and x.committed for x in jax.tree.leaves(network.params))


def test_a_stream_needs_one_device_and_a_vae(model):
    from jax.sharding import Mesh

    devices = np.array(jax.devices()[:1] * 2).reshape(1, 1, 2)
    with pytest.raises(ValueError, match="memory='stream'.*mesh has 2"):
        load(model, memory="stream", mesh=Mesh(devices, ("data", "fsdp", "context")))
