"""Stories from a released model: text encoder, transformer and VAE one after the other.

Each network is loaded when its turn comes and freed after it, so that memory is that of the
largest.
"""

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Float, Key, UInt8

from m2dit_jax.data.tokenizer import pad_or_truncate
from m2dit_jax.diffusion.schedule import NoiseSchedule
from m2dit_jax.models.cogvideox.coding import encode_clips, encode_prompts
from m2dit_jax.models.cogvideox.vae import CausalVae, decoder_chunks
from m2dit_jax.models.cogvideox.vae_strips import decode_in_strips
from m2dit_jax.models.cogvideox.vae_tiles import decode_tiled
from m2dit_jax.models.network import LoadedNetwork
from m2dit_jax.models.pixels import decode_pixels, encode_pixels
from m2dit_jax.parallel.context import placement_on
from m2dit_jax.parallel.mesh import story_mesh
from m2dit_jax.pipeline.denoise import denoise
from m2dit_jax.pipeline.maker import Decode, Denoise, EncodeClip, EncodeText
from m2dit_jax.stories.noise import clip_noise
from m2dit_jax.stories.settings import SamplingSettings
from m2dit_jax.weights.fingerprint import fingerprint
from m2dit_jax.weights.released import ReleasedModel

# How the VAE decodes: a scene as it is; the same layer by layer in strips of rows, with little
# memory; in tiles that blend, quicker than strips and an approximation (`encoders.tiling`).
DECODERS = ("whole", "strips", "tiles")
WHOLE_LATENTS = 36 * 54  # rows x columns up to which a scene is decoded whole by default
# Defaults of the reference's scripts.
FPS, STEPS, GUIDANCE_SCALE = 8.0, 50, 6.0
WINDOW = 3  # scenes that the paper's models are trained with


def is_released(path: Path) -> bool:
    """Whether a folder looks like a released model, as it is or converted."""
    return (path / "model_index.json").exists() or (path / "transformer").is_dir()


class ReleasedStories:
    """A `StoryMaker` of a released model; see `ReleasedModel` for what it raises."""

    instant_decoder = False

    def __init__(self, path: Path, dtype: str | None = None, decoder: str | None = None):
        """`decoder` is one of DECODERS; None stands for strips where whole would be too large."""
        self.model = ReleasedModel(path)
        self.dtype = dtype
        self._decoding = decoder
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
            window=WINDOW,
            new_scenes=1,
            anchor=True,
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

    @property
    def mask(self) -> str:
        """The paper's, or for a run on latents that of the run."""
        return self.model.transformer_config.mask

    @property
    def default_checks(self) -> tuple[str, ...]:
        """What can be told without knowing what a prompt means."""
        return ("finite", "frozen", "cut", "saturation")

    @property
    def decoder_name(self) -> str:
        """With the dtype, on which the frames depend too."""
        return f"{self._decoding or 'whole or strips'}, {self.dtype or 'as stored'}"

    @property
    def fingerprint(self) -> str:
        """Of all networks, and of the dtype that they are used in."""
        folders = ("transformer", "vae", "text_encoder", "tokenizer", "scheduler")
        return f"{fingerprint(self.model.path, folders)} {self.dtype or 'as stored'}"

    def latent_shape(self, frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        """That of the VAE."""
        return self.model.latent_shape(frames, height, width)

    @contextmanager
    def text_encoder(self) -> Iterator[EncodeText]:
        """T5, one prompt after another."""
        with _stage("text encoder"):
            network = self.model.text_encoder(self.dtype)
            length = self.model.text_length

            def encode(prompt: str) -> Float[Array, "T E"]:
                ids = pad_or_truncate(self.tokenizer, self._token_ids(prompt), length)
                return encode_prompts(network, jnp.asarray(ids)[None, None])[0, 0]

            yield encode

    @contextmanager
    def clip_encoder(self) -> Iterator[EncodeClip]:
        """Draws from the VAE's posterior."""
        with _stage("VAE, for the given scenes"):
            vae: CausalVae = nnx.merge(*self.model.vae(self.dtype))

            def encode(
                clip: UInt8[np.ndarray, "F H W 3"], key: Key[Array, ""]
            ) -> Float[Array, "f h w C"]:
                drawn = clip_noise(key, self.model.latent_shape(*clip.shape[:3]))
                return encode_clips(vae, encode_pixels(jnp.asarray(clip)[None]), drawn[None])[0]

            yield encode

    @contextmanager
    def transformer(self) -> Iterator[Denoise]:
        """Cut over all devices."""
        with _stage("transformer"):
            mesh = story_mesh()
            network = self._transformer(mesh)
            yield partial(denoise, network, placement=placement_on(mesh))

    @contextmanager
    def decoder(self) -> Iterator[Decode]:
        """The VAE, a scene at a time."""
        with _stage("VAE"):
            vae: CausalVae = nnx.merge(*self.model.vae(self.dtype))

            def decode(
                latents: Float[np.ndarray, "f h w C"], name: str
            ) -> UInt8[np.ndarray, "F H W 3"]:
                return self._decode_scene(vae, latents[None], name)

            yield decode

    def as_given(self, latents: Float[np.ndarray, "f h w C"]) -> Float[np.ndarray, "f h w C"]:
        """As they are: through the VAE and back they would only lose."""
        return latents

    def oracle(
        self, prompts: Sequence[str], scene: int, frames: UInt8[np.ndarray, "F H W 3"]
    ) -> list[str]:
        """Nobody can tell."""
        return []

    def provenance(self) -> dict[str, Any]:
        """Folder, dtype and configs of the networks."""
        return {
            "checkpoint": {"path": str(self.model.path.absolute())},
            "dtype": self.dtype or "as stored",
            "decoder": self._decoding or "whole or strips",
            "config": {
                "transformer": vars(self.model.transformer_config),
                "schedule": vars(self.model.schedule),
            },
        }

    def _transformer(self, mesh: Mesh) -> LoadedNetwork:
        return self.model.transformer(self.dtype, mesh=mesh)

    def _token_ids(self, prompt: str) -> list[int]:
        return self.tokenizer(prompt, verbose=False)["input_ids"]

    def _decode_scene(
        self, vae: CausalVae, latents: Float[np.ndarray, "1 f h w C"], name: str
    ) -> UInt8[np.ndarray, "F H W 3"]:
        scaled = latents / vae.config.scaling_factor
        _, frames, rows, columns, _ = latents.shape
        decoder = self._decoding or ("whole" if rows * columns <= WHOLE_LATENTS else "strips")
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


@contextmanager
def _stage(name: str) -> Iterator[None]:
    """Says on stderr which network is at work, and in the end how long."""
    print(f"{name} ...", file=sys.stderr)
    started = time.monotonic()
    yield
    print(f"{name}: {time.monotonic() - started:.1f} s", file=sys.stderr)


def _show_part(name: str, number: int, parts: int) -> None:
    print(f"{name} {number}/{parts} decoded", file=sys.stderr)
