"""Golden files of Wan's networks: rotary tables, text encoder, transformer."""

import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from m2dit_jax.data.tokenizer import pad_or_truncate
from m2dit_jax.models.wan.rope import rope_table
from m2dit_jax.models.wan.umt5 import text_tokens
from m2dit_jax.tools.parity.golden import EXACT, GoldenFile
from m2dit_jax.tools.parity.intermediates import named_values
from m2dit_jax.tools.parity.layout import text_to_scenes, video_from_scenes, video_to_scenes
from m2dit_jax.tools.parity.models import ReferenceModels, ReferenceTransformer
from m2dit_jax.tools.parity.networks import apply_network

ROPE_LIMIT = 1e-5
TEXT_LIMIT = 5e-5
TRANSFORMER_LIMIT = 3e-5


def transformer_of(file: GoldenFile, models: ReferenceModels) -> ReferenceTransformer:
    """The transformer that a file's name speaks of."""
    return models.transformer_of(Path(file.name).stem)


def check_rope(file: GoldenFile, models: ReferenceModels) -> None:
    """The rotary table of a video, whose size is in latents."""
    config = transformer_of(file, models).config
    frames, height, width = (file.number(name) for name in ("frames", "height", "width"))
    patch = config.patch_size
    times = np.arange(frames // config.patch_size_t)
    cos, sin = rope_table(times, height // patch, width // patch, config.head_dim)
    file.expect("cos", cos[None, :, None], ROPE_LIMIT)
    file.expect("sin", sin[None, :, None], ROPE_LIMIT)


def check_text_encoder(root: Path, file: GoldenFile, models: ReferenceModels) -> None:
    """Texts to tokens, and tokens to states, with and without those behind a prompt's end."""
    texts = json.loads((root / "umt5_texts.json").read_text(encoding="utf-8"))
    pipeline = models.main_pipeline()
    tokenizer, length = pipeline.tokenizer, texts["max_sequence_length"]
    ids = [
        pad_or_truncate(tokenizer, tokenizer(t, verbose=False)["input_ids"], length)
        for t in texts["texts"]
    ]
    file.expect("input_ids", ids, EXACT)
    token_ids = jnp.asarray(file.input("input_ids"), jnp.int32)
    is_text = text_tokens(token_ids)
    file.expect("attention_mask", is_text, EXACT)
    encoder = nnx.merge(*pipeline.text_encoder)
    states = jax.jit(encoder.hidden_states)(token_ids, is_text)
    file.expect("last_hidden_state", states, TEXT_LIMIT)
    file.expect("prompt_embeds", apply_network(*pipeline.text_encoder, token_ids), TEXT_LIMIT)


def check_transformer(file: GoldenFile, models: ReferenceModels) -> None:
    """Forward passes, also with given scenes, and what is computed on the way."""
    transformer = transformer_of(file, models)
    scenes = file.number("scenes")
    latents = video_to_scenes(file.input("hidden_states"), scenes)
    text_embeds = text_to_scenes(file.input("encoder_hidden_states"), scenes)
    timesteps = jnp.asarray(file.input("timestep"))
    inputs = latents, text_embeds, timesteps
    if Path(file.name).name.startswith("inter_"):
        out = _check_intermediates(file, transformer, inputs)
    else:
        out = apply_network(*transformer.network, *inputs)
    file.expect("output", video_from_scenes(out), TRANSFORMER_LIMIT)


def _check_intermediates(
    file: GoldenFile, transformer: ReferenceTransformer, inputs: tuple[jax.Array, ...]
) -> jax.Array:
    """The output; all arrays before it are checked, by the names of PyTorch's modules.

    Those of timesteps have a row for each token.
    """
    values = named_values(transformer.model, *inputs)
    _, scenes, frames, height, width, _ = inputs[0].shape
    patch = transformer.config.patch_size
    grid = (scenes * frames // transformer.config.patch_size_t, height // patch, width // patch)

    def of_tokens(x: jax.Array) -> jax.Array:
        return jnp.repeat(x, int(np.prod(grid)) // scenes, axis=1)

    def as_video(x: jax.Array) -> jax.Array:
        return jnp.moveaxis(x.reshape(len(x), *grid, -1), -1, 1)

    single = {
        "patch_embedding": ("patch_embed", as_video),
        "time_embedder": ("time_embedding", of_tokens),
        "time_proj": ("time_projection", of_tokens),
        "text_embedder": ("text_embed", lambda x: x),
        "proj_out": ("proj_out", lambda x: x),
    }
    in_block = {
        "": "block",
        "_attn1": "attention",
        "_attn2": "cross_attention",
        "_ffn": "mlp",
    }
    for array in file.arrays:
        block = re.fullmatch(r"block(\d+)(\w*)", array)
        if array in single:
            name, view = single[array]
            file.expect(array, view(values[name][0]), TRANSFORMER_LIMIT)
        elif block and block[2] in in_block:
            ours = values[in_block[block[2]]][int(block[1])]
            file.expect(array, ours, TRANSFORMER_LIMIT)
    return values[""][0]
