"""The JSON configs of Wan's transformer and text encoder, as PyTorch's libraries write them."""

from collections.abc import Mapping
from typing import Any

from m2dit_jax.models.cogvideox import json_configs as cogvideox
from m2dit_jax.models.cogvideox.t5 import TextEncoderConfig
from m2dit_jax.models.json_reading import raise_problems, read_json, same_but, shown_value
from m2dit_jax.models.wan.json_fields import TransformerJson
from m2dit_jax.models.wan.transformer_config import CHOICES, WanConfig
from m2dit_jax.models.wan.umt5 import PAD

Json = Mapping[str, Any]

# The variants that exist here; a key may be missing.
_TRANSFORMER_FIXED = {
    "qk_norm": "rms_norm_across_heads",
    "image_dim": None,  # only image-to-video models have these
    "added_kv_proj_dim": None,
    "pos_embed_seq_len": None,
}


def transformer_config(json: Json) -> WanConfig:
    """The transformer of a `transformer/config.json`.

    Raises ValueError for a variant that does not exist here.
    """
    values = read_json("transformer", TransformerJson, json, _TRANSFORMER_FIXED)
    patch_t, rows, columns = values["patch_size"]
    problems = []
    if rows != columns:
        problems.append(f"patch_size must have as many rows as columns, got {rows} and {columns}")
    if values["in_channels"] != values["out_channels"]:
        problems.append(
            f"in_channels {values['in_channels']} and out_channels {values['out_channels']} "
            "differ: only text-to-video models are supported"
        )
    raise_problems("transformer", problems)
    try:
        return WanConfig(
            channels=values["in_channels"],
            patch_size=rows,
            patch_size_t=patch_t,
            layers=values["num_layers"],
            heads=values["num_attention_heads"],
            head_dim=values["attention_head_dim"],
            hidden=values["ffn_dim"],
            text_dim=values["text_dim"],
            time_dim=values["freq_dim"],
            cross_norm=values["cross_attn_norm"],
            norm_eps=values["eps"],
        )
    except ValueError as error:
        raise_problems("transformer", [f"attention_head_dim: {error}"])
        raise


def transformer_json(
    config: WanConfig, base: Json, frames: int, height: int, width: int
) -> dict[str, Any]:
    """The `transformer/config.json` of a transformer; `base` is that of the model it came from.

    It is the base itself if that describes the transformer. The size of a scene is no part of it.
    """
    if same_but(transformer_config(base), config, CHOICES):
        return dict(base)
    return dict(base) | {
        "patch_size": [config.patch_size_t, config.patch_size, config.patch_size],
        "num_attention_heads": config.heads,
        "attention_head_dim": config.head_dim,
        "in_channels": config.channels,
        "out_channels": config.channels,
        "text_dim": config.text_dim,
        "freq_dim": config.time_dim,
        "ffn_dim": config.hidden,
        "num_layers": config.layers,
        "cross_attn_norm": config.cross_norm,
        "eps": config.norm_eps,
    }


def text_encoder_config(json: Json) -> TextEncoderConfig:
    """The UMT5 encoder of a `text_encoder/config.json`. Raises ValueError for another one."""
    pad = json.get("pad_token_id", PAD)
    if pad != PAD:
        raise_problems("text_encoder", [f"pad_token_id must be {PAD}, got {shown_value(pad)}"])
    return cogvideox.text_encoder_config(json)
