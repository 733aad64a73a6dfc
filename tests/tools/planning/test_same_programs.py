"""What `plan` compiles is what training and sampling run: the programs' texts are equal."""

import re
from contextlib import suppress
from unittest import mock

import jax
import numpy as np
import pytest

from m2dit_jax.config.recipe import build_recipe
from m2dit_jax.config.schema import Config
from m2dit_jax.models.cogvideox import vae
from m2dit_jax.pipeline import denoise
from m2dit_jax.pipeline.load import load
from m2dit_jax.tools.planning import programs, released
from m2dit_jax.tools.planning.topologies import open_topology
from m2dit_jax.training.program import TrainProgram
from m2dit_jax.training.run import prepare
from m2dit_jax.weights.released import ReleasedModel

PROMPTS = ["A striped cat waits.", "It runs.", "It sleeps."]


class Recorded(Exception):
    """Ends a run once the text of its program is known."""


class Recorder:
    """Stands in place of a jitted function; keeps the text of its first program."""

    def __init__(self, function):
        self._function = function

    def __call__(self, *arguments):
        raise Recorded(self._function.lower(*arguments).as_text())


def text_of(work, module, name):
    """The program that the work runs first, of a jitted function of the module."""
    recorder = Recorder(getattr(module, name))
    with mock.patch.object(module, name, recorder), pytest.raises(Recorded) as recorded:
        work()
    return str(recorded.value)


def same_model(config, folder):
    """The config of a run with the transformer of a model folder."""
    model = ReleasedModel(folder)
    transformer = model.transformer_config
    config.data.source = "latents"
    config.data.scenes, config.data.text_length = 3, model.text_length
    config.data.frames, config.data.height, config.data.width = 5, 32, 32
    config.data.channels, config.data.text_dim = transformer.channels, transformer.text_dim
    for name in ("patch_size", "layers", "heads", "head_dim", "time_dim", "mask", "rotary"):
        config.model[name] = getattr(transformer, name)
    config.model.patch_size_t, config.model.added_positions = 1, False
    config.model.base_grid = transformer.base_grid
    config.model.spatial_scale = transformer.spatial_scale
    config.model.scan, config.model.remat = transformer.scan, transformer.remat
    config.diffusion.snr_shift, config.diffusion.prediction = 1.0, "v"
    config.sample.steps, config.sample.guidance_scale, config.sample.guidance_end = 2, 6.0, 1.0
    return config


def sampling_texts(folder, config, devices, dtype):
    pipeline = load(folder, dtype=dtype, mesh=devices)
    size = {"frames": 5, "height": 32, "width": 32, "steps": 2}
    ran = text_of(lambda: pipeline(PROMPTS, **size), denoise, "sampling_step")
    machine = open_topology(f"cpu:{devices}")
    planned = programs.make_program(build_recipe(config), machine, "sample", dtype)
    return ran, planned.lowered[0].as_text()


def training_texts(config, workdir):
    lowered = []

    def record(program, *arguments):
        lowered.append(lower(program, *arguments).as_text())
        raise Recorded

    lower = TrainProgram.lower
    with mock.patch.object(TrainProgram, "lower", record), suppress(Recorded):
        prepare(config, workdir)
    machine = open_topology(f"cpu:{jax.device_count()}")
    planned = programs.make_program(build_recipe(config), machine, "train")
    return lowered[0], planned.lowered[0].as_text()


@pytest.mark.slow
@pytest.mark.parametrize(("devices", "dtype"), [(1, "float32"), (8, "float32"), (2, "bfloat16")])
def test_a_sampling_step(devices, dtype, golden, tiny_config, on_eight_devices):
    config = same_model(tiny_config, golden / "pipe_5b")
    ran, planned = on_eight_devices(
        sampling_texts, golden / "pipe_5b", Config.from_dict(config), devices, dtype
    )
    assert "stablehlo.dot_general" in ran
    assert planned == ran


def decoding_texts(folder, config):
    pipeline = load(folder, dtype="bfloat16")
    latents = np.zeros((3, *build_recipe(config).latent_shape()), np.float32)
    with pipeline.networks.session():
        ran = text_of(lambda: pipeline.decode(latents[0], config.data.frames), vae, "decode_chunk")
    with mock.patch.dict(released.VAES, cogvideox=(ReleasedModel(folder).vae_config,)):
        planned = programs.make_program(
            build_recipe(config), open_topology("cpu:1"), "decode", "bfloat16"
        )
    return ran, planned.lowered[0].as_text()


def test_decoding_a_scene(golden, tiny_config):
    config = same_model(tiny_config, golden / "pipe_5b")
    ran, planned = decoding_texts(golden / "pipe_5b", Config.from_dict(config))
    assert "stablehlo.convolution" in ran
    # An absent device must be named, which says nothing else with only one.
    named = r"  sdy.mesh @empty_mesh.*\n| {sdy.sharding = #sdy.sharding<@empty_mesh[^>]*>}"
    assert re.sub(named, "", planned) == ran


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [(1, 4, 2), (2, 1, 4), (8, 1, 1)])
def test_a_training_step(sizes, tiny_config, on_eight_devices, tmp_path):
    tiny_config.train.batch_size, tiny_config.model.heads = 8, 3
    tiny_config.mesh.data, tiny_config.mesh.fsdp, tiny_config.mesh.context = sizes
    ran, planned = on_eight_devices(training_texts, Config.from_dict(tiny_config), tmp_path)
    assert "stablehlo.dot_general" in ran
    assert planned == ran
