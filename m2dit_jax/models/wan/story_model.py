"""The trained model of the Wan family, prompts to flow."""

from flax import nnx

from m2dit_jax.models.cogvideox.story_model import StoryModel
from m2dit_jax.models.cogvideox.t5 import TextEncoderConfig
from m2dit_jax.models.wan.transformer import WanTransformer
from m2dit_jax.models.wan.transformer_config import WanConfig
from m2dit_jax.models.wan.umt5 import Umt5


class WanStoryModel(StoryModel):
    """A UMT5 encoder, applied to each scene's prompt alone, and the transformer that reads it."""

    def __init__(
        self,
        text_encoder: TextEncoderConfig | None,
        transformer: WanConfig,
        *,
        rngs: nnx.Rngs,
    ):
        self.text_encoder = None if text_encoder is None else Umt5(text_encoder, rngs=rngs)
        self.transformer = WanTransformer(transformer, rngs=rngs)
