"""The fields of Wan's `transformer/config.json` that are read: type, range, and diffusers' default.

Fields that are not declared here are read by nobody.
"""

from typing import Annotated

from pydantic import Field

from m2dit_jax.utils.options import Options, option

_Width = Annotated[int, Field(ge=1, le=2**18)]
_Patch = Annotated[int, Field(ge=1, le=64)]


class TransformerJson(Options, frozen=True):
    """`transformer/config.json`."""

    patch_size: tuple[_Patch, _Patch, _Patch] = option(
        (1, 2, 2),
        "Latent frames, rows and columns in a token.",
        needed="a list of 3 whole numbers, from 1 to 64",
    )
    num_attention_heads: Annotated[int, Field(ge=1, le=1024)] = option(40, "Attention heads.")
    attention_head_dim: Annotated[int, Field(ge=1, le=4096)] = option(128, "Features of a head.")
    in_channels: _Width = option(16, "Channels of the latents.")
    out_channels: _Width = option(16, "Channels of what is predicted.")
    text_dim: _Width = option(4096, "Features of the text encoder's embeddings.")
    freq_dim: _Width = option(256, "Features of a timestep's sines and cosines.")
    ffn_dim: _Width = option(13824, "Hidden features of the feed-forward layers.")
    num_layers: Annotated[int, Field(ge=1, le=1024)] = option(40, "Blocks.")
    cross_attn_norm: bool = option(True, "Cross-attention's queries come from normalised tokens.")
    eps: Annotated[float, Field(ge=0, le=1)] = option(1e-6, "Epsilon of the norms.")
