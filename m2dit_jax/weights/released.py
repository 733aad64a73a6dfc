"""A released model on disk: its configs, checked, and its networks, loaded one at a time."""

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from m2dit_jax.diffusion.samplers import Sampler
from m2dit_jax.models.families import family_of
from m2dit_jax.models.family import Family, LatentShape, NetworkSpec
from m2dit_jax.models.network import LoadedNetwork
from m2dit_jax.parallel.rules import with_shardings
from m2dit_jax.utils import digests
from m2dit_jax.weights.networks import load_params, read_json

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

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
        digests.check(path)  # of what is not in the folders of networks: they have their own
        transformer = read_json(path / "transformer/config.json")
        scheduler = read_json(path / "scheduler/scheduler_config.json")
        try:
            self.family = family_of(transformer)
            self.transformer_config = self.family.transformer.config(transformer)
            self.text_encoder_config = self.family.text_encoder.config(
                read_json(path / "text_encoder/config.json")
            )
            self.vae_config = self.family.vae.config(read_json(path / "vae/config.json"))
            self.schedule = self.family.schedule(scheduler)
            self.sampler: Sampler = self.family.sampler(scheduler)
            self.family.check_fit(
                self.transformer_config, self.text_encoder_config, self.vae_config
            )
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        size = self.family.scene_size(transformer, self.vae_config)
        self.text_length, self.frames, self.height, self.width = size

    def tokenizer(self) -> "PreTrainedTokenizerBase":
        """The family's tokenizer. Raises ValueError if its files are missing or damaged."""
        os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
        import transformers

        folder, name = self.path / "tokenizer", self.family.tokenizer
        try:
            return getattr(transformers, name).from_pretrained(str(folder), local_files_only=True)
        except Exception as error:  # transformers raises many kinds
            kind = name.removesuffix("Tokenizer")
            raise ValueError(f"{folder}: not a {kind} tokenizer ({error})") from error

    def text_encoder(self, dtype: str | None = None) -> LoadedNetwork:
        """The text encoder; `dtype` is one of DTYPES, None leaves the weights as they are."""
        folder = self.path / "text_encoder"
        return _load(folder, self.family.text_encoder, self.text_encoder_config, dtype)

    def transformer(
        self, dtype: str | None = None, scan: bool = True, mesh: Mesh | None = None
    ) -> LoadedNetwork:
        """The transformer; without `scan` its blocks are unrolled. It is sharded over a mesh."""
        config = replace(self.transformer_config, scan=scan, attention="auto")
        return _load(self.path / "transformer", self.family.transformer, config, dtype, mesh)

    def vae(self, dtype: str | None = None) -> LoadedNetwork:
        """The VAE."""
        return _load(self.path / "vae", self.family.vae, self.vae_config, dtype)

    def latent_shape(self, frames: int, height: int, width: int) -> LatentShape:
        """The latents of a scene of that many frames and pixels.

        Raises ValueError, with the nearest sizes that work, if the model cannot make such a scene.
        """
        configs = self.transformer_config, self.vae_config
        try:
            return self.family.latent_shape(*configs, frames, height, width)
        except ValueError as error:
            raise ValueError(f"{self.path}: {error}") from error


def load_transformer(
    path: Path, family: Family, config: Any, dtype: str | None = None, scan: bool = True
) -> LoadedNetwork:
    """The transformer in a folder of its own; without `scan` its blocks are unrolled."""
    config = replace(config, scan=scan, attention="auto")
    return _load(path, family.transformer, config, dtype)


def _load(
    path: Path, network: NetworkSpec, config: Any, dtype: str | None, mesh: Mesh | None = None
) -> LoadedNetwork:
    graphdef, state = nnx.split(nnx.eval_shape(lambda: network.make(config, rngs=nnx.Rngs(0))))
    abstract = nnx.to_pure_dict(state)
    if mesh is not None:
        abstract = with_shardings(abstract, mesh)
    params = load_params(path, network, abstract, None if dtype is None else DTYPES[dtype])
    return LoadedNetwork(graphdef, params)
