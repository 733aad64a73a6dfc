"""The fields of a model folder's JSON configs that are read: type, range and default of each.

What a missing key means (older releases lack the newer keys) is what it means in diffusers. Fields
that are not declared here are read by nobody.
"""

from typing import Annotated, Literal

from pydantic import Field

from m2dit_jax.utils.options import Options, option

_Width = Annotated[int, Field(ge=1, le=2**18)]  # the T5 of CogVideoX has 10240
_Heads = Annotated[int, Field(ge=1, le=1024)]
_Patch = Annotated[int, Field(ge=1, le=64)]
_Ratio = Annotated[int, Field(ge=1, le=64)]
_Latents = Annotated[int, Field(ge=1, le=4096)]
_Frames = Annotated[int, Field(ge=1, le=100_000)]
_Epsilon = Annotated[float, Field(ge=0, le=1)]
_Scale = Annotated[float, Field(ge=1e-6, le=1e6)]
_Beta = Annotated[float, Field(ge=0, le=1)]


class TransformerJson(Options, frozen=True):
    """`transformer/config.json`."""

    num_attention_heads: _Heads = option(30, "Attention heads.")
    attention_head_dim: Annotated[int, Field(ge=1, le=4096)] = option(64, "Features of a head.")
    in_channels: _Width = option(16, "Channels of the latents.")
    out_channels: _Width = option(16, "Channels of what is predicted.")
    time_embed_dim: _Width = option(512, "Features of the timestep's embedding.")
    text_embed_dim: _Width = option(4096, "Features of the text encoder's embeddings.")
    num_layers: Annotated[int, Field(ge=1, le=1024)] = option(30, "Blocks.")
    sample_width: _Latents = option(90, "Columns of latents in training.")
    sample_height: _Latents = option(60, "Rows of latents in training.")
    sample_frames: _Frames = option(49, "Frames in training.")
    patch_size: _Patch = option(2, "Rows and columns of latents in a token.")
    patch_size_t: _Patch | None = option(
        None, "Latent frames in a token.", needed="null or a whole number, from 1 to 64"
    )
    temporal_compression_ratio: _Ratio = option(4, "Frames in a latent frame.")
    max_text_seq_length: Annotated[int, Field(ge=1, le=65536)] = option(226, "Tokens of a prompt.")
    norm_eps: _Epsilon = option(1e-5, "Epsilon of the norms.")
    spatial_interpolation_scale: _Scale = option(1.875, "Divides the places of added positions.")
    temporal_interpolation_scale: _Scale = option(1.0, "The same in time.")
    use_rotary_positional_embeddings: bool = option(False, "Rotary positions, not added ones.")
    patch_bias: bool = option(True, "A bias in the layer that makes tokens.")


class TextEncoderJson(Options, frozen=True):
    """`text_encoder/config.json`."""

    vocab_size: Annotated[int, Field(ge=1, le=2**22)] = option(..., "Tokens in the table.")
    d_model: _Width = option(..., "Features of a token.")
    d_kv: _Width = option(..., "Features of a head.")
    d_ff: _Width = option(..., "Hidden features of the feed-forward layers.")
    num_layers: Annotated[int, Field(ge=1, le=256)] = option(..., "Blocks.")
    num_heads: _Heads = option(..., "Attention heads.")
    relative_attention_num_buckets: Annotated[int, Field(ge=4, le=65536)] = option(
        32, "Buckets of relative positions."
    )
    relative_attention_max_distance: Annotated[int, Field(ge=2, le=2**20)] = option(
        128, "Distance from which on all share a bucket."
    )
    layer_norm_epsilon: _Epsilon = option(1e-6, "Epsilon of the norms.")


class VaeJson(Options, frozen=True):
    """`vae/config.json`."""

    in_channels: Annotated[int, Field(ge=1, le=64)] = option(3, "Colours that go in.")
    out_channels: Annotated[int, Field(ge=1, le=64)] = option(3, "Colours that come out.")
    block_out_channels: Annotated[tuple[_Width, ...], Field(min_length=1, max_length=8)] = option(
        (128, 256, 256, 512), "Features of each block.", needed="a list of 1 to 8 whole numbers"
    )
    latent_channels: _Width = option(16, "Channels of the latents.")
    layers_per_block: Annotated[int, Field(ge=1, le=64)] = option(3, "Layers of a block.")
    norm_eps: _Epsilon = option(1e-6, "Epsilon of the norms.")
    norm_num_groups: _Width = option(32, "Groups of the norms.")
    temporal_compression_ratio: _Ratio = option(4, "Frames in a latent frame.")
    scaling_factor: _Scale = option(1.15258426, "What latents are multiplied by.")


class SchedulerJson(Options, frozen=True):
    """`scheduler/scheduler_config.json`."""

    num_train_timesteps: Annotated[int, Field(ge=2, le=100_000)] = option(1000, "Timesteps.")
    beta_start: _Beta = option(0.00085, "First beta.")
    beta_end: _Beta = option(0.012, "Last beta.")
    snr_shift_scale: _Scale = option(3.0, "Divides the signal-to-noise ratio.")
    rescale_betas_zero_snr: bool = option(True, "No signal at the last timestep.")
    timestep_spacing: Literal["trailing", "leading", "linspace"] = option(
        "trailing", "Which timesteps sampling takes."
    )
    steps_offset: Annotated[int, Field(ge=0, le=100_000)] = option(0, "Added to leading ones.")
    set_alpha_to_one: bool = option(True, "All signal at the end of sampling.")
    prediction_type: Literal["v_prediction", "sample"] = option(
        "v_prediction", "What the transformer's output stands for."
    )
