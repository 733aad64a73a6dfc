"""Where the tokens of a storyboard lie in the joint sequence."""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int


@dataclass(frozen=True)
class Layout:
    """Token counts of a storyboard: `scenes` scenes of `text` text and `video` video tokens each.

    The joint sequence is [text_1 .. text_S, video_1 .. video_S] (the reference's order).
    """

    scenes: int
    text: int
    video: int

    def __post_init__(self) -> None:
        for name in ("scenes", "text", "video"):
            if getattr(self, name) < 1:
                raise ValueError(f"Layout.{name} must be at least 1, got {getattr(self, name)}")

    @property
    def text_tokens(self) -> int:
        """Text tokens of all scenes; the video tokens begin at this index."""
        return self.scenes * self.text

    @property
    def tokens(self) -> int:
        """Length L of the joint sequence."""
        return self.scenes * (self.text + self.video)

    def scene_ids(self) -> Int[np.ndarray, " L"]:
        """The scene that each token of the joint sequence belongs to."""
        scenes = np.arange(self.scenes)
        return np.concatenate([np.repeat(scenes, self.text), np.repeat(scenes, self.video)])

    def is_text(self) -> np.ndarray:
        """True for the text tokens of the joint sequence, shape [L]."""
        return np.arange(self.tokens) < self.text_tokens

    def join(
        self, text: Float[Array, "B S T *rest"], video: Float[Array, "B S V *rest"]
    ) -> Float[Array, "B L *rest"]:
        """Per-scene text and video tokens, to the joint sequence."""
        rest = text.shape[3:]
        return jnp.concatenate(
            [
                text.reshape(text.shape[0], self.text_tokens, *rest),
                video.reshape(video.shape[0], self.scenes * self.video, *rest),
            ],
            axis=1,
        )

    def split(
        self, tokens: Float[Array, "B L *rest"]
    ) -> tuple[Float[Array, "B S T *rest"], Float[Array, "B S V *rest"]]:
        """The inverse of `join`."""
        batch, _, *rest = tokens.shape
        text, video = tokens[:, : self.text_tokens], tokens[:, self.text_tokens :]
        return (
            text.reshape(batch, self.scenes, self.text, *rest),
            video.reshape(batch, self.scenes, self.video, *rest),
        )

    def spread(
        self, text: Float[Array, "B S D"], video: Float[Array, "B S D"]
    ) -> Float[Array, "B L D"]:
        """One vector per scene and kind, given to every token of that scene and kind."""
        batch, _, width = text.shape
        return self.join(
            jnp.broadcast_to(text[:, :, None], (batch, self.scenes, self.text, width)),
            jnp.broadcast_to(video[:, :, None], (batch, self.scenes, self.video, width)),
        )
