"""A released model on disk: its configs, checked, and its networks, loaded one at a time."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from m2dit_jax.models.cogvideox.json_configs import (
    noise_schedule,
    sampler_name,
    text_encoder_config,
    transformer_config,
    vae_config,
)
from m2dit_jax.models.cogvideox.t5 import TextEncoder
from m2dit_jax.models.cogvideox.transformer import M2DiT, TransformerConfig
from m2dit_jax.models.cogvideox.vae import CausalVae
from m2dit_jax.models.network import LoadedNetwork
from m2dit_jax.parallel.rules import with_shardings
from m2dit_jax.weights.networks import NETWORKS, load_params, read_json

if TYPE_CHECKING:
    from transformers import T5Tokenizer

DTYPES = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(jnp.bfloat16)}


class ReleasedModel:
    """A folder in the layout of diffusers, as downloaded or as converted to Orbax.

    The constructor reads and checks all configs and touches no weights. Raises ValueError, naming
    the file, for what is missing or describes a model that does not exist here.
    """

    def __init__(self, path: Path):
        self.path = path
        if not path.is_dir():
            raise ValueError(f"{path}: no such folder")
        transformer = read_json(path / "transformer/config.json")
        scheduler = read_json(path / "scheduler/scheduler_config.json")
        try:
            self.transformer_config = transformer_config(transformer)
            self.text_encoder_config = text_encoder_config(
                read_json(path / "text_encoder/config.json")
            )
            self.vae_config = vae_config(read_json(path / "vae/config.json"))
            self.schedule = noise_schedule(scheduler)
            self.sampler = sampler_name(scheduler)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        self.text_length: int = transformer.get("max_text_seq_length", 226)
        self.frames: int = transformer.get("sample_frames", 49)
        side = self.vae_config.spatial_compression
        self.height: int = transformer.get("sample_height", 60) * side
        self.width: int = transformer.get("sample_width", 90) * side
        self._check_fit()

    def tokenizer(self) -> "T5Tokenizer":
        """T5's tokenizer. Raises ValueError if its files are missing or damaged."""
        os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
        from transformers import T5Tokenizer

        folder = self.path / "tokenizer"
        try:
            return T5Tokenizer.from_pretrained(str(folder), local_files_only=True)
        except Exception as error:  # transformers raises many kinds
            raise ValueError(f"{folder}: not a T5 tokenizer ({error})") from error

    def text_encoder(self, dtype: str | None = None) -> LoadedNetwork:
        """The T5 encoder; `dtype` is one of DTYPES, None leaves the weights as they are."""
        config = self.text_encoder_config
        return _load(
            self.path / "text_encoder",
            "text_encoder",
            lambda: TextEncoder(config, rngs=nnx.Rngs(0)),
            dtype,
        )

    def transformer(
        self, dtype: str | None = None, scan: bool = True, mesh: Mesh | None = None
    ) -> LoadedNetwork:
        """The transformer; without `scan` its blocks are unrolled. It is cut over a mesh."""
        folder = self.path / "transformer"
        return load_transformer(folder, self.transformer_config, dtype, scan, mesh)

    def vae(self, dtype: str | None = None) -> LoadedNetwork:
        """The VAE."""
        config = self.vae_config
        return _load(self.path / "vae", "vae", lambda: CausalVae(config, rngs=nnx.Rngs(0)), dtype)

    def latent_shape(self, frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        """Latent frames, rows, columns and channels of a scene of that many frames and pixels.

        Raises ValueError, with the nearest sizes that work, if the model cannot make such a scene.
        """
        config = self.transformer_config
        side = self.vae_config.spatial_compression
        ratio = self.vae_config.temporal_compression_ratio
        problems = []
        for name, value in (("height", height), ("width", width)):
            unit = side * config.patch_size
            if value < 1 or value % unit:
                problems.append(f"{name} {value} is not a multiple of {unit}, {_near(value, unit)}")
        # Latent frames come in patches of patch_size_t, and L of them are ratio (L - 1) + 1 frames.
        unit = ratio * config.patch_size_t
        offset = 1 + ratio * (config.patch_size_t - 1)
        most = None
        if config.added_positions and config.base_grid is not None:
            most = ratio * (config.base_grid[0] * config.patch_size_t - 1) + 1
        if most is not None and frames > most:
            problems.append(
                f"{frames} frames are more than the {most} per scene that the positions of this "
                "model reach"
            )
        elif frames < 1 or (frames - offset) % unit:
            near = _near(frames - offset, unit, offset)
            problems.append(f"{frames} frames are not {unit}k + {offset}, {near}")
        if problems:
            raise ValueError(f"{self.path}: " + "; ".join(problems))
        return (frames - 1) // ratio + 1, height // side, width // side, config.channels

    def _check_fit(self) -> None:
        """Raises ValueError if the networks do not fit each other."""
        pairs = {
            "text_embed_dim of transformer and d_model of text_encoder": (
                self.transformer_config.text_dim,
                self.text_encoder_config.d_model,
            ),
            "in_channels of transformer and latent_channels of vae": (
                self.transformer_config.channels,
                self.vae_config.latent_channels,
            ),
        }
        for what, (one, other) in pairs.items():
            if one != other:
                raise ValueError(f"{self.path}: {what} differ: {one} and {other}")


def load_transformer(
    path: Path,
    config: TransformerConfig,
    dtype: str | None = None,
    scan: bool = True,
    mesh: Mesh | None = None,
) -> LoadedNetwork:
    """The transformer in a folder of its own; without `scan` its blocks are unrolled.

    With a mesh it is cut by `parallel.rules`.
    """
    config = replace(config, scan=scan, attention="auto")
    return _load(path, "transformer", lambda: M2DiT(config, rngs=nnx.Rngs(0)), dtype, mesh)


def _load(
    path: Path,
    network: str,
    make: Callable[[], nnx.Module],
    dtype: str | None,
    mesh: Mesh | None = None,
) -> LoadedNetwork:
    graphdef, state = nnx.split(nnx.eval_shape(make))
    cast = None if dtype is None else DTYPES[dtype]
    abstract = nnx.to_pure_dict(state)
    if mesh is not None:
        abstract = with_shardings(abstract, mesh)
    params = load_params(path, NETWORKS[network], abstract, cast)
    return LoadedNetwork(graphdef, params)


def _near(value: int, unit: int, offset: int = 0) -> str:
    """The nearest numbers below and above that are unit k + offset."""
    below = max(value // unit, 1 if offset == 0 else 0) * unit
    return f"the nearest are {below + offset} and {below + unit + offset}"
