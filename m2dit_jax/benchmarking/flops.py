"""Floating-point operations of the models in closed form; a product and its sum count as two.

Only products of matrices are counted. Attention counts the pairs that the mask allows, so that an
implementation which computes more has nothing of it.
"""

from ml_collections import ConfigDict

from m2dit_jax.model.layout import Layout
from m2dit_jax.model.masks import check_mask
from m2dit_jax.model.transformer import TransformerConfig

# A training step's products: the forward pass, the gradients of the inputs, those of the weights.
# What rematerialisation computes again is not the model's and does not count.
TRAINING_FACTOR = 3


def attention_pairs(layout: Layout, mask: str) -> int:
    """Pairs of a query and a key that may see each other (`model.masks.scene_mask`).

    Raises ValueError for an unknown mask.
    """
    check_mask(mask)
    scene = layout.text + layout.video
    if mask == "full":
        return layout.tokens**2
    if mask == "independent":
        return layout.scenes * scene**2
    return layout.scenes * (
        layout.text * scene + layout.video * (layout.text + layout.scenes * layout.video)
    )


def transformer_flops(config: TransformerConfig, layout: Layout) -> int:
    """Of the forward pass of one story."""
    width, time_dim, scenes = config.width, config.time_dim, layout.scenes
    patch = config.channels * config.patch_size_t * config.patch_size**2
    per_token = 4 * width**2 + 2 * 4 * width**2  # attention's projections, feed-forward
    per_pair = 2 * width  # logits, weighted values
    per_scene = 2 * 6 * time_dim * width  # two modulations
    block = (
        layout.tokens * per_token
        + attention_pairs(layout, config.mask) * per_pair
        + scenes * per_scene
    )
    embeddings = (
        scenes * layout.video * patch * width
        + layout.text_tokens * config.text_dim * width
        + scenes * (width * time_dim + time_dim**2)
    )
    head = scenes * (time_dim * 2 * width + layout.video * width * patch)
    return 2 * (config.layers * block + embeddings + head)


def text_encoder_flops(text_encoder: ConfigDict, prompts: int, length: int) -> int:
    """Of the forward pass of a T5 v1.1 encoder (fields as in `config.text_encoder`)."""
    width, inner = text_encoder.d_model, text_encoder.num_heads * text_encoder.d_kv
    per_token = 4 * width * inner + 3 * width * text_encoder.d_ff
    layer = length * per_token + length**2 * 2 * inner
    return 2 * prompts * text_encoder.num_layers * layer
