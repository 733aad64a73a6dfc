"""The sizes of the GPU check: the paper's, and tiny ones to try the check itself on a CPU."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Sizes:
    """Shapes of all parts of the check.

    `fields` change every full-size config (configs/pretrain_5b.py and finetune_2b.py). A training
    step of 5B does not fit one GPU: it is timed with `depths` layers, and drawn as a line to the
    config's. `text_encoder` are the fields of T5-XXL, `vae` those that differ from CogVideoX's
    config.json. `only_files` are the golden files of the parity check (None: all).
    """

    fields: Mapping[str, Any] = field(default_factory=dict)
    heads: int = 48
    head_dim: int = 64
    depths: tuple[int, int] = (3, 6)
    warmup: int = 1
    repeats: int = 5
    steps: int = 50
    text_encoder: Mapping[str, int] = field(
        default_factory=lambda: {
            "vocab_size": 32128,
            "d_model": 4096,
            "d_kv": 64,
            "d_ff": 10240,
            "num_layers": 24,
            "num_heads": 64,
        }
    )
    vae: Mapping[str, Any] = field(default_factory=dict)
    only_files: str | None = None
    base_fields: Mapping[str, Any] = field(default_factory=dict)


FULL = Sizes()
TINY = Sizes(
    fields={
        "data.frames": 5,
        "data.height": 32,
        "data.width": 48,
        "data.text_length": 8,
        "data.text_dim": 32,
        "model.layers": 2,
        "model.heads": 2,
        "model.head_dim": 16,
        "model.time_dim": 16,
        "model.base_grid": (2, 2, 3),
    },
    heads=2,
    head_dim=16,
    depths=(1, 2),
    repeats=2,
    text_encoder={
        "vocab_size": 64,
        "d_model": 32,
        "d_kv": 8,
        "d_ff": 64,
        "num_layers": 1,
        "num_heads": 4,
    },
    vae={"block_out_channels": (8, 8, 8, 8), "norm_num_groups": 4, "layers_per_block": 1},
    only_files="schedulers.npz",
    base_fields={
        "data.size": 8,
        "data.frames": 2,
        "data.scenes": 2,
        "model.patch_size": 4,
        "model.patch_size_t": 2,
        "model.layers": 1,
        "model.heads": 1,
        "model.head_dim": 16,
        "model.time_dim": 16,
        "train.steps": 4,
        "train.warmup_steps": 1,
        "train.batch_size": 4,
        "train.log_every": 2,
        "train.eval_every": 0,
        "train.eval_stories": 4,
        "sample.steps": 2,
    },
)
