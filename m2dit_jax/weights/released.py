"""A released model on disk: its configs, checked, and its networks, loaded one at a time."""

from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from m2dit_jax.diffusion.noising import Schedule
from m2dit_jax.diffusion.samplers import Sampler
from m2dit_jax.models.families import family_of
from m2dit_jax.models.family import SECOND, Family, LatentShape, NetworkSpec, with_chunks
from m2dit_jax.models.network import LoadedNetwork
from m2dit_jax.parallel.rules import with_shardings
from m2dit_jax.utils import digests
from m2dit_jax.weights.mapping import Tree
from m2dit_jax.weights.model_folder import boundary_ratio, check_known, read_index
from m2dit_jax.weights.networks import (
    load_params,
    open_leaves,
    read_json,
    read_json_as,
)
from m2dit_jax.weights.tokenizers import load_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

DTYPES = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(jnp.bfloat16)}


@dataclass(frozen=True)
class Precision:
    """The numbers that networks are made of: a dtype of DTYPES, and a form of `quantized.FORMS`.

    The form, if there is one, is that of most matrices of the transformer and the text encoder.
    """

    dtype: str
    quantize: str | None = None

    def __str__(self) -> str:
        return self.dtype if self.quantize is None else f"{self.dtype} {self.quantize}"


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
        transformer = path / "transformer/config.json"
        scheduler = path / "scheduler/scheduler_config.json"
        self.family = family = read_json_as(family_of, transformer)
        self.transformer_config = read_json_as(family.transformer.config, transformer)
        self.text_encoder_config = read_json_as(
            family.text_encoder.config, path / "text_encoder/config.json"
        )
        self.vae_config = read_json_as(family.vae.config, path / "vae/config.json")
        self.schedule: Schedule = read_json_as(family.schedule, scheduler)
        self.sampler: Sampler = read_json_as(family.sampler, scheduler)
        check_known(path)
        try:
            self.has_second = self._read_boundary()
            family.check_fit(self.transformer_config, self.text_encoder_config, self.vae_config)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        self.clean_first_frame = read_index(path).get(family.first_frame_field) is True
        json = read_json(transformer)
        size = family.scene_size(json, self.vae_config)
        self.text_length, self.frames, self.height, self.width = size
        self.sampling = family.sampling(json, self.vae_config, self.has_second)

    @property
    def network_names(self) -> tuple[str, ...]:
        """The folders of its networks."""
        return (*self.family.networks, *[SECOND] * self.has_second)

    def check_weights(self, names: Collection[str] = ()) -> None:
        """Opens the files of these networks, by default of all, and reads no numbers.

        Raises ValueError, a line for each network, for files that are missing, damaged or of
        another network: before a first one is at work for minutes.
        """
        problems = []
        for name in names or self.network_names:
            try:
                open_leaves(self.path / name, *self._network(name))
            except ValueError as error:
                problems.append(str(error))
        if problems:
            raise ValueError("\n".join(problems))

    def cast_dtype(self, names: Collection[str]) -> str | None:
        """The dtype, of DTYPES, that networks are cast to where none is asked for.

        None leaves them as they are stored. float16 is cast to `default_dtype()`: CPUs do not
        multiply it, and T5 overflows in it. Raises ValueError as `check_weights` does.
        """
        for name in names:
            leaves = open_leaves(self.path / name, *self._network(name))
            if any(leaf.dtype == np.float16 for leaf in leaves.values()):
                return default_dtype()
        return None

    def tokenizer(self) -> "PreTrainedTokenizerBase":
        """The family's tokenizer. Raises ValueError if its files are missing or damaged."""
        return load_tokenizer(
            self.path / "tokenizer", self.family, self.text_encoder_config.vocab_size
        )

    def text_encoder(self, dtype: str | None = None, quantize: str | None = None) -> LoadedNetwork:
        """The text encoder; `dtype` is one of DTYPES, None as `cast_dtype` says."""
        dtype = dtype or self.cast_dtype(["text_encoder"])
        folder = self.path / "text_encoder"
        config = self.text_encoder_config
        return _load(folder, self.family.text_encoder, config, dtype, quantize=quantize)

    def transformer(
        self,
        dtype: str | None = None,
        scan: bool = True,
        mesh: Mesh | None = None,
        quantize: str | None = None,
        on_host: bool = False,
        in_chunks: bool = False,
        name: str = "transformer",
    ) -> LoadedNetwork:
        """The transformer; without `scan` its blocks are unrolled. It is sharded over a mesh.

        `quantize` is one of `quantized.FORMS`; `on_host` has the parameters be NumPy arrays.
        `in_chunks` saves activations (`family.with_chunks`). `name` is its folder.
        """
        dtype = dtype or self.cast_dtype([name])
        config = replace(self.transformer_config, scan=scan, attention="auto")
        config = with_chunks(config) if in_chunks else config
        folder = self.path / name
        return _load(folder, self.family.transformer, config, dtype, mesh, quantize, on_host)

    def vae(self, dtype: str | None = None) -> LoadedNetwork:
        """The VAE."""
        dtype = dtype or self.cast_dtype(["vae"])
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

    def _read_boundary(self) -> bool:
        """Whether there is a second transformer; the schedule learns which steps it takes.

        Raises ValueError if that is of another shape than the first.
        """
        boundary = boundary_ratio(self.path, self.family)
        if not boundary:
            return False
        second = self.path / SECOND / "config.json"
        if read_json_as(self.family.transformer.config, second) != self.transformer_config:
            raise ValueError(f"{second} describes another network than that of transformer/")
        self.schedule = replace(cast(Any, self.schedule), boundary=boundary)
        return True

    def _network(self, name: str) -> tuple[NetworkSpec, Tree]:
        """A network with the shapes of its parameters."""
        network = self.family.network(name)
        return network, read_json_as(network.abstract, self.path / name / "config.json")


def default_dtype(platform: str | None = None) -> str:
    """The dtype of networks on a platform, by default jax's own.

    CPUs multiply bfloat16 as float32, after a cast.
    """
    return "float32" if (platform or jax.default_backend()) == "cpu" else "bfloat16"


def load_transformer(
    path: Path, family: Family, config: Any, dtype: str | None = None, scan: bool = True
) -> LoadedNetwork:
    """The transformer in a folder of its own; without `scan` its blocks are unrolled."""
    config = replace(config, scan=scan, attention="auto")
    return _load(path, family.transformer, config, dtype)


def _load(
    path: Path,
    network: NetworkSpec,
    config: Any,
    dtype: str | None,
    mesh: Mesh | None = None,
    quantize: str | None = None,
    on_host: bool = False,
) -> LoadedNetwork:
    graphdef, abstract = network.shapes(config, quantize)
    if mesh is not None:
        abstract = with_shardings(abstract, mesh)
    cast = None if dtype is None else DTYPES[dtype]
    params = load_params(path, network, abstract, cast, quantize, on_host)
    return LoadedNetwork(graphdef, params)
