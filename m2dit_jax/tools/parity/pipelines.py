"""Golden files of the two pipelines, from prompts to pixels: fixed scenes, and extension."""

import json
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from m2dit_jax.data.tokenizer import pad_or_truncate
from m2dit_jax.diffusion.guidance import guidance_weights
from m2dit_jax.diffusion.samplers import sampling_steps
from m2dit_jax.diffusion.sampling import Conditions, StepResult, noise_given
from m2dit_jax.diffusion.schedule import NoiseSchedule
from m2dit_jax.models.coding import decode_scene, encode_clips, encode_prompts
from m2dit_jax.pipeline.denoise import denoise
from m2dit_jax.tools.parity.functions import reference_draws
from m2dit_jax.tools.parity.golden import EXACT, GoldenFile
from m2dit_jax.tools.parity.layout import (
    channels_first,
    from_scenes,
    text_from_scenes,
    to_scenes,
)
from m2dit_jax.tools.parity.models import ReferenceModels, ReferencePipeline
from m2dit_jax.tools.parity.networks import TEXT_LIMIT, check_positions

LIMIT = 1e-4
GUIDANCE_LIMIT = 1e-9


def check_pipeline(root: Path, file: GoldenFile, models: ReferenceModels) -> None:
    """Everything from the prompts of the JSON file beside it to the decoded video."""
    arguments = json.loads((root / file.name).with_suffix(".json").read_text(encoding="utf-8"))
    pipeline = models.pipeline_of(Path(file.name).stem)
    batch = arguments.get("batch_size", 1)
    scenes = len(arguments["prompt"]) // batch
    file.add(
        f"{file.name}:max_sequence_length",
        pipeline.transformer.text_length,
        arguments["max_sequence_length"],
        EXACT,
    )

    text_embeds, negative_embeds = _check_prompts(file, pipeline, arguments, (batch, scenes))
    is_extension = "video_conds" in file
    if is_extension:
        given, clean, noise = _check_given(file, pipeline, batch, scenes)
    else:
        noise = to_scenes(file.input("initial_latents"), scenes)
        given, clean = np.zeros((batch, scenes), bool), jnp.zeros_like(noise)
    shape = _latent_shape(pipeline, arguments)
    file.add(f"{file.name}:latent shape", noise.shape, (batch, scenes, *shape), EXACT)
    story = Conditions(clean, jnp.asarray(given), text_embeds, negative_embeds)
    start = from_scenes(story.restore(noise))
    twice = start if negative_embeds is None else np.concatenate([start, start])
    file.expect("model_input_step0", twice, LIMIT)
    check_positions(file, pipeline.transformer.config, noise.shape)

    results = _check_denoising(file, pipeline, arguments, story, noise)
    video = np.concatenate(
        [decode_scene(pipeline.vae, results[-1].latents[:, scene]) for scene in range(scenes)],
        axis=1,
    )
    file.expect("video", channels_first(jnp.asarray(video)), LIMIT)


def _check_prompts(
    file: GoldenFile, pipeline: ReferencePipeline, arguments: dict[str, Any], shape: tuple[int, int]
) -> tuple[Any, Any]:
    """Text embeddings and, if there is guidance, those of the negative prompt."""
    length = pipeline.transformer.text_length

    def encode(prompts: list[str]) -> Any:
        ids = [
            pad_or_truncate(pipeline.tokenizer, pipeline.tokenizer(p)["input_ids"], length)
            for p in prompts
        ]
        token_ids = jnp.asarray(np.reshape(ids, (*shape, length)))
        return encode_prompts(pipeline.text_encoder, token_ids)

    text_embeds, negative_embeds = encode(arguments["prompt"]), None
    file.expect("prompt_embeds", text_from_scenes(text_embeds), TEXT_LIMIT)
    both = text_embeds
    if arguments["guidance_scale"] > 1:
        negative_prompt = arguments.get("negative_prompt") or ""
        negative_embeds = encode([negative_prompt] * int(np.prod(shape)))
        file.expect("negative_prompt_embeds", text_from_scenes(negative_embeds), TEXT_LIMIT)
        both = jnp.concatenate([negative_embeds, text_embeds])
    file.expect("encoder_hidden_states", text_from_scenes(both), TEXT_LIMIT)
    return text_embeds, negative_embeds


def _latent_shape(
    pipeline: ReferencePipeline, arguments: dict[str, Any]
) -> tuple[int, int, int, int]:
    """The reference's latent shape, also of sizes that `ReleasedModel` refuses."""
    vae = pipeline.folder.vae_config
    side = vae.spatial_compression
    frames = (arguments["num_frames"] - 1) // vae.temporal_compression_ratio + 1
    size = arguments["height"] // side, arguments["width"] // side
    return frames, *size, vae.latent_channels


def _check_given(
    file: GoldenFile, pipeline: ReferencePipeline, batch: int, scenes: int
) -> tuple[np.ndarray, Any, Any]:
    """Checks given scenes, their latents as the reference uses them, and the initial noise."""
    new = to_scenes(file.input("rand_initial_latents"), 1)
    shape = new.shape[2:]
    clips = jnp.asarray(file.input("video_conds").transpose(0, 1, 3, 4, 2))
    posterior = jnp.asarray(file.input("rand_posterior").transpose(0, 2, 3, 4, 1))
    latents = encode_clips(pipeline.vae, clips, posterior).reshape(-1, scenes - 1, *shape)
    latents = jnp.broadcast_to(latents, (batch, *latents.shape[1:]))
    cond_noise = to_scenes(file.input("rand_cond_noise"), scenes - 1)
    latents = noise_given(pipeline.folder.schedule, latents, cond_noise)
    file.expect("cond_latents", from_scenes(latents), LIMIT)

    given = np.broadcast_to(np.arange(scenes) < scenes - 1, (batch, scenes))
    clean = jnp.concatenate([latents, jnp.zeros_like(new)], axis=1)
    noise = jnp.concatenate([jnp.zeros_like(latents), new], axis=1)
    return given, clean, noise


def _check_denoising(
    file: GoldenFile,
    pipeline: ReferencePipeline,
    arguments: dict[str, Any],
    story: Conditions,
    noise: Any,
) -> list[StepResult]:
    schedule, scenes = pipeline.folder.schedule, noise.shape[1]
    count, scale = arguments["num_inference_steps"], arguments["guidance_scale"]
    dynamic = arguments.get("use_dynamic_cfg", False)
    sampler = "dpm" if "noise_draws" in file else "ddim"
    steps = sampling_steps(schedule, sampler, count, scale, dynamic, as_reference=True)
    timesteps = np.asarray(steps.timesteps)
    file.expect("timesteps", timesteps, EXACT)
    weights = guidance_weights(scale, timesteps, count, dynamic, as_reference=True)
    file.expect("guidance_per_step", weights, GUIDANCE_LIMIT)

    draws = np.zeros((len(timesteps), *from_scenes(noise).shape), np.float32)
    if sampler == "dpm":
        assert isinstance(schedule, NoiseSchedule)
        counts = reference_draws(schedule, count)
        all_draws = file.input("noise_draws")
        file.add(f"{file.name}:noise_draws (number)", len(all_draws), counts.sum(), EXACT)
        draws = all_draws[np.cumsum(counts) - 1]  # the second of those that draw twice
    network = pipeline.transformer.network
    results = list(denoise(network, steps, story, noise, lambda n: to_scenes(draws[n], scenes)))
    file.expect("step_latents", np.stack([from_scenes(r.latents) for r in results]), LIMIT)
    file.expect("final_latents", from_scenes(results[-1].latents), LIMIT)
    if "model_output_per_step" in file:
        outputs = np.stack([from_scenes(r.v_pred) for r in results])
        file.expect("model_output_per_step", outputs, LIMIT)
    return results
