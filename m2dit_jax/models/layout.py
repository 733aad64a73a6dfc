"""Where the tokens of a storyboard lie in the joint sequence."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int


@dataclass(frozen=True)
class Layout:
    """Token counts of a storyboard: `scenes` scenes of `text` text and `video` video tokens each.

    The joint sequence is [text_1 .. text_S, video_1 .. video_S, padding], the reference's order.
    Of a model whose text is no part of the sequence (cross-attention) `text` is 0.
    Scenes of different lengths have a tuple `video`, one count for each scene. `padding` tokens
    belong to no scene; they make the sequence divide over devices.

    `frame` counts the video tokens of a frame, for masks by which scenes see single frames of each
    other; 0: it is not known.

    With `global_text` the first of the `scenes` is none: it has the text that all scenes see, and
    no video.

    The 2*S runs of tokens of one scene and kind are called segments: text of scene 0, 1, ..., then
    video of scene 0, 1, ...; the padding is segment 2*S.
    """

    scenes: int
    text: int
    video: int | tuple[int, ...]
    padding: int = 0
    global_text: bool = False
    frame: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.video, tuple):
            if len(self.video) != self.scenes:
                raise ValueError(
                    f"Layout.video has {len(self.video)} counts for {self.scenes} scenes: "
                    f"{self.video}"
                )
            # One way to say it, so that equal layouts compare equal and take the faster paths.
            if len(set(self.video)) == 1:
                object.__setattr__(self, "video", self.video[0])
        least = {"scenes": 1, "text": 0, "padding": 0, "frame": 0}
        for name, lowest in least.items():
            if getattr(self, name) < lowest:
                raise ValueError(
                    f"Layout.{name} must be at least {lowest}, got {getattr(self, name)}"
                )
        counts = self.video_counts
        if self.global_text and (counts[0] or self.scenes < 2):
            raise ValueError(
                f"Layout.video must be 0 for the global text, before that of scenes, got {counts}"
            )
        if min(counts[1:] if self.global_text else counts) < 1:
            raise ValueError(f"Layout.video must be at least 1, got {self.video}")
        if self.frame and any(count % self.frame for count in counts):
            raise ValueError(
                f"Layout.video must be whole frames of {self.frame} tokens, got {self.video}"
            )

    @property
    def video_counts(self) -> tuple[int, ...]:
        """Video tokens of each scene."""
        return self.video if isinstance(self.video, tuple) else (self.video,) * self.scenes

    @property
    def equal_scenes(self) -> bool:
        """Whether all scenes have the same number of video tokens."""
        return isinstance(self.video, int)

    @property
    def text_tokens(self) -> int:
        """Text tokens of all scenes; the video tokens begin at this index."""
        return self.scenes * self.text

    @property
    def real_tokens(self) -> int:
        """Tokens of all scenes; the padding begins at this index."""
        return self.text_tokens + sum(self.video_counts)

    @property
    def tokens(self) -> int:
        """Length L of the joint sequence, with the padding."""
        return self.real_tokens + self.padding

    @property
    def segment_lengths(self) -> tuple[int, ...]:
        """Tokens of each of the 2*S segments, and of the padding."""
        return (*(self.text,) * self.scenes, *self.video_counts, self.padding)

    @property
    def segment_starts(self) -> tuple[int, ...]:
        """First index of each of the 2*S segments and of the padding."""
        return tuple(accumulate(self.segment_lengths[:-1], initial=0))

    def share(self, parts: int) -> "Layout":
        """The layout of one of so many equal parts of every segment, rounded up to whole tokens.

        Its frames are not known.
        """
        text, padding, *video = (
            -(-n // parts) for n in (self.text, self.padding, *self.video_counts)
        )
        return replace(self, text=text, video=tuple(video), padding=padding, frame=0)

    def segment_scenes(self) -> Int[np.ndarray, " segments"]:
        """The scene of each of the 2*S segments; -1 for the padding."""
        return np.array([*range(self.scenes)] * 2 + [-1])

    def segments(self) -> Int[np.ndarray, " L"]:
        """The segment of each token of the joint sequence."""
        return np.repeat(np.arange(2 * self.scenes + 1), self.segment_lengths)

    def table_rows(self) -> Int[np.ndarray, " L"]:
        """The row of each token in a table of 2*S rows: text scenes, then video scenes.

        Padding gets the last row, any being as good.
        """
        return np.minimum(self.segments(), 2 * self.scenes - 1)

    def scene_ids(self) -> Int[np.ndarray, " L"]:
        """The scene that each token of the joint sequence belongs to; -1 for padding."""
        return np.repeat(self.segment_scenes(), self.segment_lengths)

    def text_slice(self, scene: int) -> slice:
        """The place of a scene's text tokens in the joint sequence."""
        return slice(*self.segment_starts[scene : scene + 2])

    def video_slice(self, scene: int) -> slice:
        """The place of a scene's video tokens in the joint sequence."""
        return slice(*self.segment_starts[self.scenes + scene : self.scenes + scene + 2])

    def join(
        self, text: Float[Array, "B S T *rest"], video: Float[Array, "B S V *rest"]
    ) -> Float[Array, "B L *rest"]:
        """Text and video tokens of scenes of equal length, to the joint sequence.

        Padding becomes zeros. Raises ValueError if the layout's scenes are of unequal length.
        """
        self._check_equal_scenes("join")
        rest = text.shape[3:]
        return self._pad_end(
            [
                text.reshape(text.shape[0], self.text_tokens, *rest),
                video.reshape(video.shape[0], self.real_tokens - self.text_tokens, *rest),
            ]
        )

    def split(
        self, tokens: Float[Array, "B L *rest"]
    ) -> tuple[Float[Array, "B S T *rest"], Float[Array, "B S V *rest"]]:
        """The inverse of `join`; drops the padding."""
        self._check_equal_scenes("split")
        batch, _, *rest = tokens.shape
        text = tokens[:, : self.text_tokens]
        video = tokens[:, self.text_tokens : self.real_tokens]
        return (
            text.reshape(batch, self.scenes, self.text, *rest),
            video.reshape(batch, self.scenes, self.video, *rest),
        )

    def join_scenes(
        self,
        text: Sequence[Float[Array, "B T *rest"]],
        video: Sequence[Float[Array, "B _ *rest"]],
    ) -> Float[Array, "B L *rest"]:
        """Text and video tokens of each scene, of any lengths, to the joint sequence."""
        return self._pad_end([*text, *video])

    def split_scenes(
        self, tokens: Float[Array, "B L *rest"]
    ) -> tuple[list[Float[Array, "B T *rest"]], list[Float[Array, "B _ *rest"]]]:
        """The inverse of `join_scenes`; drops the padding."""
        return (
            [tokens[:, self.text_slice(scene)] for scene in range(self.scenes)],
            [tokens[:, self.video_slice(scene)] for scene in range(self.scenes)],
        )

    def spread(
        self, text: Float[Array, "B S D"], video: Float[Array, "B S D"]
    ) -> Float[Array, "B L D"]:
        """One vector per scene and kind, given to every token of that scene and kind.

        What padding gets is not defined.
        """
        if not self.equal_scenes:
            return jnp.concatenate([text, video], axis=1)[:, self.table_rows()]
        batch, _, width = text.shape
        return self.join(
            jnp.broadcast_to(text[:, :, None], (batch, self.scenes, self.text, width)),
            jnp.broadcast_to(video[:, :, None], (batch, self.scenes, self.video, width)),
        )

    def _check_equal_scenes(self, method: str) -> None:
        if not self.equal_scenes:
            raise ValueError(
                f"Layout.{method} needs scenes of equal length, got {self.video} video tokens: "
                f"use {method}_scenes"
            )

    def _pad_end(self, parts: list[Array]) -> Array:
        if self.padding:
            batch, _, *rest = parts[0].shape
            parts = [*parts, jnp.zeros((batch, self.padding, *rest), parts[0].dtype)]
        return jnp.concatenate(parts, axis=1)


def check_texts(scenes: int, texts: int) -> None:
    """Raises ValueError unless there is a text for each scene, and perhaps a global one."""
    if texts not in (scenes, scenes + 1):
        raise ValueError(
            f"{scenes} scenes need a text each, and perhaps a global one, found {texts} texts"
        )
