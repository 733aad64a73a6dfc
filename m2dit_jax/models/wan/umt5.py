"""The UMT5 encoder (arXiv 2304.09151): prompts' token ids to Wan's text embeddings."""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from m2dit_jax.models.cogvideox.t5 import T5Block, TextEncoderConfig, relative_position_buckets

PAD = 0
_HIDDEN = jnp.finfo(jnp.float32).min


class Umt5Block(T5Block):
    """A T5 block with relative positions of its own."""

    def __init__(self, config: TextEncoderConfig, *, rngs: nnx.Rngs):
        super().__init__(config, rngs=rngs)
        self.relative_bias = nnx.Embed(
            config.relative_attention_num_buckets,
            config.num_heads,
            embedding_init=nnx.initializers.normal(config.d_model**-0.5),
            rngs=rngs,
        )


class Umt5(nnx.Module):
    """UMT5 encoder; no token sees those behind the end of the prompt, which become zeros.

    Dtypes are those of `cogvideox.t5.TextEncoder`.
    """

    def __init__(self, config: TextEncoderConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.embed = nnx.Embed(
            config.vocab_size,
            config.d_model,
            embedding_init=nnx.initializers.normal(1.0),
            rngs=rngs,
        )
        self.blocks = nnx.List([Umt5Block(config, rngs=rngs) for _ in range(config.num_layers)])
        self.final_norm = nnx.RMSNorm(config.d_model, epsilon=config.layer_norm_epsilon, rngs=rngs)

    def __call__(self, token_ids: Int[Array, "N T"]) -> Float[Array, "N T E"]:
        """Embeddings as the transformer reads them; padding is PAD."""
        is_text = text_tokens(token_ids)
        return jnp.where(is_text[:, :, None], self.hidden_states(token_ids, is_text), 0)

    def hidden_states(
        self, token_ids: Int[Array, "N T"], is_text: Bool[Array, "N T"]
    ) -> Float[Array, "N T E"]:
        """The last hidden states, also those of the tokens that nobody sees."""
        config = self.config
        x = self.embed(token_ids).astype(jnp.float32)
        buckets = jnp.asarray(
            relative_position_buckets(
                token_ids.shape[1],
                config.relative_attention_num_buckets,
                config.relative_attention_max_distance,
            )
        )
        for block in self.blocks:
            bias = block.relative_bias(buckets).transpose(2, 0, 1)[None]
            x = block(x, jnp.where(is_text[:, None, None], bias, _HIDDEN))
        return self.final_norm(x)


def text_tokens(token_ids: Int[Array, "N T"]) -> Bool[Array, "N T"]:
    """Whether each token is of the prompt: up to the last that is not PAD."""
    later = jnp.cumsum((token_ids != PAD)[:, ::-1], axis=1)[:, ::-1]
    return later > 0
