"""The parts of a CogVideoX block: modulation, attention projections, feed-forward, embeddings."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float, Int, Num

from m2dit_jax.models.attention.cached import KeyValues
from m2dit_jax.models.attention.dispatch import Heads
from m2dit_jax.models.cogvideox.rope import apply_rope
from m2dit_jax.models.layout import Layout
from m2dit_jax.models.linear import Linear
from m2dit_jax.models.placement import ONE_DEVICE, Placement

Rope = tuple[Float[Array, "L K"], ...]  # cosines and sines; empty without rotation


def modulate(
    x: Float[Array, "*batch D"],
    shift: Float[Array, "*#batch D"],
    scale: Float[Array, "*#batch D"],
) -> Float[Array, "*batch D"]:
    """Adaptive layer norm's affine part (DiT, section 3.2)."""
    return x * (1 + scale) + shift


def sinusoidal_embedding(timesteps: Num[Array, "B S"], dim: int) -> Float[Array, "B S {dim}"]:
    """Timestep features, cosines first (diffusers' `flip_sin_to_cos`), period up to 10,000.

    The exponents are rounded to float32 as the reference does: at timestep 999 that is seen in the
    fourth digit, and it is what the released weights were trained with.
    """
    half = dim // 2
    exponents = np.float32(-np.log(10_000.0)) * np.arange(half, dtype=np.float32) / np.float32(half)
    frequencies = np.exp(exponents.astype(np.float64)).astype(np.float32)
    angles = timesteps[..., None].astype(jnp.float32) * frequencies
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


class TimeEmbedding(nnx.Module):
    """Timestep -> sinusoid -> Linear -> SiLU -> Linear."""

    def __init__(self, width: int, time_dim: int, *, rngs: nnx.Rngs):
        self.width = width
        self.linear_1 = nnx.Linear(width, time_dim, rngs=rngs)
        self.linear_2 = nnx.Linear(time_dim, time_dim, rngs=rngs)

    def __call__(self, timesteps: Int[Array, "B S"]) -> Float[Array, "B S E"]:
        features = sinusoidal_embedding(timesteps, self.width).astype(self.linear_1.kernel.dtype)
        return self.linear_2(jax.nn.silu(self.linear_1(checkpoint_name(features, "time_proj"))))


class ExpertModulation(nnx.Module):
    """adaLN-zero with separate experts: shift, scale and gate for video, then the same for text.

    Starts at zero, so that every block starts as the identity.
    """

    def __init__(self, time_dim: int, width: int, *, rngs: nnx.Rngs):
        zeros = nnx.initializers.zeros_init()
        self.linear = Linear(time_dim, 6 * width, kernel_init=zeros, rngs=rngs)
        self.linear.few_inputs = True

    def __call__(
        self, time_embed: Float[Array, "B S E"], layout: Layout, placement: Placement = ONE_DEVICE
    ) -> tuple[Float[Array, "B L D"], Float[Array, "B L D"], Float[Array, "B L D"]]:
        modulation = checkpoint_name(self.linear(jax.nn.silu(time_embed)), "modulation")
        video_and_text = jnp.split(modulation, 6, axis=-1)
        video, text = video_and_text[:3], video_and_text[3:]
        shift, scale, gate = (
            placement.spread(t, v, layout) for t, v in zip(text, video, strict=True)
        )
        return shift, scale, gate


class JointAttention(nnx.Module):
    """Self-attention of text and video together, with q/k LayerNorm per head, rotated by `rope`."""

    def __init__(self, width: int, heads: int, mask: str, implementation: str, *, rngs: nnx.Rngs):
        self.heads = heads
        self.mask = mask
        self.implementation = implementation
        self.to_q = Linear(width, width, rngs=rngs)
        self.to_k = Linear(width, width, rngs=rngs)
        self.to_v = Linear(width, width, rngs=rngs)
        self.to_out = Linear(width, width, rngs=rngs)
        self.norm_q = nnx.LayerNorm(width // heads, epsilon=1e-6, rngs=rngs)
        self.norm_k = nnx.LayerNorm(width // heads, epsilon=1e-6, rngs=rngs)

    def __call__(
        self,
        tokens: Float[Array, "B L D"],
        layout: Layout,
        rope: Rope,
        placement: Placement = ONE_DEVICE,
        given: Bool[Array, "B S"] | None = None,
        cached: KeyValues | None = None,
    ) -> Float[Array, "B L D"]:
        query = self.norm_q(self._split_heads(self.to_q(tokens)))
        if rope:
            query = apply_rope(query, *rope)
        key, value = self.keys_values(tokens, rope)
        mask, name = self.mask, self.implementation
        if cached is None:
            out = placement.attention(query, key, value, layout, mask, name, given)
        else:
            out = placement.attention_cached(query, key, value, cached, layout, mask, name)
        return self.to_out(checkpoint_name(out.reshape(tokens.shape), "attended"))

    def keys_values(self, tokens: Float[Array, "B L D"], rope: Rope) -> tuple[Heads, Heads]:
        """Keys, rotated, and values."""
        key = self.norm_k(self._split_heads(self.to_k(tokens)))
        if rope:
            key = apply_rope(key, *rope)
        return key, self._split_heads(self.to_v(tokens))

    def _split_heads(self, features: Float[Array, "B L D"]) -> Heads:
        return features.reshape(*features.shape[:2], self.heads, -1)


class FeedForward(nnx.Module):
    """Linear to four times the width, GELU (tanh approximation), Linear back.

    `chunk` tokens at a time, 0: all at once.
    """

    def __init__(self, width: int, chunk: int = 0, *, rngs: nnx.Rngs):
        self.chunk = chunk
        self.linear_1 = Linear(width, 4 * width, rngs=rngs)
        self.linear_2 = Linear(4 * width, width, rngs=rngs)

    def __call__(self, tokens: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
        small = tokens.shape[0] * tokens.shape[1] <= self.chunk
        if not self.chunk or small or self.linear_1.by_place or self.linear_2.by_place:
            return self._feed(tokens)
        flat = tokens.reshape(-1, tokens.shape[2])
        return jax.lax.map(self._feed, flat, batch_size=self.chunk).reshape(tokens.shape)

    def _feed(self, tokens: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
        return self.linear_2(jax.nn.gelu(self.linear_1(tokens), approximate=True))
