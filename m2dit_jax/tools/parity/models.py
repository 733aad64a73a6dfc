"""The networks of a golden set, each loaded once and in its own dtype, which is float32."""

import re
from functools import cached_property
from pathlib import Path
from typing import Any

from flax import nnx

from m2dit_jax.models.cogvideox.t5 import TextEncoder
from m2dit_jax.models.families import family_of
from m2dit_jax.models.network import LoadedNetwork
from m2dit_jax.weights.networks import read_config
from m2dit_jax.weights.released import ReleasedModel, load_transformer


class ReferenceTransformer:
    """A transformer in a folder of its own, with its config as JSON."""

    def __init__(self, path: Path):
        self.path = path
        self.json = read_config(path)
        self.family = family_of(self.json)
        self.config = self.family.transformer.config(self.json)

    @cached_property
    def network(self) -> LoadedNetwork:
        """Unrolled, so that its intermediates can be seen."""
        return load_transformer(self.path, self.family, self.config, scan=False)

    @cached_property
    def model(self) -> Any:
        """The module."""
        return nnx.merge(*self.network)

    @property
    def text_length(self) -> int:
        """Text tokens per scene."""
        return self.json.get("max_text_seq_length", 226)


class ReferencePipeline:
    """A complete model folder."""

    def __init__(self, path: Path):
        self.folder = ReleasedModel(path)
        self.transformer = ReferenceTransformer(path / "transformer")

    @cached_property
    def tokenizer(self):
        """The tokenizer, for any length."""
        return self.folder.tokenizer()

    @cached_property
    def text_encoder(self) -> LoadedNetwork:
        """The text encoder's parameters; see `text_model`."""
        return self.folder.text_encoder()

    @cached_property
    def text_model(self) -> TextEncoder:
        """The text encoder as a module."""
        return nnx.merge(*self.text_encoder)

    @cached_property
    def vae(self) -> Any:
        """The VAE as a module."""
        return nnx.merge(*self.folder.vae())


class ReferenceModels:
    """Finds the model that made a golden file by the file's name."""

    def __init__(self, root: Path):
        self.root = root
        self._pipelines: dict[str, ReferencePipeline] = {}
        self._transformers: dict[str, ReferenceTransformer] = {}

    def pipeline_names(self) -> list[str]:
        """The names of the folders `pipe_*`."""
        return sorted(path.name.removeprefix("pipe_") for path in self.root.glob("pipe_*"))

    def pipeline(self, name: str) -> ReferencePipeline:
        """The model folder `pipe_{name}`."""
        if name not in self._pipelines:
            self._pipelines[name] = ReferencePipeline(self.root / f"pipe_{name}")
        return self._pipelines[name]

    def main_pipeline(self) -> ReferencePipeline:
        """The model of the files that name none: 5b, or where there is none the first."""
        names = self.pipeline_names()
        if not names:
            raise ValueError(f"{self.root} has no folder pipe_*")
        return self.pipeline("5b" if "5b" in names else names[0])

    def pipeline_of(self, case: str) -> ReferencePipeline:
        """The model folder whose name is in a file's name, such as 5b in extend_5b_dyncfg."""
        return self.pipeline(self._named(case, self.pipeline_names()))

    def transformer_of(self, case: str) -> ReferenceTransformer:
        """Likewise for transformers, which can also stand alone, as `transformer_{name}`."""
        alone = {
            path.name.removeprefix("transformer_"): path for path in self.root.glob("transformer_*")
        }
        name = self._named(case, [*alone, *self.pipeline_names()])
        if name not in alone:
            return self.pipeline(name).transformer
        if name not in self._transformers:
            self._transformers[name] = ReferenceTransformer(alone[name])
        return self._transformers[name]

    def _named(self, case: str, names: list[str]) -> str:
        """The longest name that is in the case's; if none is, one whose first part is there."""
        found = [n for n in names if _is_part(n, case)]
        found = found or [n for n in names if _is_part(n.split("_")[0], case)]
        if not found:
            there = f"there are {', '.join(names)}" if names else "there are none"
            raise ValueError(f"no model folder belongs to {case}; {there}")
        return max(found, key=len)


def _is_part(name: str, case: str) -> bool:
    return re.search(rf"(^|_){re.escape(name)}(_|$)", case) is not None
