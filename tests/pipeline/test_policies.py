"""Policies of memory and weights in 8 bits on the golden model: the same frames, or nearly so."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from m2dit_jax.config.recipe import build_recipe
from m2dit_jax.diffusion.sampling import Conditions
from m2dit_jax.models.quantized import FORMS, SCALE, dequantize
from m2dit_jax.pipeline import device_plan
from m2dit_jax.pipeline.device_plan import on_host_cpu
from m2dit_jax.pipeline.load import load, of_pixels_run
from m2dit_jax.pipeline.memory import MEMORY
from m2dit_jax.pipeline.memory_plan import MemoryPlan, StorySize
from m2dit_jax.pipeline.streaming import StreamedNetwork
from m2dit_jax.stories.noise import START, scene_noise, story_keys
from m2dit_jax.training import checkpoints
from m2dit_jax.training.optimizer import make_optimizer
from m2dit_jax.training.state import TrainState
from m2dit_jax.weights.mapping import flatten
from m2dit_jax.weights.released import ReleasedModel
from tests.engines import random_params
from tests.tools.planning.test_same_programs import same_model

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


@pytest.fixture(scope="module")
def run(model, make_tiny_config, tmp_path_factory):
    """A run on latents that has come to the weights of the golden model."""
    config = same_model(make_tiny_config(), model)
    config.train.ema_decay = 0.0
    config = build_recipe(config).config
    params = {"transformer": ReleasedModel(model).transformer().params}
    state = TrainState.create(params, make_optimizer(config.train, True), 0.0)
    folder = tmp_path_factory.mktemp("run")
    manager = checkpoints.open_manager(folder, keep=1)
    checkpoints.save(manager, state._replace(step=jnp.int32(1)), config)
    manager.close()
    return folder


@pytest.mark.parametrize("form", [None, "int8"])
def test_a_run_is_streamed_and_quantised_as_a_folder_is(model, run, form):
    """Its checkpoint holds the same weights in another form."""
    folder, trained = (
        load(path, quantize=form, memory="stream", **more).networks.get("transformer")
        for path, more in ((model, {}), (run, {"model": model}))
    )
    assert jax.tree.structure(folder.layers) == jax.tree.structure(trained.layers)
    jax.tree.map(np.testing.assert_array_equal, folder.layers, trained.layers)
    jax.tree.map(np.testing.assert_array_equal, folder.outside, trained.outside)


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
    embeds = pipe.embed_prompt(PROMPTS[0])
    pipe.networks.free()
    pipe.networks.plan = MemoryPlan("offload", text_on_host=True)
    np.testing.assert_array_equal(pipe.embed_prompt(PROMPTS[0]), embeds)


def test_the_limit_of_the_device_decides_and_what_does_not_fit_is_said(model, monkeypatch):
    lines, limit = [], {"bytes": 2**40}
    monkeypatch.setattr(device_plan, "device_limit", lambda device: limit["bytes"])
    pipe = load(model, say=lines.append)
    size = StorySize(len(PROMPTS), *SIZE.values(), 2)
    policies = []
    for limit["bytes"] in (2**40, 2**40, 3_000_000, 1000):
        pipe.networks.prepare(size)
        policies.append(pipe.networks.plan.policy)
    assert policies[:2] == ["resident"] * 2 and policies[2] != "resident"
    told = [line for line in lines if line.startswith("memory: ")]
    assert len(told) == 4, "the same plan is told once"
    assert "needs fewer or smaller scenes at once" in told[2] and not pipe.networks.plan.fits


def test_a_stream_needs_one_device_and_a_vae(model):
    from jax.sharding import Mesh

    devices = np.array(jax.devices()[:1] * 2).reshape(1, 1, 2)
    with pytest.raises(ValueError, match="memory='stream'.*mesh has 2"):
        load(model, memory="stream", mesh=Mesh(devices, ("data", "fsdp", "context")))


def test_a_run_on_pixels_has_both_networks_in_8_bits(make_tiny_config):
    recipe = build_recipe(make_tiny_config())
    params = random_params(recipe)
    pipe = of_pixels_run(recipe, lambda: params, step=0, quantize="fp8")
    for name, layer in (("transformer", "to_q"), ("text encoder", "q")):
        flat = flatten(pipe.networks.get(name).params)
        kernels = {key: x for key, x in flat.items() if key.endswith(f"attention.{layer}.kernel")}
        assert kernels and all(x.dtype == jnp.float8_e4m3fn for x in kernels.values())
        for key in kernels:
            own = flatten(params[name.replace(" ", "_")])[key]
            scale = flat[key.replace("kernel", SCALE)]
            found = dequantize(np.asarray(kernels[key]), np.asarray(scale))
            np.testing.assert_allclose(found, own, rtol=0.07, atol=0.01)
