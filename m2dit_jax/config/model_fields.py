"""The fields of `config.model` and `config.text_encoder`."""

from dataclasses import dataclass

from m2dit_jax.config.bounds import (
    MAX_HEADS,
    MAX_LAYERS,
    MAX_WIDTH,
)
from m2dit_jax.config.fields import FREE, setting
from m2dit_jax.models.attention.dispatch import CHOICES as ATTENTION
from m2dit_jax.models.families import DEFAULT
from m2dit_jax.models.families import NAMES as FAMILY_NAMES
from m2dit_jax.models.masks import MASKS
from m2dit_jax.models.remat import REMAT
from m2dit_jax.utils.options import (
    MAX_FRAMES,
    MAX_SIDE,
)


@dataclass(frozen=True)
class TextEncoderSettings:
    """The text encoder that is part of the model, a T5 v1.1; sizes are named as there."""

    d_model: int = setting("Width of the text embeddings.", at_least=1, at_most=MAX_WIDTH)
    d_kv: int = setting("Width of an attention head.", at_least=1, at_most=MAX_WIDTH)
    d_ff: int = setting("Width of the gated feed-forward layer.", at_least=1, at_most=MAX_WIDTH)
    num_layers: int = setting("Number of layers.", at_least=1, at_most=MAX_LAYERS)
    num_heads: int = setting("Number of attention heads.", at_least=1, at_most=MAX_HEADS)
    trained: bool = setting("False leaves the random initialisation as it is.")


@dataclass(frozen=True)
class ModelConfig:
    """The diffusion transformer."""

    family: str = setting(
        "Family of models that it is of.",
        choices=FAMILY_NAMES,
        absent=DEFAULT.name,
    )
    patch_size: int = setting(
        "Pixels or latents on each side of a patch.", at_least=1, at_most=MAX_SIDE
    )
    patch_size_t: int = setting(
        "Frames or latent frames in a patch.", at_least=1, at_most=MAX_FRAMES
    )
    layers: int = setting("Transformer blocks.", at_least=1, at_most=MAX_LAYERS)
    heads: int = setting(
        "Attention heads; the width of the model is heads x head_dim.",
        at_least=1,
        at_most=MAX_HEADS,
    )
    head_dim: int = setting(
        "Width of a head, a multiple of 16 if rotary.", at_least=16, at_most=4096
    )
    time_dim: int = setting(
        "Width of the time embedding; of Wan, sines and cosines of a timestep before that.",
        at_least=1,
        at_most=MAX_WIDTH,
    )
    hidden: int = setting(
        "Features within the feed-forward layers; 0: four times the width. Only Wan has others.",
        at_least=0,
        at_most=MAX_WIDTH,
        absent=0,
    )
    mask: str = setting(
        "Who sees whom: symmetric (the paper's), full, independent, first_frame and "
        "every_other_frame (of other scenes only these), opening_frame (of other scenes only the "
        "story's first frame), block_diagonal (so in the inner blocks, symmetric in the outer "
        "ones), or causal: as symmetric, but conditioning scenes do not see generated ones, so "
        "that extending a story computes them once.",
        choices=MASKS,
    )
    attention: str = setting(
        "Implementation: dense (the definition), grouped, by_head (CPU), chunked (bounded memory), "
        "splash (TPU), cudnn (NVIDIA, bfloat16), or auto: what suits device and size.",
        choices=ATTENTION,
        resume=FREE,
    )
    rotary: bool = setting("Rotary positions of the video tokens, running on through the scenes.")
    added_positions: bool = setting("Sines and cosines of a patch's place in its scene are added.")
    scene_positions: bool = setting(
        "Sines and cosines of a scene's number in its story are added to its video and its text, "
        "so that the full mask can tell whose text it sees.",
        absent=False,
    )
    base_grid: tuple[int, ...] = setting(
        "Patches (time, height, width) that positions are fitted to; (): none.",
        at_least=1,
        at_most=MAX_SIDE,
    )
    spatial_scale: float = setting(
        "Divides the rows and columns of added positions.", above=0, at_most=1e6
    )
    scan: bool = setting(
        "Blocks in a scan: all of them compile once, and on a CPU run half as fast.", resume=FREE
    )
    remat: str = setting(
        "What the backward pass keeps of a block, the rest being computed again: none (no remat, "
        "everything is kept), full (nothing is), attention (its outcome is), matrices (the linear "
        "layers' outputs are too).",
        choices=tuple(REMAT),
        resume=FREE,
    )

    def problems(self) -> list[str]:
        """The problems that the ranges of single fields do not show."""
        grid = self.base_grid
        if not grid or (len(grid) == 3 and min(grid) >= 1):
            return []
        return [
            "config.model.base_grid must be empty or three numbers above 0 (time, height, width), "
            f"got {grid}"
        ]
