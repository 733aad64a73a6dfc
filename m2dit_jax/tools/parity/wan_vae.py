"""Golden files of Wan's VAEs."""

from pathlib import Path

import jax
import numpy as np

from m2dit_jax.models.wan.vae import WanVae
from m2dit_jax.tools.parity.golden import GoldenFile
from m2dit_jax.tools.parity.layout import channels_first, channels_last
from m2dit_jax.tools.parity.models import ReferenceModels

VAE_LIMIT = 5e-5


def _vae_of(file: GoldenFile, models: ReferenceModels) -> WanVae:
    vae = models.pipeline_of(Path(file.name).stem).vae
    assert isinstance(vae, WanVae)
    return vae


def check_vae_encode(file: GoldenFile, models: ReferenceModels) -> None:
    """Mean and log variance of a video, not normalised."""
    vae = _vae_of(file, models)
    mean, logvar = jax.jit(vae.encode_raw)(channels_last(file.input("video")))
    file.expect("mean", channels_first(mean), VAE_LIMIT)
    file.expect("logvar", channels_first(logvar), VAE_LIMIT)


def check_vae_decode(file: GoldenFile, models: ReferenceModels) -> None:
    """The video of latents that are not normalised; diffusers clamps it to -1..1."""
    vae = _vae_of(file, models)
    video = jax.jit(vae.decode_raw)(channels_last(file.input("latents")))
    file.expect("video", np.clip(channels_first(video), -1, 1), VAE_LIMIT)
