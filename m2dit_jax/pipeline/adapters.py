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
        two: bool = False,
    ) -> "Adapters":
        """The files of FILE or FILE:WEIGHT for a transformer with the shapes `abstract`.

        `window` is that of its convolutions in PyTorch; `two` says that the model has two such
        transformers. Raises ValueError, naming the file, for what does not fit.
        """
        if not lora:
            return cls()
        choices = tuple(LoraChoice.parse(text) for text in lora)
        for choice in choices:
            choice.check_transformers(two)
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
                | ({} if choice.expert is None else {"expert": choice.expert})
                for choice in self.choices
            ]
        }

    def added_to(self, load: Load, beside: bool = False, folder: str = "transformer") -> Load:
        """The transformer of a folder, with the adapters added when it is loaded.

        Beside matrices in 8 bits they stay as they are: added to these they would be rounded away.
        `beside` has them stay so in any case.
        """
        weighted = [
            (tree, choice.weight)
            for tree, choice in zip(self.trees, self.choices, strict=True)
            if choice.is_for(folder)
        ]
        if not weighted:
            return load

        def load_adapted() -> LoadedNetwork:
            network = load()
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
    """Reads the adapters that a storyboard asks for, for a transformer with these parts.

    `two` says that the model has two of them; `by_scene` that scenes can have different ones.
    """

    parts: Mapping[str, Part]
    two: bool = False
    by_scene: bool = True

    def check(self, text: str) -> str:
        """The hash and weight of the file that FILE or FILE:WEIGHT names.

        Raises ValueError, naming the file, if it is none for this model.
        """
        choice = LoraChoice.parse(text)
        choice.check_transformers(self.two)
        read_lora(choice, self.parts)
        return lora_digest(choice)

    def attach(
        self, scenes: Sequence[Sequence[str]], network: LoadedNetwork, folder: str = "transformer"
    ) -> LoadedNetwork:
        """The transformer of a folder with the adapters that each of a story's texts asks for."""
        parsed = [[LoraChoice.parse(text) for text in scene] for scene in scenes]
        choices = [[choice for choice in scene if choice.is_for(folder)] for scene in parsed]
        if not any(choices):
            return network
        if not self.by_scene:  # all scenes have the same, which no global prompt before them has
            weighted = [(read_lora(choice, self.parts), choice.weight) for choice in choices[-1]]
            return attach_adapters(network, weighted)
        paths = list(dict.fromkeys(choice.path for scene in choices for choice in scene))
        weights = np.zeros((len(scenes), len(paths)), np.float32)
        for row, scene in zip(weights, choices, strict=True):
            for choice in scene:
                row[paths.index(choice.path)] += choice.weight
        trees = [read_lora(LoraChoice(path), self.parts) for path in paths]
        return attach_to_scenes(network, trees, weights)
