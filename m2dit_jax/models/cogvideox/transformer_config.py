"""The shape and the variants of the transformer."""

from dataclasses import dataclass
from typing import Any

from m2dit_jax.models.attention.dispatch import check_implementation
from m2dit_jax.models.cogvideox.grid import Grid
from m2dit_jax.models.cogvideox.rope import axis_dims
from m2dit_jax.models.flops import ForwardFlops, attention_pairs
from m2dit_jax.models.layout import Layout
from m2dit_jax.models.masks import block_masks, check_mask
from m2dit_jax.models.remat import check_remat


@dataclass(frozen=True)
class TransformerConfig:
    """Shape and variants of the transformer; names as in CogVideoX where it has them.

    `rotary` positions turn the video tokens' queries and keys; time runs on through the scenes.
    `added_positions` adds sines and cosines of a patch's place within its scene, so that it knows
    its frame and quarter before it has looked at anything. (What it brings beside rotary positions
    was not measured by itself.) `scene_positions` adds those of the number of a scene in its story
    to all its tokens, those of the text too: then attention can tell by itself whose text it sees,
    which under the full mask nothing else says.

    `base_grid` counts the patches (time, height, width) of a scene of the training videos. If there
    is one, both kinds of positions are fitted to it as in CogVideoX: 5B is rotary with a base, 1.5
    rotary without, 2B has added positions with a base, divided by the two scales.

    `remat` names what the backward pass keeps of a block (REMAT): `none` everything, `full` its
    input alone, `attention` the attention's outcome too, `matrices` the outputs of the linear
    layers too.

    `feed_forward_chunk` is the number of tokens at a time that go through a block's feed-forward,
    whose hidden features are the largest array of all; 0: all of them.

    The dtype of the computation is that of the parameters; softmax, rotation and the statistics of
    norms are in float32.
    """

    channels: int
    patch_size: int
    layers: int
    heads: int
    head_dim: int
    text_dim: int
    time_dim: int
    mask: str = "symmetric"
    attention: str = "grouped"
    patch_size_t: int = 1
    rotary: bool = True
    added_positions: bool = False
    scene_positions: bool = False
    base_grid: Grid | None = None
    spatial_scale: float = 1.0
    temporal_scale: float = 1.0
    norm_eps: float = 1e-5
    scan: bool = True
    remat: str = "none"
    feed_forward_chunk: int = 0

    def __post_init__(self) -> None:
        if self.rotary:
            axis_dims(self.head_dim)
        check_mask(self.mask)
        check_implementation(self.attention)
        check_remat(self.remat)

    @property
    def width(self) -> int:
        """Features of a token."""
        return self.heads * self.head_dim

    def forward_flops(self, layout: Layout) -> ForwardFlops:
        """Operations of the forward pass of one story; padding is not counted."""
        width, time_dim, scenes = self.width, self.time_dim, layout.scenes
        patch = self.channels * self.patch_size_t * self.patch_size**2
        video = layout.real_tokens - layout.text_tokens
        projections, feed_forward = 4 * width**2, 2 * 4 * width**2
        modulations = scenes * 2 * 6 * time_dim * width
        linear = layout.real_tokens * (projections + feed_forward) + modulations
        # The logits, and the values that they weigh.
        masks = block_masks(self.mask, self.layers)
        attention = sum(attention_pairs(layout, mask) for mask in masks) * 2 * width
        embeddings = (
            video * patch * width
            + layout.text_tokens * self.text_dim * width
            + scenes * (width * time_dim + time_dim**2)
        )
        head = scenes * time_dim * 2 * width + video * width * patch
        return ForwardFlops(2 * self.layers * linear, 2 * attention, 2 * (embeddings + head))

    def scene_tokens(self, frames: int, height: int, width: int) -> int:
        """Video tokens of a scene of so many latent frames, rows and columns."""
        patch = self.patch_size
        return frames // self.patch_size_t * (height // patch) * (width // patch)


def config_of_fields(
    hidden: int = 0, base_grid: tuple[int, ...] = (), **fields: Any
) -> TransformerConfig:
    """The transformer of a training config's fields.

    Raises ValueError for a `hidden` other than four times the width, for which 0 stands.
    """
    config = TransformerConfig(base_grid=base_grid or None, **fields)  # pyright: ignore
    if hidden not in (0, 4 * config.width):
        raise ValueError(
            f"config.model.hidden must be 0 or 4 x the width {config.width} in this family, got "
            f"{hidden}"
        )
    return config
