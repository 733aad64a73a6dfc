"""The shape of a Wan transformer, and the choices that change nothing about its weights."""

from dataclasses import dataclass

from m2dit_jax.models.attention.dispatch import check_implementation
from m2dit_jax.models.masks import check_mask
from m2dit_jax.models.remat import REMAT
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
        if self.remat not in REMAT:
            raise ValueError(f"unknown remat {self.remat!r}; there are {', '.join(REMAT)}")

    @property
    def width(self) -> int:
        """Features of a token."""
        return self.heads * self.head_dim

    @property
    def patch_values(self) -> int:
        """Values of a patch of latents."""
        return self.channels * self.patch_size_t * self.patch_size**2


# Fields that no config.json has.
CHOICES = ("mask", "attention", "scan", "remat")
