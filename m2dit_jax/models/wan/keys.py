"""The names of the weights of Wan's transformer and text encoder in PyTorch, and ours."""

from m2dit_jax.models.cogvideox.keys import TEXT_ENCODER as T5
from m2dit_jax.models.key_rules import Rule, linear_rules, norm_rules

_BLOCK = "blocks.{layer}"
_EMBEDDER = "condition_embedder"


def _linear(torch: str, jax: str, first: str) -> list[Rule]:
    return linear_rules(torch, jax, other=first)


def _attention(torch: str, jax: str, first: str) -> list[Rule]:
    torch, jax, first = f"{_BLOCK}.{torch}", f"blocks.{jax}", f"{_BLOCK}.{first}"
    return [
        *_linear(f"{torch}.to_q", f"{jax}.to_q", f"{first}.q"),
        *_linear(f"{torch}.to_k", f"{jax}.to_k", f"{first}.k"),
        *_linear(f"{torch}.to_v", f"{jax}.to_v", f"{first}.v"),
        *_linear(f"{torch}.to_out.0", f"{jax}.to_out", f"{first}.o"),
        Rule(f"{torch}.norm_q.weight", f"{jax}.norm_q.scale"),
        Rule(f"{torch}.norm_k.weight", f"{jax}.norm_k.scale"),
    ]


# WanTransformer3DModel; the blocks are stacked along a layer axis. Linear layers have the names of
# Wan's own release too, which most files of adapters use.
TRANSFORMER = (
    Rule("patch_embedding.weight", "patch_embed.kernel", "patch"),
    Rule("patch_embedding.bias", "patch_embed.bias"),
    *_linear(f"{_EMBEDDER}.text_embedder.linear_1", "text_embed.linear_1", "text_embedding.0"),
    *_linear(f"{_EMBEDDER}.text_embedder.linear_2", "text_embed.linear_2", "text_embedding.2"),
    *_linear(f"{_EMBEDDER}.time_embedder.linear_1", "time_embedding.linear_1", "time_embedding.0"),
    *_linear(f"{_EMBEDDER}.time_embedder.linear_2", "time_embedding.linear_2", "time_embedding.2"),
    *_linear(f"{_EMBEDDER}.time_proj", "time_embedding.projection", "time_projection.1"),
    Rule(f"{_BLOCK}.scale_shift_table", "blocks.modulation"),
    *_attention("attn1", "attention", "self_attn"),
    *_attention("attn2", "cross_attention", "cross_attn"),
    *norm_rules(f"{_BLOCK}.norm2", "blocks.norm2"),
    *_linear(f"{_BLOCK}.ffn.net.0.proj", "blocks.mlp.linear_1", f"{_BLOCK}.ffn.0"),
    *_linear(f"{_BLOCK}.ffn.net.2", "blocks.mlp.linear_2", f"{_BLOCK}.ffn.2"),
    Rule("scale_shift_table", "modulation_out"),
    *_linear("proj_out", "proj_out", "head.head"),
)

_BIAS = "SelfAttention.relative_attention_bias.weight"

# UMT5EncoderModel: as T5, but each block has relative positions of its own.
TEXT_ENCODER = (
    *(rule for rule in T5 if not rule.torch.endswith(_BIAS)),
    Rule(f"encoder.block.{{layer}}.layer.0.{_BIAS}", "blocks.{layer}.relative_bias.embedding"),
)
