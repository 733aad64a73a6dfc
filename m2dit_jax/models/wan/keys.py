"""The names of the weights of Wan's transformer and text encoder in PyTorch, and ours."""

from m2dit_jax.models.cogvideox.keys import TEXT_ENCODER as T5
from m2dit_jax.models.key_rules import Rule, linear_rules, norm_rules

_BLOCK = "blocks.{layer}"
_EMBEDDER = "condition_embedder"


def _attention(torch: str, jax: str) -> list[Rule]:
    return [
        *linear_rules(f"{_BLOCK}.{torch}.to_q", f"blocks.{jax}.to_q"),
        *linear_rules(f"{_BLOCK}.{torch}.to_k", f"blocks.{jax}.to_k"),
        *linear_rules(f"{_BLOCK}.{torch}.to_v", f"blocks.{jax}.to_v"),
        *linear_rules(f"{_BLOCK}.{torch}.to_out.0", f"blocks.{jax}.to_out"),
        Rule(f"{_BLOCK}.{torch}.norm_q.weight", f"blocks.{jax}.norm_q.scale"),
        Rule(f"{_BLOCK}.{torch}.norm_k.weight", f"blocks.{jax}.norm_k.scale"),
    ]


# WanTransformer3DModel; the blocks are stacked along a layer axis.
TRANSFORMER = (
    Rule("patch_embedding.weight", "patch_embed.kernel", "patch"),
    Rule("patch_embedding.bias", "patch_embed.bias"),
    *linear_rules(f"{_EMBEDDER}.text_embedder.linear_1", "text_embed.linear_1"),
    *linear_rules(f"{_EMBEDDER}.text_embedder.linear_2", "text_embed.linear_2"),
    *linear_rules(f"{_EMBEDDER}.time_embedder.linear_1", "time_embedding.linear_1"),
    *linear_rules(f"{_EMBEDDER}.time_embedder.linear_2", "time_embedding.linear_2"),
    *linear_rules(f"{_EMBEDDER}.time_proj", "time_embedding.projection"),
    Rule(f"{_BLOCK}.scale_shift_table", "blocks.modulation"),
    *_attention("attn1", "attention"),
    *_attention("attn2", "cross_attention"),
    *norm_rules(f"{_BLOCK}.norm2", "blocks.norm2"),
    *linear_rules(f"{_BLOCK}.ffn.net.0.proj", "blocks.mlp.linear_1"),
    *linear_rules(f"{_BLOCK}.ffn.net.2", "blocks.mlp.linear_2"),
    Rule("scale_shift_table", "modulation_out"),
    *linear_rules("proj_out", "proj_out"),
)

_BIAS = "SelfAttention.relative_attention_bias.weight"

# UMT5EncoderModel: as T5, but each block has relative positions of its own.
TEXT_ENCODER = (
    *(rule for rule in T5 if not rule.torch.endswith(_BIAS)),
    Rule(f"encoder.block.{{layer}}.layer.0.{_BIAS}", "blocks.{layer}.relative_bias.embedding"),
)
