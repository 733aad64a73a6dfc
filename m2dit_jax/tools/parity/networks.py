"""Golden files of the networks: attention, transformer, VAE, text encoder."""

import re
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from m2dit_jax.models.attention.dispatch import PORTABLE
from m2dit_jax.models.coding import sample_latents
from m2dit_jax.models.cogvideox.grid import Grid
from m2dit_jax.models.cogvideox.layers import JointAttention
from m2dit_jax.models.cogvideox.rope import rope_table
from m2dit_jax.models.cogvideox.sincos import sincos_table
from m2dit_jax.models.cogvideox.transformer import TransformerConfig
from m2dit_jax.models.layout import Layout
from m2dit_jax.models.masks import scene_mask
from m2dit_jax.tools.parity.golden import EXACT, GoldenFile
from m2dit_jax.tools.parity.intermediates import named_values
from m2dit_jax.tools.parity.layout import (
    channels_first,
    channels_last,
    from_scenes,
    text_to_scenes,
    to_scenes,
)
from m2dit_jax.tools.parity.models import ReferenceModels

ATTENTION_LIMIT = 5e-6
TABLE_LIMIT = 1e-6
LARGE_TABLE_LIMIT = 1e-5  # of positions beyond LARGE_POSITION, where float32 angles are coarse
LARGE_POSITION = 16
TEXT_LIMIT = 5e-5
TRANSFORMER_LIMIT = 2e-5
VAE_LIMIT = 3e-5


def check_attention(file: GoldenFile, models: ReferenceModels) -> None:
    """The joint attention of the first block, with every implementation, and its mask."""
    layout = Layout(
        scenes=file.number("num_scenes"),
        text=file.number("text_len_per_scene"),
        video=file.number("video_tokens_per_scene"),
    )
    model = models.main_pipeline().transformer.model
    first = jax.tree.map(lambda x: x[0], nnx.state(model.blocks.attention))
    tokens = np.concatenate([file.input("encoder_hidden_states"), file.input("hidden_states")], 1)
    rope = ()
    if "rope_cos" in file:
        cos, sin = file.input("rope_cos"), file.input("rope_sin")
        still = (layout.text_tokens, cos.shape[1])  # text is not turned
        rope = jnp.concatenate([jnp.ones(still), cos]), jnp.concatenate([jnp.zeros(still), sin])
    file.expect("mask", scene_mask(layout), EXACT)
    expected_text, expected_video = file.input("output_text"), file.input("output_video")
    for implementation in PORTABLE:
        attention: JointAttention = nnx.merge(nnx.graphdef(model.blocks.attention), first)
        attention.implementation = implementation
        out = attention(jnp.asarray(tokens), layout, rope)
        text, video = out[:, : layout.text_tokens], out[:, layout.text_tokens :]
        case = f"{file.name}:{implementation}"
        file.add(f"{case} output_text", text, expected_text, ATTENTION_LIMIT)
        file.add(f"{case} output_video", video, expected_video, ATTENTION_LIMIT)
        file.add(f"{case} dense_output_f64", out, file.input("dense_output_f64"), ATTENTION_LIMIT)


def check_transformer(file: GoldenFile, models: ReferenceModels) -> None:
    """Forward passes: plain, with a scene that is generated (`output_clip`), intermediates."""
    transformer = models.transformer_of(file.name.split("/")[-1].removesuffix(".npz"))
    scenes = file.number("num_scenes")
    latents = to_scenes(file.input("hidden_states"), scenes)
    file.expect("latent_frames_per_scene", latents.shape[2], EXACT)
    file.expect("max_text_seq_length", transformer.text_length, EXACT)
    text_embeds = text_to_scenes(file.input("encoder_hidden_states"), scenes)
    timestep = jnp.asarray(file.input("timestep"), jnp.int32)
    same = jnp.broadcast_to(timestep[:, None], latents.shape[:2])
    check_positions(file, transformer.config, latents.shape)

    forward = partial(apply_network, *transformer.network)
    for array in file.arrays:
        if found := re.fullmatch(r"output_clip(\d+)", array):
            others = jnp.asarray(file.input("timestep_conditioning"), jnp.int32)[:, None]
            generated = jnp.arange(scenes) == int(found[1])
            out = forward(latents, text_embeds, jnp.where(generated, same, others))
            file.expect(array, from_scenes(out), TRANSFORMER_LIMIT)
        elif array == "output_normal":
            file.expect(array, from_scenes(forward(latents, text_embeds, same)), TRANSFORMER_LIMIT)
    if "output" in file:
        values = named_values(transformer.model, latents, text_embeds, same)
        file.expect("output", from_scenes(values[""][0]), TRANSFORMER_LIMIT)
        _check_intermediates(file, values, scenes * text_embeds.shape[2])
    elif "patch_embed_output" in file:
        values = named_values(transformer.model, latents, text_embeds, same)
        _check_intermediates(file, values, scenes * text_embeds.shape[2])


def check_positions(file: GoldenFile, config: TransformerConfig, shape: tuple[int, ...]) -> None:
    """Position tables that a file may have, for latents of shape [B S F H W C]."""
    _, scenes, frames, height, width, _ = shape
    grid = (
        scenes * frames // config.patch_size_t,
        height // config.patch_size,
        width // config.patch_size,
    )
    if "rope_cos" in file:
        base = None if config.base_grid is None else config.base_grid[1:]
        cos, sin = rope_table(grid, config.head_dim, base)
        limit = rope_limit(grid, base)
        file.expect("rope_cos", cos, limit)
        file.expect("rope_sin", sin, limit)
    if "pos_embedding_buffer" in file and config.base_grid is not None:
        table = np.asarray(
            sincos_table(
                config.base_grid, config.width, config.spatial_scale, config.temporal_scale
            )
        )
        text_rows = file.input("pos_embedding_buffer").shape[1] - len(table)
        text = np.zeros((max(text_rows, 0), config.width))
        file.expect("pos_embedding_buffer", np.concatenate([text, table])[None], TABLE_LIMIT)


def rope_limit(grid: Grid, base: tuple[int, int] | None) -> float:
    """The tolerance of a rotary table; the reference has positions times frequencies in float32.

    With a base the positions are up to the base's size.
    """
    is_large = max(*grid, *(base or ())) > LARGE_POSITION
    return LARGE_TABLE_LIMIT if is_large else TABLE_LIMIT


def _check_intermediates(
    file: GoldenFile, values: dict[str, list[jax.Array]], text_tokens: int
) -> None:
    """All arrays that the transformer computes on its way; their names are PyTorch's modules'."""

    def one_scene(x: jax.Array) -> jax.Array:  # all scenes have the same timestep
        return x[:, 0]

    def flat(x: jax.Array) -> jax.Array:  # scenes one after another
        return x.reshape(x.shape[0], -1, x.shape[-1])

    single = {
        "time_proj": ("time_proj", one_scene),
        "time_embedding": ("time_embedding", one_scene),
        "patch_embed": ("patch_embed", flat),
        "patch_embed_output": ("patch_embed", flat),
        "norm_final": ("norm_final", flat),
        "norm_out": ("norm_out", lambda x: x[:, text_tokens:]),
        "proj_out": ("proj_out", lambda x: x[:, text_tokens:]),
    }
    in_block = {
        "norm1_linear_out": ("modulation", lambda x: one_scene(x)),
        "attn1_out_video": ("attention", lambda x: x[:, text_tokens:]),
        "attn1_out_text": ("attention", lambda x: x[:, :text_tokens]),
        "ff_out": ("mlp", flat),
        "video": ("block", lambda x: x[:, text_tokens:]),
        "text": ("block", lambda x: x[:, :text_tokens]),
    }
    for array in file.arrays:
        block = re.fullmatch(r"block(\d+)_(\w+)", array)
        if array in single:
            name, view = single[array]
            file.expect(array, view(values[name][0]), TRANSFORMER_LIMIT)
        elif block and block[2] in in_block:
            name, view = in_block[block[2]]
            # Every block has two modulations, of which the golden files have the first.
            index = int(block[1]) * (2 if name == "modulation" else 1)
            file.expect(array, view(values[name][index]), TRANSFORMER_LIMIT)


def check_vae_encode(file: GoldenFile, models: ReferenceModels) -> None:
    """Moments of a video, and a draw with given noise."""
    vae = models.pipeline_of(file.name.split("/")[-1].removesuffix(".npz")).vae
    video = channels_last(file.input("video"))
    file.expect("moments", channels_first(vae.encode_moments(video)), VAE_LIMIT)
    mean, logvar = vae.encode(video)
    file.expect("mean", channels_first(mean), VAE_LIMIT)
    file.expect("logvar", channels_first(logvar), VAE_LIMIT)
    sample = sample_latents(mean, logvar, channels_last(file.input("eps")))
    file.expect("sample", channels_first(sample), VAE_LIMIT)


def check_vae_decode(file: GoldenFile, models: ReferenceModels) -> None:
    """Latents decoded with both rules of chunks."""
    vae = models.pipeline_of(file.name.split("/")[-1].removesuffix(".npz")).vae
    latents = channels_last(file.input("latents"))
    for array, rule in (("video", "reference"), ("video_auto_split", "diffusers")):
        file.expect(array, channels_first(vae.decode(latents, rule)), VAE_LIMIT)


def check_text_encoder(file: GoldenFile, models: ReferenceModels) -> None:
    """Token ids to states."""
    network = models.main_pipeline().text_encoder
    for array in file.arrays:
        if array.endswith("_last_hidden_state"):
            ids = file.input(array.replace("_last_hidden_state", "_input_ids"))
            out = apply_network(*network, jnp.asarray(ids, jnp.int32))
            file.expect(array, out, TEXT_LIMIT)


# Compiled once for all files of the same shapes.
@partial(jax.jit, static_argnums=0)
def apply_network(graphdef: nnx.GraphDef, params: Any, *args: jax.Array) -> jax.Array:
    """The network's result."""
    return nnx.merge(graphdef, params)(*args)
