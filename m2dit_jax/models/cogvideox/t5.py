"""The T5 v1.1 encoder (arXiv 1910.10683, 2002.05202): prompts' token ids to text embeddings."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from m2dit_jax.models.linear import Linear


@dataclass(frozen=True)
class TextEncoderConfig:
    """Shape of the encoder; names as in transformers' T5Config."""

    vocab_size: int
    d_model: int
    d_kv: int
    d_ff: int
    num_layers: int
    num_heads: int
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    layer_norm_epsilon: float = 1e-6


class T5Attention(nnx.Module):
    """Self-attention without biases; the 1/sqrt(d) scaling is in the initialisation instead."""

    def __init__(self, config: TextEncoderConfig, *, rngs: nnx.Rngs):
        self.heads, inner = config.num_heads, config.num_heads * config.d_kv
        scaled = nnx.initializers.normal((config.d_model * config.d_kv) ** -0.5)
        normal = nnx.initializers.normal(config.d_model**-0.5)
        out = nnx.initializers.normal(inner**-0.5)
        d_model = config.d_model
        self.q = Linear(d_model, inner, use_bias=False, kernel_init=scaled, rngs=rngs)
        self.k = Linear(d_model, inner, use_bias=False, kernel_init=normal, rngs=rngs)
        self.v = Linear(d_model, inner, use_bias=False, kernel_init=normal, rngs=rngs)
        self.o = Linear(inner, d_model, use_bias=False, kernel_init=out, rngs=rngs)

    def __call__(
        self, x: Float[Array, "N T E"], position_bias: Float[Array, "#N H T T"]
    ) -> Float[Array, "N T E"]:
        query, key, value = (
            linear(x).reshape(*x.shape[:2], self.heads, -1) for linear in (self.q, self.k, self.v)
        )
        out = jax.nn.dot_product_attention(query, key, value, bias=position_bias, scale=1.0)
        return self.o(out.reshape(*x.shape[:2], -1))


class T5Block(nnx.Module):
    """RMSNorm and attention, RMSNorm and gated-GELU feed-forward, each with a residual."""

    def __init__(self, config: TextEncoderConfig, *, rngs: nnx.Rngs):
        d_model, d_ff, eps = config.d_model, config.d_ff, config.layer_norm_epsilon
        wide = nnx.initializers.normal(d_model**-0.5)
        narrow = nnx.initializers.normal(d_ff**-0.5)
        self.norm1 = nnx.RMSNorm(d_model, epsilon=eps, rngs=rngs)
        self.attention = T5Attention(config, rngs=rngs)
        self.norm2 = nnx.RMSNorm(d_model, epsilon=eps, rngs=rngs)
        self.wi_0 = Linear(d_model, d_ff, use_bias=False, kernel_init=wide, rngs=rngs)
        self.wi_1 = Linear(d_model, d_ff, use_bias=False, kernel_init=wide, rngs=rngs)
        self.wo = Linear(d_ff, d_model, use_bias=False, kernel_init=narrow, rngs=rngs)

    def __call__(
        self, x: Float[Array, "N T E"], position_bias: Float[Array, "#N H T T"]
    ) -> Float[Array, "N T E"]:
        scale = self.norm1.scale
        assert scale is not None
        dtype = scale.dtype  # matrices may be in 8 bits
        x = x + self.attention(self.norm1(x).astype(dtype), position_bias)
        hidden = self.norm2(x).astype(dtype)
        gate, linear = jax.nn.gelu(self.wi_0(hidden), approximate=True), self.wi_1(hidden)
        if dtype == jnp.float16:  # the product and its sum leave float16's range
            gate, linear = gate.astype(jnp.float32), linear.astype(jnp.float32)
        return x + self.wo(gate * linear)


class TextEncoder(nnx.Module):
    """T5 v1.1 encoder; no attention mask, as in CogVideoX: padding is text like any other.

    The dtype of matrix products is that of the parameters; the last one of a block is in float32
    if that is float16, as in transformers (`_keep_in_fp32_modules`). The sum that runs through the
    blocks, whose values grow large in T5, its norms and the softmax are in float32, and so is the
    result.
    """

    def __init__(self, config: TextEncoderConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.embed = nnx.Embed(
            config.vocab_size,
            config.d_model,
            embedding_init=nnx.initializers.normal(1.0),
            rngs=rngs,
        )
        self.relative_bias = nnx.Embed(
            config.relative_attention_num_buckets,
            config.num_heads,
            embedding_init=nnx.initializers.normal(config.d_model**-0.5),
            rngs=rngs,
        )
        self.blocks = nnx.List([T5Block(config, rngs=rngs) for _ in range(config.num_layers)])
        self.final_norm = nnx.RMSNorm(config.d_model, epsilon=config.layer_norm_epsilon, rngs=rngs)

    def __call__(self, token_ids: Int[Array, "N T"]) -> Float[Array, "N T E"]:
        x = self.embed(token_ids).astype(jnp.float32)
        buckets = relative_position_buckets(
            token_ids.shape[1],
            self.config.relative_attention_num_buckets,
            self.config.relative_attention_max_distance,
        )
        position_bias = self.relative_bias(jnp.asarray(buckets)).transpose(2, 0, 1)[None]
        for block in self.blocks:
            x = block(x, position_bias)
        return self.final_norm(x)


def relative_position_buckets(
    length: int, num_buckets: int, max_distance: int
) -> Int[np.ndarray, "{length} {length}"]:
    """Bucket of (key position - query position): half of them for each direction.

    Small distances have a bucket each, larger ones share logarithmically wider buckets.
    """
    positions = np.arange(length)
    relative = positions[None, :] - positions[:, None]
    half = num_buckets // 2
    exact = half // 2
    distance = np.abs(relative)
    ratio = np.log(np.maximum(distance, 1) / exact) / np.log(max_distance / exact)
    far = np.minimum(exact + (ratio * (half - exact)).astype(np.int64), half - 1)
    return np.where(relative > 0, half, 0) + np.where(distance < exact, distance, far)
