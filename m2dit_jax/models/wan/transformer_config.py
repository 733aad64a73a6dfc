"""The shape of a Wan transformer, and the choices that change nothing about its weights."""

from dataclasses import dataclass
from typing import Any

from m2dit_jax.models.attention.dispatch import check_implementation
from m2dit_jax.models.flops import ForwardFlops, attention_pairs
from m2dit_jax.models.layout import Layout
from m2dit_jax.models.masks import block_masks, check_mask
from m2dit_jax.models.remat import check_remat
from m2dit_jax.models.wan.rope import axis_dims


@dataclass(frozen=True)
class WanConfig:
    """Shape and choices; a token is a patch of `patch_size_t` frames, `patch_size` rows, columns.

    `hidden` are the features within the feed-forward layers, `time_dim` those of a timestep before
    they are embedded. Without `cross_norm` the cross-attention's queries come from tokens that are
    not normalised.

    `mask` decides who sees whom in both attentions: `models.masks` draws it with text and video in
    one sequence; here video sees the text of the table's columns by cross-attention, the video by
    self-attention, and text sees nothing.

    `remat` names what the backward pass keeps of a block (`models.remat.REMAT`).

    The dtype of the computation is that of the parameters; softmax, rotation, norms, and all that
    has to do with timesteps are in float32.
    """

    channels: int
    patch_size: int
    layers: int
    heads: int
    head_dim: int
    hidden: int
    text_dim: int
    time_dim: int = 256
    patch_size_t: int = 1
    cross_norm: bool = True
    norm_eps: float = 1e-6
    mask: str = "symmetric"
    attention: str = "grouped"
    scan: bool = True
    remat: str = "none"

    def __post_init__(self) -> None:
        axis_dims(self.head_dim)
        check_mask(self.mask)
        check_implementation(self.attention)
        check_remat(self.remat)

    @property
    def width(self) -> int:
        """Features of a token."""
        return self.heads * self.head_dim

    @property
    def patch_values(self) -> int:
        """Values of a patch of latents."""
        return self.channels * self.patch_size_t * self.patch_size**2

    def scene_tokens(self, frames: int, height: int, width: int) -> int:
        """Video tokens of a scene of so many latent frames, rows and columns."""
        patch = self.patch_size
        return frames // self.patch_size_t * (height // patch) * (width // patch)

    def forward_flops(self, layout: Layout) -> ForwardFlops:
        """Operations of the forward pass of one story; padding is not counted.

        `layout` is that of text and video, as if they were one sequence.
        """
        width, text, scenes = self.width, layout.text_tokens, layout.scenes
        video = layout.real_tokens - text
        of_video = 6 * width**2 + 2 * width * self.hidden  # 4 of self-attention, 2 of the other
        linear = video * of_video + text * 2 * width**2
        masks = block_masks(self.mask, self.layers)
        pairs = sum(attention_pairs(layout, mask, video_asks=True) for mask in masks)
        rest = (
            2 * video * self.patch_values * width
            + text * (self.text_dim * width + width**2)
            + scenes * (self.time_dim * width + 7 * width**2)
        )
        return ForwardFlops(2 * self.layers * linear, 2 * pairs * 2 * width, 2 * rest)


def config_of_fields(
    hidden: int = 0,
    rotary: bool = True,
    added_positions: bool = False,
    scene_positions: bool = False,
    base_grid: tuple[int, ...] = (),
    spatial_scale: float = 1.0,
    **fields: Any,
) -> WanConfig:
    """The transformer of a training config's fields; a `hidden` of 0 is four times the width.

    Raises ValueError for positions that this family does not have.
    """
    wrong = {
        "rotary": not rotary,
        "added_positions": added_positions,
        "scene_positions": scene_positions,
        "base_grid": bool(base_grid),
        "spatial_scale": spatial_scale != 1.0,
    }
    if any(wrong.values()):
        names = ", ".join(f"config.model.{name}" for name, found in wrong.items() if found)
        raise ValueError(
            "the family wan has rotary positions 0, 1, 2, ... and no others: needs "
            "config.model.rotary True, added_positions and scene_positions False, base_grid (), "
            f"spatial_scale 1.0; wrong: {names}"
        )
    width = fields["heads"] * fields["head_dim"]
    return WanConfig(hidden=hidden or 4 * width, **fields)


# Fields that no config.json has.
CHOICES = ("mask", "attention", "scan", "remat")
