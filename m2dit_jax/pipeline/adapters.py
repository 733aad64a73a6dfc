"""LoRA files added to the transformer of a pipeline when it is loaded."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np

from m2dit_jax.models.family import NetworkSpec
from m2dit_jax.models.lora import attach_adapters, merge_adapters
from m2dit_jax.models.network import LoadedNetwork
from m2dit_jax.models.quantized import is_quantized
from m2dit_jax.models.scene_lora import attach_to_scenes
from m2dit_jax.weights.lora_files import LoraChoice, lora_digest, read_lora
from m2dit_jax.weights.mapping import Part, expected_parts

Load = Callable[[], LoadedNetwork]


@dataclass(frozen=True)
class Adapters:
    """The adapters that are added, each with its weight; none is allowed."""

    trees: tuple[Any, ...] = ()
    choices: tuple[LoraChoice, ...] = ()

    @classmethod
    def read(
        cls,
        lora: Sequence[str],
        network: NetworkSpec,
        abstract: Any,
        window: tuple[int, ...] = (),
    ) -> "Adapters":
        """The files of FILE or FILE:WEIGHT for a transformer with the shapes `abstract`.

        `window` is that of its convolutions in PyTorch. Raises ValueError, naming the file, for
        what does not fit.
        """
        if not lora:
            return cls()
        choices = tuple(LoraChoice.parse(text) for text in lora)
        parts = expected_parts(network.rules, abstract, window)
        return cls(tuple(read_lora(choice, parts) for choice in choices), choices)

    @property
    def fingerprint(self) -> str:
        """The files' hashes and weights, "" without any: part of the keys of finished scenes."""
        return "".join(f" lora {lora_digest(choice)}" for choice in self.choices)

    @property
    def provenance(self) -> dict[str, Any]:
        """The paths and weights, for the record of a finished story."""
        if not self.choices:
            return {}
        return {
            "lora": [
                {"path": str(choice.file().absolute()), "weight": choice.weight}
                for choice in self.choices
            ]
        }

    def added_to(self, load: Load, beside: bool = False) -> Load:
        """The same transformer, with the adapters added when it is loaded.

        Beside matrices in 8 bits they stay as they are: added to these they would be rounded away.
        `beside` has them stay so in any case.
        """
        if not self.choices:
            return load

        def load_adapted() -> LoadedNetwork:
            network = load()
            weighted = [
                (tree, choice.weight) for tree, choice in zip(self.trees, self.choices, strict=True)
            ]
            if beside or is_quantized(network.params):
                return attach_adapters(network, weighted)
            params = network.params
            for tree, weight in weighted:
                params = jax.jit(partial(merge_adapters, scale=weight))(params, tree)
            return LoadedNetwork(network.graphdef, params)

        return load_adapted


NO_ADAPTERS = Adapters()


@dataclass(frozen=True)
class SceneAdapters:
    """Reads the adapters that single scenes ask for, for a transformer with these parts."""

    parts: Mapping[str, Part]

    def check(self, text: str) -> str:
        """The hash and weight of the file that FILE or FILE:WEIGHT names.

        Raises ValueError, naming the file, if it is none for this transformer.
        """
        choice = LoraChoice.parse(text)
        read_lora(choice, self.parts)
        return lora_digest(choice)

    def attach(self, network: LoadedNetwork, scenes: Sequence[Sequence[str]]) -> LoadedNetwork:
        """The network with the adapters that each of a story's texts asks for."""
        choices = [[LoraChoice.parse(text) for text in scene] for scene in scenes]
        paths = list(dict.fromkeys(choice.path for scene in choices for choice in scene))
        weights = np.zeros((len(scenes), len(paths)), np.float32)
        for row, scene in zip(weights, choices, strict=True):
            for choice in scene:
                row[paths.index(choice.path)] += choice.weight
        trees = [read_lora(LoraChoice(path), self.parts) for path in paths]
        return attach_to_scenes(network, trees, weights)
