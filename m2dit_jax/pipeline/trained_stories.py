"""Stories of pixels, from the checkpoint of a training run here."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int, Key, UInt8

from m2dit_jax.config.recipe import PIXEL_CHANNELS, Params, Recipe, build_recipe
from m2dit_jax.data.oracle import read_scene
from m2dit_jax.data.shapes import parse_captions
from m2dit_jax.diffusion.schedule import NoiseSchedule
from m2dit_jax.models.network import LoadedNetwork
from m2dit_jax.models.pixels import decode_pixels, encode_pixels
from m2dit_jax.pipeline.denoise import denoise
from m2dit_jax.pipeline.maker import Decode, Denoise, EncodeClip, EncodeText
from m2dit_jax.pipeline.story_sampler import trained_options
from m2dit_jax.stories.settings import SamplingSettings
from m2dit_jax.weights.run_folder import checkpoint_fingerprint, load_config, load_for_sampling


def trained_defaults(recipe: Recipe) -> SamplingSettings:
    """How a model that was trained here samples, if the storyboard does not say."""
    frames, height, width = recipe.scene_size()
    options = trained_options(recipe.config)
    assert isinstance(options.guidance_scale, float), "one for all scenes"
    return SamplingSettings(
        frames=frames,
        height=height,
        width=width,
        fps=recipe.config.sample.fps,
        sampler=options.sampler,
        steps=options.steps,
        guidance_scale=options.guidance_scale,
        window=recipe.config.data.scenes,
        new_scenes=1,
        anchor=recipe.config.data.scenes > 2,
    )


class TrainedStories:
    """A `StoryMaker` of a training run's workdir; its averaged weights are read when needed.

    Raises CheckpointError if there is no checkpoint, ValueError for a config that cannot be.
    """

    instant_decoder = True
    decoder_name = "pixels"

    def __init__(self, workdir: Path):
        self.workdir = workdir
        self.config = load_config(workdir)
        self.recipe = build_recipe(self.config)

    @property
    def schedule(self) -> NoiseSchedule:
        """As in training."""
        return self.recipe.schedule

    @property
    def defaults(self) -> SamplingSettings:
        """From `config.sample` and `config.data`."""
        return trained_defaults(self.recipe)

    @property
    def source(self) -> str:
        """Where the defaults are written."""
        return "config.sample"

    @property
    def mask(self) -> str:
        """As in training."""
        return self.config.model.mask

    @property
    def default_checks(self) -> tuple[str, ...]:
        """Of shapes the oracle knows more than statistics, and they are saturated at will."""
        if self.config.data.source == "shapes":
            return ("finite", "frozen", "cut", "oracle")
        return ("finite", "frozen", "cut", "saturation")

    @property
    def fingerprint(self) -> str:
        """Of the checkpoint."""
        return checkpoint_fingerprint(self.workdir)

    def check_size(self, frames: int, height: int, width: int) -> None:
        """Raises ValueError for another picture than in training, or frames that are no patches.

        Scenes of other lengths are possible, and as good as positions never trained can be.
        """
        trained = self.recipe.scene_size()
        patch = self.config.model.patch_size_t
        if (height, width) != trained[1:] or frames % patch:
            raise ValueError(
                f"{frames} frames of {height}x{width} cannot be: this model was trained with "
                f"{trained[0]} frames of {trained[1]}x{trained[2]}"
                + (f", and other frames must be multiples of {patch}" if patch > 1 else "")
            )

    def check_prompt(self, prompt: str) -> str:
        """Raises ValueError for a prompt of words that is too long or has unknown ones."""
        self.recipe.tokenize([prompt])
        most = self.config.data.text_length
        if self.config.data.source == "pixels" and len(prompt.encode()) >= most:
            return f"the prompt has {len(prompt.encode())} bytes, the model reads {most - 1}"
        return ""

    def latent_shape(self, frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        """That of the pixels."""
        return frames, height, width, PIXEL_CHANNELS

    @cached_property
    def weights(self) -> tuple[Params, int]:
        """The averaged weights and the step they are of."""
        _, params, step = load_for_sampling(self.workdir)
        return params, step

    @contextmanager
    def text_encoder(self) -> Iterator[EncodeText]:
        """Word by word, or byte by byte."""

        def encode(prompt: str) -> Float[Array, "T E"]:
            ids = jnp.asarray(self.recipe.tokenize([prompt]))[None]
            return _encode_text(self.recipe.graphdef, self.weights[0], ids)[0, 0]

        yield encode

    @contextmanager
    def clip_encoder(self) -> Iterator[EncodeClip]:
        """Pixels are latents."""

        def encode(
            clip: UInt8[np.ndarray, "F H W 3"], key: Key[Array, ""]
        ) -> Float[Array, "F H W 3"]:
            return encode_pixels(jnp.asarray(clip))

        yield encode

    @contextmanager
    def transformer(self) -> Iterator[Denoise]:
        """The whole model is small and stays loaded."""
        network = LoadedNetwork(self.recipe.graphdef, self.weights[0])

        yield partial(denoise, network)

    @contextmanager
    def decoder(self) -> Iterator[Decode]:
        """Latents are pixels."""

        def decode(
            latents: Float[np.ndarray, "F H W 3"], name: str
        ) -> UInt8[np.ndarray, "F H W 3"]:
            return np.asarray(decode_pixels(jnp.asarray(latents)))

        yield decode

    def as_given(self, latents: Float[np.ndarray, "F H W 3"]) -> Float[np.ndarray, "F H W 3"]:
        """Rounded to what a video can hold, as all given scenes were in training."""
        return np.asarray(encode_pixels(decode_pixels(jnp.asarray(latents))))

    def oracle(
        self, prompts: Sequence[str], scene: int, frames: UInt8[np.ndarray, "F H W 3"]
    ) -> list[str]:
        """Of shapes, what can be read from the pixels and is not what the captions say."""
        wanted = parse_captions(prompts)[scene] if self.config.data.source == "shapes" else None
        if wanted is None:
            return []
        return [
            f"{name} is {found or 'not to be recognised'}, not {getattr(wanted, name)}"
            for name, found in read_scene(frames).items()
            if found != getattr(wanted, name)
        ]

    def provenance(self) -> dict[str, Any]:
        """Checkpoint and config."""
        return {
            "checkpoint": {"path": str(self.workdir.absolute()), "step": self.weights[1]},
            "config": self.config.to_dict(),
        }


@partial(jax.jit, static_argnums=0)
def _encode_text(
    graphdef: nnx.GraphDef, params: Params, ids: Int[Array, "B S T"]
) -> Float[Array, "B S T E"]:
    return nnx.merge(graphdef, params).encode_text(ids)
