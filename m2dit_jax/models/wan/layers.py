"""The parts of a Wan block: both attentions, feed-forward; and the embedding of timesteps."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float, Num

from m2dit_jax.models.attention.cached import KeyValues
from m2dit_jax.models.attention.dispatch import Heads
from m2dit_jax.models.cogvideox.layers import sinusoidal_embedding
from m2dit_jax.models.cogvideox.rope import apply_rope
from m2dit_jax.models.layout import Layout
from m2dit_jax.models.lora import Linear
from m2dit_jax.models.placement import ONE_DEVICE, Placement

Rope = tuple[Float[Array, "V K"], Float[Array, "V K"]]  # cosines and sines


class Projections(nnx.Module):
    """Queries, keys and values, and the way back; RMSNorm of queries and keys over all heads."""

    def __init__(self, width: int, heads: int, eps: float, *, rngs: nnx.Rngs):
        self.heads = heads
        self.to_q = Linear(width, width, rngs=rngs)
        self.to_k = Linear(width, width, rngs=rngs)
        self.to_v = Linear(width, width, rngs=rngs)
        self.to_out = Linear(width, width, rngs=rngs)
        self.norm_q = nnx.RMSNorm(width, epsilon=eps, rngs=rngs)
        self.norm_k = nnx.RMSNorm(width, epsilon=eps, rngs=rngs)

    def query(self, tokens: Float[Array, "B L D"]) -> Heads:
        """Normalised queries."""
        return self._split_heads(self.norm_q(self.to_q(tokens)))

    def key_value(self, tokens: Float[Array, "B M D"]) -> tuple[Heads, Heads]:
        """Normalised keys, and values."""
        return self._split_heads(self.norm_k(self.to_k(tokens))), self._split_heads(
            self.to_v(tokens)
        )

    def out(self, attended: Heads) -> Float[Array, "B L D"]:
        """Mixes all heads of what attention made."""
        flat = attended.reshape(*attended.shape[:2], -1)
        return self.to_out(checkpoint_name(flat, "attended"))

    def _split_heads(self, features: Float[Array, "B L D"]) -> Heads:
        return features.reshape(*features.shape[:2], self.heads, -1)


class SelfAttention(Projections):
    """Attention of the video of all scenes to itself, under a mask; `rope` turns queries, keys."""

    def __call__(
        self,
        tokens: Float[Array, "B L D"],
        layout: Layout,
        rope: Rope,
        mask: str,
        implementation: str,
        placement: Placement = ONE_DEVICE,
        given: Bool[Array, "B S"] | None = None,
        cached: KeyValues | None = None,
    ) -> Float[Array, "B L D"]:
        query = apply_rope(self.query(tokens), *rope)
        key, value = self.turned_key_value(tokens, rope)
        if cached is None:
            out = placement.attention(query, key, value, layout, mask, implementation, given)
        else:
            out = placement.attention_cached(
                query, key, value, cached, layout, mask, implementation
            )
        return self.out(out)

    def turned_key_value(self, tokens: Float[Array, "B L D"], rope: Rope) -> tuple[Heads, Heads]:
        """Keys, rotated, and values."""
        key, value = self.key_value(tokens)
        return apply_rope(key, *rope), value


class CrossAttention(Projections):
    """Attention of video to the text that the mask lets it see."""

    def __call__(
        self,
        tokens: Float[Array, "B L D"],
        text: Float[Array, "B M D"],
        layout: Layout,
        mask: str,
        implementation: str,
        placement: Placement = ONE_DEVICE,
    ) -> Float[Array, "B L D"]:
        query, (key, value) = self.query(tokens), self.key_value(text)
        return self.out(placement.cross_attention(query, key, value, layout, mask, implementation))


class FeedForward(nnx.Module):
    """Linear, GELU (tanh approximation), Linear."""

    def __init__(self, inputs: int, hidden: int, outputs: int, *, rngs: nnx.Rngs):
        self.linear_1 = Linear(inputs, hidden, rngs=rngs)
        self.linear_2 = Linear(hidden, outputs, rngs=rngs)

    def __call__(self, x: Float[Array, "*B I"]) -> Float[Array, "*B O"]:
        return self.linear_2(jax.nn.gelu(self.linear_1(x), approximate=True))


class TimeEmbedding(nnx.Module):
    """Timestep -> sinusoid -> Linear -> SiLU -> Linear, and of that SiLU -> Linear; in float32."""

    def __init__(self, features: int, width: int, *, rngs: nnx.Rngs):
        self.features = features
        self.linear_1 = nnx.Linear(features, width, rngs=rngs)
        self.linear_2 = nnx.Linear(width, width, rngs=rngs)
        self.projection = nnx.Linear(width, 6 * width, rngs=rngs)

    def __call__(
        self, timesteps: Num[Array, "B S"]
    ) -> tuple[Float[Array, "B S D"], Float[Array, "B S M"]]:
        """The embedding, and the shifts, scales and gates of both parts of all blocks."""
        hidden = self.linear_1(sinusoidal_embedding(timesteps, self.features))
        embedded = self.linear_2(jax.nn.silu(hidden)).astype(jnp.float32)
        embedded = checkpoint_name(embedded, "time_embedding")
        modulation = self.projection(jax.nn.silu(embedded)).astype(jnp.float32)
        return embedded, checkpoint_name(modulation, "time_projection")
