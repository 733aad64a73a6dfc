"""Golden files of Wan's training: noising, loss, and the gradient of every parameter."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
from safetensors.numpy import load_file

from m2dit_jax.diffusion.loss import scene_weights
from m2dit_jax.tools.parity.golden import GoldenFile
from m2dit_jax.tools.parity.layout import text_to_scenes, video_from_scenes, video_to_scenes
from m2dit_jax.tools.parity.models import ReferenceModels
from m2dit_jax.tools.parity.training import (
    GRADIENTS,
    NOISING_LIMIT,
    RELATIVE_LIMIT,
    compare_tensors,
    gradient_limits,
    loss_output_and_gradients,
    torch_arrays,
)
from m2dit_jax.tools.parity.wan_networks import TRANSFORMER_LIMIT


def check_training(root: Path, file: GoldenFile, models: ReferenceModels) -> None:
    """Flow matching of one batch whose noise levels are given."""
    pipeline = models.pipeline_of(Path(file.name).stem)
    transformer, schedule = pipeline.transformer, pipeline.folder.schedule
    scenes = file.number("scenes")
    latents, noise = (video_to_scenes(file.input(name), scenes) for name in ("latents", "noise"))
    text_embeds = text_to_scenes(file.input("encoder_hidden_states"), scenes)
    given = jnp.asarray(file.input("given"))
    timesteps = jnp.asarray(file.input("sigma") * np.float32(schedule.timesteps))
    noisy = schedule.add_noise(latents, noise, timesteps)
    file.expect("noisy", video_from_scenes(noisy), NOISING_LIMIT)
    target = schedule.v_target(latents, noise, timesteps)

    graphdef, params = transformer.network
    batch = noisy, text_embeds, timesteps, target, scene_weights(given)
    (loss, output), gradients = loss_output_and_gradients(graphdef, params, batch)
    file.expect("model_output", video_from_scenes(output), TRANSFORMER_LIMIT)
    file.expect("loss", loss, RELATIVE_LIMIT, relative=True)

    name = f"training/{Path(file.name).stem}{GRADIENTS}"
    expected = load_file(root / name)
    ours = torch_arrays(transformer.family.transformer, transformer.json, gradients)
    file.cases.append(compare_tensors(name, ours, expected, gradient_limits(expected)))
