"""The networks that released models have beside the transformer, for stages of a sampling run."""

from typing import Any

from m2dit_jax.models.cogvideox.family import COGVIDEOX
from m2dit_jax.models.cogvideox.t5 import TextEncoderConfig
from m2dit_jax.models.family import Family
from m2dit_jax.models.wan.family import WAN

_WAN_2_2_TI2V = {
    "base_dim": 160,
    "decoder_base_dim": 256,
    "z_dim": 48,
    "in_channels": 12,
    "out_channels": 12,
    "is_residual": True,
    "patch_size": 2,
    "latents_mean": [0.0] * 48,  # numbers that change no shape
    "latents_std": [1.0] * 48,
}
_XXL = {"d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_layers": 24, "num_heads": 64}
# By the name of the family.
VAES: dict[str, tuple[Any, ...]] = {
    COGVIDEOX.name: (COGVIDEOX.vae.config({}),),
    WAN.name: (WAN.vae.config({}), WAN.vae.config(_WAN_2_2_TI2V)),
}
TEXT_ENCODERS = {
    COGVIDEOX.name: TextEncoderConfig(vocab_size=32128, **_XXL),
    WAN.name: TextEncoderConfig(vocab_size=256384, **_XXL),
}


def released_vae(family: Family, channels: int) -> Any | None:
    """The config of a family's released VAE of so many latent channels; None if there is none."""
    found = (vae for vae in VAES[family.name] if vae.latent_channels == channels)
    return next(found, None)


def released_text_encoder(family: Family) -> TextEncoderConfig:
    """The config of the text encoder that all released models of a family have."""
    return TEXT_ENCODERS[family.name]
