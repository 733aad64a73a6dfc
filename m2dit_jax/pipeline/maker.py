"""What a model must be able to do to make stories."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Array, Float, Key, UInt8

from m2dit_jax.diffusion.generate import Latents, StepResult, Story
from m2dit_jax.diffusion.samplers import SamplingSteps
from m2dit_jax.diffusion.schedule import NoiseSchedule
from m2dit_jax.stories.settings import SamplingSettings

EncodeText = Callable[[str], Float[Array, "T E"]]
# (clip, key of its noise) -> latents
EncodeClip = Callable[[UInt8[np.ndarray, "F H W 3"], Key[Array, ""]], Float[Array, "f h w C"]]
# (latents, name for messages of progress) -> frames
Decode = Callable[[Float[np.ndarray, "f h w C"], str], UInt8[np.ndarray, "F H W 3"]]


class Denoise(Protocol):
    """`pipeline.denoise` with its network and placement."""

    def __call__(
        self,
        steps: SamplingSteps,
        story: Story,
        noise: Latents,
        step_noise: Callable[[int], Latents],
        *,
        frames: tuple[int, ...] | None,
    ) -> Iterator[StepResult]:
        """`frames` counts the latent ones of each scene, where they differ."""
        ...


@runtime_checkable
class StoryMaker(Protocol):
    """A model as sampling sees it: one that was trained here, or a released one.

    Its networks are opened when their turn comes and closed after it, so that memory is that of
    the largest; what the context managers give must not be kept longer.
    """

    @property
    def schedule(self) -> NoiseSchedule:
        """The noise schedule."""
        ...

    @property
    def defaults(self) -> SamplingSettings:
        """For what a storyboard leaves to the model."""
        ...

    @property
    def source(self) -> str:
        """Where the defaults are written."""
        ...

    @property
    def default_checks(self) -> tuple[str, ...]:
        """Those of the gate's checks that suit the model."""
        ...

    @property
    def mask(self) -> str:
        """The attention mask, one of `masks.MASKS`."""
        ...

    @property
    def instant_decoder(self) -> bool:
        """Whether decoding costs next to nothing, so that it need not wait for its turn."""
        ...

    @property
    def decoder_name(self) -> str:
        """How it decodes: frames that were decoded in another way are not the same."""
        ...

    @property
    def fingerprint(self) -> str:
        """Changes with the weights and whatever else the latents depend on."""
        ...

    def check_size(self, frames: int, height: int, width: int) -> None:
        """Raises ValueError, with sizes that work, if it cannot make such scenes."""
        ...

    def check_prompt(self, prompt: str) -> str:
        """What the user should know about a prompt, or "". Raises ValueError if it cannot be."""
        ...

    def latent_shape(self, frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        """Latent frames, rows, columns and channels of a scene."""
        ...

    def text_encoder(self) -> AbstractContextManager[EncodeText]:
        """Prompts to text embeddings."""
        ...

    def clip_encoder(self) -> AbstractContextManager[EncodeClip]:
        """Given clips to latents."""
        ...

    def transformer(self) -> AbstractContextManager[Denoise]:
        """The steps of a sampling run, one after another."""
        ...

    def decoder(self) -> AbstractContextManager[Decode]:
        """Latents to frames."""
        ...

    def as_given(self, latents: Float[np.ndarray, "f h w C"]) -> Float[np.ndarray, "f h w C"]:
        """A generated scene as it is kept and given to later ones."""
        ...

    def oracle(
        self, prompts: Sequence[str], scene: int, frames: UInt8[np.ndarray, "F H W 3"]
    ) -> list[str]:
        """What a scene shows otherwise than the story's prompts say, if the model can tell."""
        ...

    def provenance(self) -> dict[str, Any]:
        """Where the weights came from, fit for JSON."""
        ...
