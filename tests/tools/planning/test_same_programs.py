"""What `plan` compiles is what training and sampling run: the texts of the programs are equal."""

from pathlib import Path

import jax
import pytest
import yaml

from m2dit_jax.config.recipe import build_recipe
from m2dit_jax.models.cogvideox import vae
from m2dit_jax.pipeline import denoise
from m2dit_jax.pipeline.load import load
from m2dit_jax.tools.planning import programs
from m2dit_jax.tools.planning.topologies import open_topology
from m2dit_jax.training import run as training
from m2dit_jax.weights.released import ReleasedModel

PROMPTS = ["A striped cat waits.", "It runs.", "It sleeps."]


class Recorded(Exception):
    """Ends a run once the program is known."""


def model_config(config, folder):
    """The config of a run of the golden model, whose scenes have 9 frames of 64x96."""
    model = ReleasedModel(folder)
    transformer = model.transformer_config
    config.data.source = "latents"
    config.data.scenes, config.data.text_length = 3, model.text_length
    config.data.frames, config.data.height, config.data.width = 5, 32, 32
    config.data.channels, config.data.text_dim = transformer.channels, transformer.text_dim
    for name in config.model:
        if hasattr(transformer, name):
            setattr(config.model, name, getattr(transformer, name) or config.model[name])
    config.model.added_positions = transformer.added_positions
    config.diffusion.snr_shift = 1.0
    config.sample.steps, config.sample.guidance_scale = 2, 6.0
    config.mesh.context = 1
    return config


def sampling_texts(folder, config, devices, dtype):
    """Of the first step that `sample` runs, and of the one that `plan` compiles."""
    ran = []

    def record(*arguments):
        ran.append(denoise.sampling_step.lower(*arguments).as_text())
        raise Recorded

    pipeline = load(folder, dtype=dtype, mesh=devices)
    before, kept = denoise.sampling_step, record
    recorded = _Recorder(before, ran)
    denoise.sampling_step = recorded
    try:
        pipeline(PROMPTS, frames=5, height=32, width=32, steps=2)
    except Recorded:
        pass
    finally:
        denoise.sampling_step = before
    machine = open_topology(f"cpu:{devices}")
    program = programs.make_program(build_recipe(config), machine, "sample", dtype)
    return ran[0], program.lowered[0].as_text()
