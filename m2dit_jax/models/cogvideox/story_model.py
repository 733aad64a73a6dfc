"""The trained model, prompts to v: a transformer with or without a text encoder."""

from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from m2dit_jax.models.attention.cached import KeyValues
from m2dit_jax.models.cogvideox.t5 import TextEncoder, TextEncoderConfig
from m2dit_jax.models.cogvideox.transformer import M2DiT, TransformerConfig
from m2dit_jax.models.placement import ONE_DEVICE, Placement


class StoryModel(nnx.Module):
    """A T5 encoder, applied to each scene's prompt alone, and the M2DiT that reads its output.

    Without a text encoder, `encode_text` is handed what one has made of the prompts before.
    """

    def __init__(
        self,
        text_encoder: TextEncoderConfig | None,
        transformer: TransformerConfig,
        *,
        rngs: nnx.Rngs,
    ):
        self.text_encoder = None if text_encoder is None else TextEncoder(text_encoder, rngs=rngs)
        self.transformer = M2DiT(transformer, rngs=rngs)

    def encode_text(
        self, prompts: Int[Array, "B P T"] | Float[Array, "B P T E"]
    ) -> Float[Array, "B P T E"]:
        """Text embeddings of each scene's prompt, from token ids or, without encoder, as given."""
        if self.text_encoder is None:
            return prompts
        batch, scenes, length = prompts.shape
        embeds = self.text_encoder(prompts.reshape(batch * scenes, length))
        return embeds.reshape(batch, scenes, length, -1)

    def __call__(
        self,
        latents: Float[Array, "B S F H W C"],
        text_embeds: Float[Array, "B P T E"],
        timesteps: Int[Array, "B S"],
        given: Bool[Array, "B S"] | None = None,
        placement: Placement = ONE_DEVICE,
        frames: tuple[int, ...] | None = None,
    ) -> Float[Array, "B S F H W C"]:
        return self.transformer(latents, text_embeds, timesteps, given, placement, frames)

    @property
    def mask(self) -> str:
        """The transformer's attention mask."""
        return self.transformer.mask

    def cache_given(
        self,
        latents: Float[Array, "B G F H W C"],
        text_embeds: Float[Array, "B G T E"],
        given: tuple[bool, ...],
        placement: Placement = ONE_DEVICE,
    ) -> KeyValues:
        """The result of `M2DiT.cache_given`."""
        return self.transformer.cache_given(latents, text_embeds, given, placement)

    def predict_cached(
        self,
        latents: Float[Array, "B G F H W C"],
        text_embeds: Float[Array, "B G T E"],
        timesteps: Int[Array, "B G"],
        cached: KeyValues,
        given: tuple[bool, ...],
        placement: Placement = ONE_DEVICE,
    ) -> Float[Array, "B G F H W C"]:
        """The result of `M2DiT.predict_cached`."""
        return self.transformer.predict_cached(
            latents, text_embeds, timesteps, cached, given, placement
        )
