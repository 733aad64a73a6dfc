"""Stories from a released model: text encoder, transformer and VAE one after the other.

Each network is loaded when its turn comes and freed after it, so that memory is that of the
largest. The latents are kept in the output folder until the video is written: if decoding fails,
the same command begins there.
"""

import hashlib
import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Float, Key, UInt8
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from m2dit_jax.diffusion.generate import Latents, Story, noise_given
from m2dit_jax.diffusion.schedule import NoiseSchedule
from m2dit_jax.encoders.pixels import decode_pixels, encode_pixels
from m2dit_jax.encoders.tiling import decode_tiled
from m2dit_jax.encoders.tokenizer import pad_or_truncate
from m2dit_jax.encoders.vae import CausalVae, decoder_chunks
from m2dit_jax.encoders.vae_strips import decode_in_strips
from m2dit_jax.media import whole_file
from m2dit_jax.parallel.context import placement_on
from m2dit_jax.parallel.mesh import story_mesh
from m2dit_jax.pipeline import denoise, encode_clips, encode_prompts
from m2dit_jax.released import LoadedNetwork, ReleasedModel
from m2dit_jax.sampling import SamplingSettings, StoryPlan

LATENTS = "latents.safetensors"
# How the VAE decodes: a scene as it is; the same layer by layer in strips of rows, with little
# memory; in tiles that blend, quicker than strips and an approximation (`encoders.tiling`).
DECODERS = ("whole", "strips", "tiles")
WHOLE_LATENTS = 36 * 54  # rows x columns up to which a scene is decoded whole by default
# Defaults of the reference's scripts.
FPS, STEPS, GUIDANCE_SCALE = 8.0, 50, 6.0


def is_released(path: Path) -> bool:
    """Whether a folder looks like a released model, as it is or converted."""
    return (path / "model_index.json").exists() or (path / "transformer").is_dir()


class ReleasedStories:
    """A `StoryMaker` of a released model; see `ReleasedModel` for what it raises."""

    def __init__(self, path: Path, dtype: str | None = None, decoder: str | None = None):
        """`decoder` is one of DECODERS; None stands for strips where whole would be too large."""
        self.model = ReleasedModel(path)
        self.dtype = dtype
        self.decoder = decoder
        self.tokenizer = self.model.tokenizer()

    @property
    def schedule(self) -> NoiseSchedule:
        """From `scheduler/`."""
        return self.model.schedule

    @property
    def defaults(self) -> SamplingSettings:
        """The size that the model was trained with, and the settings of the reference's scripts."""
        return SamplingSettings(
            frames=self.model.frames,
            height=self.model.height,
            width=self.model.width,
            fps=FPS,
            sampler=self.model.sampler,
            steps=STEPS,
            guidance_scale=GUIDANCE_SCALE,
        )

    @property
    def source(self) -> str:
        """Where the defaults are written."""
        return str(self.model.path / "transformer/config.json")

    def check_size(self, frames: int, height: int, width: int) -> None:
        """Raises ValueError, with the nearest sizes that work, for an impossible size."""
        self.model.latent_shape(frames, height, width)

    def check_prompt(self, prompt: str) -> str:
        """A note if the prompt is longer than the model reads; the reference cuts it silently."""
        tokens, most = len(self._token_ids(prompt)), self.model.text_length
        if tokens <= most:
            return ""
        return f"the prompt has {tokens} tokens, the model reads the first {most - 1} and the end"

    def make(self, plan: StoryPlan, folder: Path) -> UInt8[np.ndarray, "S F H W 3"]:
        """All scenes of the plan; the given ones are its clips, unchanged.

        Progress goes to stderr. The latents are kept in `folder` until the video is made.
        """
        saved = folder / LATENTS
        key = self._fingerprint(plan)
        latents = _read_latents(saved, key)
        if latents is None:
            latents = np.asarray(self._latents(plan))
            with whole_file(saved) as part:
                save_file({"latents": latents}, part, metadata={"key": key})
        else:
            print(f"{saved}: denoised before, only to be decoded", file=sys.stderr)
        video = self._decode(latents, plan)
        saved.unlink()
        return video

    def provenance(self) -> dict[str, Any]:
        """Folder, dtype and configs of the networks."""
        return {
            "checkpoint": {"path": str(self.model.path.absolute())},
            "dtype": self.dtype or "as stored",
            "decoder": self.decoder or "whole or strips",
            "config": {
                "transformer": vars(self.model.transformer_config),
                "schedule": vars(self.model.schedule),
            },
        }

    def _transformer(self, mesh: Mesh) -> LoadedNetwork:
        return self.model.transformer(self.dtype, mesh=mesh)

    def _fingerprint(self, plan: StoryPlan) -> str:
        """What the latents depend on."""
        made_by = self.provenance()
        del made_by["decoder"]
        settings = json.dumps([plan.to_mapping(), made_by], sort_keys=True)
        digest = hashlib.sha256(settings.encode())
        digest.update(plan.clips.tobytes())
        return digest.hexdigest()

    def _token_ids(self, prompt: str) -> list[int]:
        return self.tokenizer(prompt, verbose=False)["input_ids"]

    def _latents(self, plan: StoryPlan) -> Latents:
        story, settings, model = plan.storyboard, plan.settings, self.model
        prompts = [scene.prompt for scene in story.scenes]
        rows = [
            pad_or_truncate(self.tokenizer, self._token_ids(prompt), model.text_length)
            for prompt in [*prompts, story.negative_prompt]
        ]
        with _stage("text encoder"):
            # Every prompt is encoded alone, so the negative one only once for all scenes.
            embeds = encode_prompts(model.text_encoder(self.dtype), jnp.asarray([rows]))
            text_embeds, negative = embeds[:, :-1], embeds[:, -1:]
            negative = jnp.broadcast_to(negative, text_embeds.shape)
            text_embeds.block_until_ready()

        key = jax.random.key(story.seed)
        noise_key, step_key, given_key = jax.random.split(key, 3)
        size = model.latent_shape(settings.frames, settings.height, settings.width)
        shape = (1, len(prompts), *size)
        clean = jnp.zeros(shape)
        if any(story.given):
            with _stage("VAE, for the given scenes"):
                clean = self._encode(plan, given_key, shape)
        unguided = settings.guidance_scale == 1 and not story.dynamic_guidance
        given = jnp.asarray([story.given])
        conditions = Story(clean, given, text_embeds, None if unguided else negative)

        with _stage("transformer"):
            mesh = story_mesh()
            transformer = self._transformer(mesh)
            steps = plan.table(self.schedule)
            noise = _normal(noise_key, shape)
            latents = noise
            started = time.monotonic()
            for number, result in enumerate(
                denoise(
                    transformer,
                    steps,
                    conditions,
                    noise,
                    lambda n: _normal(jax.random.fold_in(step_key, n), shape),
                    placement_on(mesh),
                )
            ):
                latents = result.latents.block_until_ready()
                _show_step(number + 1, len(steps.timesteps), started)
        return latents

    def _encode(self, plan: StoryPlan, key: Key[Array, ""], shape: tuple[int, ...]) -> Latents:
        """Latents of the given scenes, black for the others."""
        story, vae = plan.storyboard, nnx.merge(*self.model.vae(self.dtype))
        latents = jnp.zeros(shape)
        for i, is_given in enumerate(story.given):
            if is_given:
                noise = _normal(jax.random.fold_in(key, 2 * i), (1, *shape[2:]))
                clip = encode_clips(vae, encode_pixels(plan.clips[i][None]), noise)
                latents = latents.at[:, i].set(clip)
        if story.noise_given:
            noise = _normal(jax.random.fold_in(key, 1), shape)
            latents = noise_given(self.schedule, latents, noise)
        return latents

    def _decode(
        self, latents: Float[np.ndarray, "1 S f h w C"], plan: StoryPlan
    ) -> UInt8[np.ndarray, "S F H W 3"]:
        video = plan.clips.copy()
        with _stage("VAE"):
            vae: CausalVae = nnx.merge(*self.model.vae(self.dtype))
            for i, is_given in enumerate(plan.storyboard.given):
                if not is_given:
                    video[i] = self._decode_scene(vae, latents[:, i], f"scene {i + 1}")
        return video

    def _decode_scene(
        self, vae: CausalVae, latents: Float[np.ndarray, "1 f h w C"], name: str
    ) -> UInt8[np.ndarray, "F H W 3"]:
        scaled = latents / vae.config.scaling_factor
        _, frames, rows, columns, _ = latents.shape
        decoder = self.decoder or ("whole" if rows * columns <= WHOLE_LATENTS else "strips")
        if decoder == "tiles":
            factor = vae.config.spatial_compression
            video = decode_tiled(
                vae.decode_stream, scaled, factor, on_tile=partial(_show_part, f"{name}, tile")
            )
            return np.asarray(decode_pixels(jnp.asarray(video[0])))
        decode = vae.decode_stream if decoder == "whole" else partial(decode_in_strips, vae)
        chunks = len(decoder_chunks(frames, "reference"))
        parts = []
        for number, part in enumerate(decode(jnp.asarray(scaled))):
            parts.append(np.asarray(decode_pixels(jnp.asarray(part[0]))))
            _show_part(f"{name}, chunk", number + 1, chunks)
        return np.concatenate(parts)


def _normal(key: Key[Array, ""], shape: tuple[int, ...]) -> Float[Array, "..."]:
    """Every draw of a run; tests put the reference's in its place."""
    return jax.random.normal(key, shape)


def _read_latents(path: Path, key: str) -> Float[np.ndarray, "1 S F H W C"] | None:
    """What an interrupted run with the same settings has denoised, if there is such."""
    try:
        with safe_open(path, framework="np") as file:
            if (file.metadata() or {}).get("key") == key:
                return file.get_tensor("latents")
    except (OSError, SafetensorError):
        pass
    return None


@contextmanager
def _stage(name: str) -> Iterator[None]:
    """Says on stderr which network is at work, and in the end how long."""
    print(f"{name} ...", file=sys.stderr)
    started = time.monotonic()
    yield
    print(f"{name}: {time.monotonic() - started:.1f} s", file=sys.stderr)


def _show_step(number: int, steps: int, started: float) -> None:
    per_step = (time.monotonic() - started) / number
    left = per_step * (steps - number)
    print(f"step {number}/{steps}, {per_step:.1f} s a step, {left:.0f} s left", file=sys.stderr)


def _show_part(name: str, number: int, parts: int) -> None:
    print(f"{name} {number}/{parts} decoded", file=sys.stderr)
