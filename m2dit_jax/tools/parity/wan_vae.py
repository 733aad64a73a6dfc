"""Golden files of Wan's VAE: moments of videos, and videos of latents."""

from typing import Protocol

import jax.numpy as jnp
import numpy as np

from m2dit_jax.models.wan.vae import WanVae
from m2dit_jax.tools.parity.golden import GoldenFile
from m2dit_jax.tools.parity.layout import channels_last

VAE_LIMIT = 5e-5


class HasVae(Protocol):
    """What a pipeline of the golden set must have."""

    @property
    def vae(self) -> WanVae: ...


class FindsPipelines(Protocol):
    """From a file's name to its pipeline."""

    def pipeline_of(self, case: str) -> HasVae: ...


def check_vae_encode(file: GoldenFile, models: FindsPipelines) -> None:
    """Mean and log variance, as they leave the network."""
    vae = models.pipeline_of(file.name).vae
    moments = vae.encode_raw(jnp.asarray(channels_last(file.input("video"))))
    for name, ours in zip(("mean", "logvar"), moments, strict=True):
        file.expect(name, np.moveaxis(np.asarray(ours), -1, 1), VAE_LIMIT)


def check_vae_decode(file: GoldenFile, models: FindsPipelines) -> None:
    """The video of latents as they leave the network, within -1..1 as the reference has it."""
    vae = models.pipeline_of(file.name).vae
    video = vae.decode_raw(jnp.asarray(channels_last(file.input("latents"))))
    file.expect("video", np.moveaxis(np.clip(np.asarray(video), -1, 1), -1, 1), VAE_LIMIT)
