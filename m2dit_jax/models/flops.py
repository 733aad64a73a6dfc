"""Floating-point operations of the models in closed form; a product and its sum count as two.

Only products of matrices are counted, and of attention the pairs that the mask allows. What a
training step computes again is counted apart: it was asked for (remat, attention kernel), but it
is not the model's.
"""

from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import numpy as np

from m2dit_jax.models.layout import Layout
from m2dit_jax.models.masks import base_mask, key_runs, segment_table

# The forward attention that the backward pass of an implementation does again on top of the
# gradients (twice the forward), as a share of it, beside what remat asks for. Of two products a
# flash kernel repeats the logits; splash repeats logits in both of its kernels and the gradient of
# the weights once; `chunked` repeats the chunk.
REPEATED = {
    "dense": 0.0,
    "grouped": 0.0,
    "by_head": 0.5,
    "chunked": 1.0,
    "cudnn": 0.5,
    "splash": 1.5,
}
# A training step's products: the forward pass, the gradients of the inputs, those of the weights.
TRAINING_FACTOR = 3


@runtime_checkable
class TextEncoderSizes(Protocol):
    """The sizes of a T5 encoder, named as there."""

    @property
    def d_model(self) -> int: ...
    @property
    def d_kv(self) -> int: ...
    @property
    def d_ff(self) -> int: ...
    @property
    def num_layers(self) -> int: ...
    @property
    def num_heads(self) -> int: ...


@dataclass(frozen=True)
class ForwardFlops:
    """Operations of the forward pass of one story: linear layers of the blocks, attention, rest."""

    linear: int
    attention: int
    rest: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.linear + self.attention + self.rest


@runtime_checkable
class TransformerSizes(Protocol):
    """A transformer's config, which knows what a forward pass takes."""

    @property
    def layers(self) -> int: ...
    @property
    def width(self) -> int: ...
    def forward_flops(self, layout: Layout) -> ForwardFlops: ...


def attention_pairs(layout: Layout, mask: str, video_asks: bool = False) -> int:
    """Pairs of a query and a key that it may see (`models.masks.scene_mask`), in one block.

    With `video_asks` alone those whose query is of video. Padding, which sees only itself, is left
    out. For the causal mask they are the symmetric one's: that is what is computed without a cache.
    Raises ValueError as `segment_table` does.
    """
    first = layout.scenes if video_asks else 0
    table = np.asarray(segment_table(layout, base_mask(mask)))[first:-1, :-1]
    keys = np.array(key_runs(layout, mask).lengths[:-1])
    return int(np.array(layout.segment_lengths[first:-1]) @ table @ keys)


def forward_flops(config: TransformerSizes, layout: Layout) -> ForwardFlops:
    """Operations of the forward pass of one story; padding is not counted."""
    return config.forward_flops(layout)


def generated_flops(config: TransformerSizes, layout: Layout, given: int) -> ForwardFlops:
    """Operations of the forward pass of a story's generated scenes, `given` others being cached.

    The mask is the causal one. Raises ValueError unless all scenes are of equal length and some are
    given, but not all.
    """
    new = layout.scenes - given
    if not layout.equal_scenes or given < 1 or new < 1:
        raise ValueError(
            f"a cache is for 1 to {layout.scenes - 1} given scenes of {layout.scenes} of equal "
            f"length, got {given} given of {layout.video_counts} video tokens"
        )
    alone = forward_flops(config, Layout(new, layout.text, layout.video))
    video = layout.video_counts[0]
    to_cached = new * video * given * video * 2 * config.width
    return replace(alone, attention=alone.attention + 2 * config.layers * to_cached)


def repeated_flops(forward: ForwardFlops, remat: str, attention: str) -> int:
    """Operations that the backward pass of one story repeats, for a named remat and attention.

    Raises ValueError for a remat that is not known here.
    """
    by_remat = {
        "none": 0,
        "full": forward.linear + forward.attention,
        "attention": forward.linear,
        "matrices": forward.attention,
    }
    if remat not in by_remat:
        raise ValueError(f"unknown remat {remat!r}; there are {', '.join(by_remat)}")
    return by_remat[remat] + int(REPEATED[attention] * forward.attention)


def text_encoder_flops(text_encoder: TextEncoderSizes, prompts: int, length: int) -> int:
    """Operations of the forward pass of the model's own T5 v1.1 encoder."""
    width, inner = text_encoder.d_model, text_encoder.num_heads * text_encoder.d_kv
    per_token = 4 * width * inner + 3 * width * text_encoder.d_ff
    layer = length * per_token + length**2 * 2 * inner
    return 2 * prompts * text_encoder.num_layers * layer


def training_flops(
    config: TransformerSizes,
    layout: Layout,
    text_encoder: TextEncoderSizes | None,
    evaluations: int = 0,
) -> int:
    """Operations of a training step for each story, without what the backward pass repeats.

    `text_encoder` is that of the model; None: prompts were encoded before. `evaluations` are
    forward passes besides, of which no gradient is taken.
    """
    forward = forward_flops(config, layout).total
    if text_encoder is not None:
        forward += text_encoder_flops(text_encoder, layout.scenes, layout.text)
    return (TRAINING_FACTOR + evaluations) * forward
