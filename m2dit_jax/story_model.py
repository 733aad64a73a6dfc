"""Prompts to v: the text encoder and the transformer as the one thing that is trained."""

from flax import nnx
from jaxtyping import Array, Float, Int

from m2dit_jax.encoders.text_encoder import TextEncoder, TextEncoderConfig
from m2dit_jax.model.transformer import M2DiT, TransformerConfig


class StoryModel(nnx.Module):
    """A T5 encoder, applied to each scene's prompt alone, and the M2DiT that reads its output."""

    def __init__(
        self, text_encoder: TextEncoderConfig, transformer: TransformerConfig, *, rngs: nnx.Rngs
    ):
        self.text_encoder = TextEncoder(text_encoder, rngs=rngs)
        self.transformer = M2DiT(transformer, rngs=rngs)

    def encode_text(self, token_ids: Int[Array, "B S T"]) -> Float[Array, "B S T E"]:
        """Text embeddings of each scene's prompt."""
        batch, scenes, length = token_ids.shape
        embeds = self.text_encoder(token_ids.reshape(batch * scenes, length))
        return embeds.reshape(batch, scenes, length, -1)

    def __call__(
        self,
        latents: Float[Array, "B S F H W C"],
        text_embeds: Float[Array, "B S T E"],
        timesteps: Int[Array, "B S"],
    ) -> Float[Array, "B S F H W C"]:
        return self.transformer(latents, text_embeds, timesteps)
