"""The names of the networks' weights in diffusers and transformers, and ours."""

from m2dit_jax.models.key_rules import Rule


def _linear(torch: str, jax: str, bias: bool = True) -> list[Rule]:
    rules = [Rule(f"{torch}.weight", f"{jax}.kernel", "linear")]
    return rules + [Rule(f"{torch}.bias", f"{jax}.bias")] * bias


def _norm(torch: str, jax: str) -> list[Rule]:
    return [Rule(f"{torch}.weight", f"{jax}.scale"), Rule(f"{torch}.bias", f"{jax}.bias")]


_BLOCK = "transformer_blocks.{layer}"

# CogVideoXTransformer3DModel; the blocks are stacked along a layer axis.
TRANSFORMER = (
    # A convolution in CogVideoX 1.0, a linear layer in 1.5; flat patches are the same for both.
    Rule("patch_embed.proj.weight", "patch_embed.kernel", "patch"),
    Rule("patch_embed.proj.bias", "patch_embed.bias"),
    *_linear("patch_embed.text_proj", "text_proj"),
    *_linear("time_embedding.linear_1", "time_embedding.linear_1"),
    *_linear("time_embedding.linear_2", "time_embedding.linear_2"),
    *_linear(f"{_BLOCK}.norm1.linear", "blocks.modulation1.linear"),
    *_norm(f"{_BLOCK}.norm1.norm", "blocks.norm1"),
    *_linear(f"{_BLOCK}.attn1.to_q", "blocks.attention.to_q"),
    *_linear(f"{_BLOCK}.attn1.to_k", "blocks.attention.to_k"),
    *_linear(f"{_BLOCK}.attn1.to_v", "blocks.attention.to_v"),
    *_linear(f"{_BLOCK}.attn1.to_out.0", "blocks.attention.to_out"),
    *_norm(f"{_BLOCK}.attn1.norm_q", "blocks.attention.norm_q"),
    *_norm(f"{_BLOCK}.attn1.norm_k", "blocks.attention.norm_k"),
    *_linear(f"{_BLOCK}.norm2.linear", "blocks.modulation2.linear"),
    *_norm(f"{_BLOCK}.norm2.norm", "blocks.norm2"),
    *_linear(f"{_BLOCK}.ff.net.0.proj", "blocks.mlp.linear_1"),
    *_linear(f"{_BLOCK}.ff.net.2", "blocks.mlp.linear_2"),
    *_norm("norm_final", "norm_final"),
    *_linear("norm_out.linear", "modulation_out"),
    *_norm("norm_out.norm", "norm_out"),
    *_linear("proj_out", "proj_out"),
)

_T5 = "encoder.block.{layer}.layer"

# T5EncoderModel.
TEXT_ENCODER = (
    Rule("shared.weight", "embed.embedding"),
    Rule(
        "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
        "relative_bias.embedding",
    ),
    *_linear(f"{_T5}.0.SelfAttention.q", "blocks.{layer}.attention.q", bias=False),
    *_linear(f"{_T5}.0.SelfAttention.k", "blocks.{layer}.attention.k", bias=False),
    *_linear(f"{_T5}.0.SelfAttention.v", "blocks.{layer}.attention.v", bias=False),
    *_linear(f"{_T5}.0.SelfAttention.o", "blocks.{layer}.attention.o", bias=False),
    Rule(f"{_T5}.0.layer_norm.weight", "blocks.{layer}.norm1.scale"),
    *_linear(f"{_T5}.1.DenseReluDense.wi_0", "blocks.{layer}.wi_0", bias=False),
    *_linear(f"{_T5}.1.DenseReluDense.wi_1", "blocks.{layer}.wi_1", bias=False),
    *_linear(f"{_T5}.1.DenseReluDense.wo", "blocks.{layer}.wo", bias=False),
    Rule(f"{_T5}.1.layer_norm.weight", "blocks.{layer}.norm2.scale"),
    Rule("encoder.final_layer_norm.weight", "final_norm.scale"),
)
