"""The names of the networks' weights in diffusers and transformers, and ours."""

from m2dit_jax.models.key_rules import Rule, linear_rules, norm_rules

_BLOCK = "transformer_blocks.{layer}"

# CogVideoXTransformer3DModel; the blocks are stacked along a layer axis.
TRANSFORMER = (
    # A convolution in CogVideoX 1.0, a linear layer in 1.5; flat patches are the same for both.
    Rule("patch_embed.proj.weight", "patch_embed.kernel", "patch"),
    Rule("patch_embed.proj.bias", "patch_embed.bias"),
    *linear_rules("patch_embed.text_proj", "text_proj"),
    *linear_rules("time_embedding.linear_1", "time_embedding.linear_1"),
    *linear_rules("time_embedding.linear_2", "time_embedding.linear_2"),
    *linear_rules(f"{_BLOCK}.norm1.linear", "blocks.modulation1.linear"),
    *norm_rules(f"{_BLOCK}.norm1.norm", "blocks.norm1"),
    *linear_rules(f"{_BLOCK}.attn1.to_q", "blocks.attention.to_q"),
    *linear_rules(f"{_BLOCK}.attn1.to_k", "blocks.attention.to_k"),
    *linear_rules(f"{_BLOCK}.attn1.to_v", "blocks.attention.to_v"),
    *linear_rules(f"{_BLOCK}.attn1.to_out.0", "blocks.attention.to_out"),
    *norm_rules(f"{_BLOCK}.attn1.norm_q", "blocks.attention.norm_q"),
    *norm_rules(f"{_BLOCK}.attn1.norm_k", "blocks.attention.norm_k"),
    *linear_rules(f"{_BLOCK}.norm2.linear", "blocks.modulation2.linear"),
    *norm_rules(f"{_BLOCK}.norm2.norm", "blocks.norm2"),
    *linear_rules(f"{_BLOCK}.ff.net.0.proj", "blocks.mlp.linear_1"),
    *linear_rules(f"{_BLOCK}.ff.net.2", "blocks.mlp.linear_2"),
    *norm_rules("norm_final", "norm_final"),
    *linear_rules("norm_out.linear", "modulation_out"),
    *norm_rules("norm_out.norm", "norm_out"),
    *linear_rules("proj_out", "proj_out"),
)

_T5 = "encoder.block.{layer}.layer"

# T5EncoderModel.
TEXT_ENCODER = (
    Rule("shared.weight", "embed.embedding"),
    Rule(
        "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
        "relative_bias.embedding",
    ),
    *linear_rules(f"{_T5}.0.SelfAttention.q", "blocks.{layer}.attention.q", bias=False),
    *linear_rules(f"{_T5}.0.SelfAttention.k", "blocks.{layer}.attention.k", bias=False),
    *linear_rules(f"{_T5}.0.SelfAttention.v", "blocks.{layer}.attention.v", bias=False),
    *linear_rules(f"{_T5}.0.SelfAttention.o", "blocks.{layer}.attention.o", bias=False),
    Rule(f"{_T5}.0.layer_norm.weight", "blocks.{layer}.norm1.scale"),
    *linear_rules(f"{_T5}.1.DenseReluDense.wi_0", "blocks.{layer}.wi_0", bias=False),
    *linear_rules(f"{_T5}.1.DenseReluDense.wi_1", "blocks.{layer}.wi_1", bias=False),
    *linear_rules(f"{_T5}.1.DenseReluDense.wo", "blocks.{layer}.wo", bias=False),
    Rule(f"{_T5}.1.layer_norm.weight", "blocks.{layer}.norm2.scale"),
    Rule("encoder.final_layer_norm.weight", "final_norm.scale"),
)
