"""Golden files of Wan's pipelines, from prompts to pixels: one scene, several, and extension."""

import json
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from m2dit_jax.data.tokenizer import pad_or_truncate
from m2dit_jax.diffusion.guidance import guide
from m2dit_jax.diffusion.samplers import sampling_steps
from m2dit_jax.diffusion.sampling import Conditions
from m2dit_jax.models.coding import decode_scene, encode_prompts
from m2dit_jax.pipeline.denoise import denoise
from m2dit_jax.tools.parity.golden import EXACT, GoldenFile
from m2dit_jax.tools.parity.layout import channels_first, video_from_scenes, video_to_scenes
from m2dit_jax.tools.parity.models import ReferenceModels, ReferencePipeline

LIMIT = 2e-4


def check_pipeline(root: Path, file: GoldenFile, models: ReferenceModels) -> None:
    """Everything from the prompts of the JSON file beside it to the decoded video."""
    settings = json.loads((root / file.name).with_suffix(".json").read_text(encoding="utf-8"))
    pipeline = models.pipeline_of(Path(file.name).stem)
    scenes, scale = len(settings["prompts"]), settings["guidance_scale"]
    noise = video_to_scenes(file.input("noise"), scenes)
    shape = pipeline.folder.latent_shape(settings["frames"], settings["height"], settings["width"])
    file.add(f"{file.name}:latent shape", noise.shape[2:], shape, EXACT)

    given = np.isin(np.arange(scenes), settings["given"])[None]
    clean = np.zeros(noise.shape, np.float32)
    if given.any():
        for scene, latents in zip(settings["given"], file.input("given_latents"), strict=True):
            clean[:, scene] = video_to_scenes(latents, 1)[:, 0]
    text_embeds = _encode(pipeline, settings["prompts"], settings)
    negative = _encode(pipeline, [settings["negative_prompt"]] * scenes, settings)
    story = Conditions(jnp.asarray(clean), jnp.asarray(given), text_embeds, negative)

    schedule, sampler = pipeline.folder.schedule, pipeline.folder.sampler
    steps = sampling_steps(schedule, sampler, settings["steps"], scale)
    file.expect("timesteps", steps.timesteps, EXACT)
    network = pipeline.transformer.network
    results = list(denoise(network, steps, story, noise, lambda number: jnp.zeros_like(noise)))
    guided = []
    for result in results:
        first, second = jnp.split(result.v_pred, 2)
        guided.append(video_from_scenes(guide(first, second, jnp.asarray(scale))))
    file.expect("guided", np.stack(guided), LIMIT)
    latents = [video_from_scenes(result.latents) for result in results]
    file.expect("latents", np.stack(latents), LIMIT)
    video = np.concatenate(
        [decode_scene(pipeline.vae, results[-1].latents[:, scene]) for scene in range(scenes)],
        axis=1,
    )
    file.expect("video", channels_first(jnp.asarray(video)), LIMIT)


def _encode(pipeline: ReferencePipeline, prompts: list[str], settings: dict[str, Any]) -> Any:
    length, tokenizer = settings["max_sequence_length"], pipeline.tokenizer
    ids = [
        pad_or_truncate(tokenizer, tokenizer(p, verbose=False)["input_ids"], length)
        for p in prompts
    ]
    return encode_prompts(pipeline.text_encoder, jnp.asarray(ids)[None])
