"""LoRA files: read in the forms that others write, written in that of diffusers.

A file is one of adapters of a transformer, by PyTorch's names of its layers:

    transformer.transformer_blocks.0.attn1.to_q.lora_A.weight    diffusers and PEFT; [rank, in]
    base_model.model.transformer_blocks...lora_A.default.weight  PEFT, with adapter_config.json
    diffusion_model.transformer_blocks...lora_down.weight        finetrainers; with .alpha
    lora_unet_transformer_blocks_0_attn1_to_q.lora_down.weight   kohya; with .alpha

or by the names of the model's first release where these are others (`mapping.Part.other`):
diffusion_model.blocks.0.self_attn.q.lora_A.weight is transformer.blocks.0.attn1.to_q of Wan.

The scale (alpha / rank) is multiplied into B, so that what is returned, and what is written, has
none.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors.numpy import save_file

from m2dit_jax.models.family import EXPERTS, split_expert
from m2dit_jax.models.lora import NAME, merge
from m2dit_jax.utils.digests import digest_files
from m2dit_jax.utils.files import atomic_write, read_json
from m2dit_jax.utils.remote.places import named_place
from m2dit_jax.weights.finite import FiniteScan
from m2dit_jax.weights.lazy import Leaf, Tensor
from m2dit_jax.weights.mapping import Part
from m2dit_jax.weights.safetensors_files import open_file, read_metadata

Tree = Any
NAMES = ("pytorch_lora_weights.safetensors", "adapter_model.safetensors")  # diffusers, PEFT
_PREFIXES = ("transformer.", "diffusion_model.", "base_model.model.", "")
_KOHYA = "lora_unet_"
_MATRICES = {"lora_A": "a", "lora_down": "a", "lora_B": "b", "lora_up": "b"}
_ENDS = re.compile(r"(.+?)\.(lora_A|lora_B|lora_down|lora_up)(?:\.\w+)?\.weight")
_SHOWN = 3


@dataclass(frozen=True)
class LoraChoice:
    """A file of adapters, or a folder with one, and the weight that they are added with.

    `expert` is the one of two transformers (`family.EXPERTS`) that they are for, None for all.
    """

    path: Path
    weight: float = 1.0
    expert: str | None = None

    @classmethod
    def parse(cls, text: str) -> "LoraChoice":
        """The choice that FILE or FILE:WEIGHT names, after EXPERT= or not.

        Raises ValueError for no such weight.
        """
        expert, rest = split_expert(text)
        if expert is not None and not Path(text).exists():
            return replace(cls.parse(rest), expert=expert)
        path, colon, weight = text.rpartition(":")
        if not colon or not path or Path(text).exists() or "/" in weight or "\\" in weight:
            return cls(named_place(text))
        try:
            number = float(weight)
        except ValueError:
            number = float("nan")
        if not abs(number) <= 100:
            raise ValueError(
                f"{text}: needs FILE or FILE:WEIGHT, a number from -100 to 100 such as 0.8, "
                f"found {weight!r}"
            )
        return cls(named_place(path), number)

    def is_for(self, folder: str) -> bool:
        """Whether the adapters are added to the transformer in the folder of that name."""
        return self.expert is None or EXPERTS[self.expert] == folder

    def check_transformers(self, two: bool) -> None:
        """Raises ValueError if an expert is named of a model that has one transformer."""
        if self.expert is not None and not two:
            raise ValueError(
                f"{self.expert}={self.path}: is for models of two transformers, this has one; "
                f"needs {self.path} alone"
            )

    def file(self) -> Path:
        """The file itself. Raises ValueError, saying what would be right, if there is none."""
        if self.path.is_file():
            if self.path.suffix != ".safetensors":
                raise ValueError(
                    f"{self.path}: needs a .safetensors file: pickled ones can run code"
                )
            return self.path
        found = [self.path / name for name in NAMES if (self.path / name).is_file()]
        if not found:
            raise ValueError(
                f"{self.path}: no LoRA there; needs a .safetensors file, or a folder with "
                f"{' or '.join(NAMES)}"
            )
        return found[0]


def write_lora(
    path: Path, adapters: Tree, scale: float, parts: Mapping[str, Part], prefix: str = "transformer"
) -> None:
    """Writes a transformer's adapters as diffusers names them, in float32.

    `parts` are PyTorch's tensors of the transformer (`networks.torch_parts`).
    """
    flat = {".".join(key): np.asarray(x, np.float32) for key, x in flatten_dict(adapters).items()}
    tensors = {}
    for name, part in parts.items():
        layer = part.leaf.removesuffix(".kernel")
        if f"{layer}.{NAME}.a" not in flat:
            continue
        a, b = (flat[f"{layer}.{NAME}.{matrix}"] for matrix in ("a", "b"))
        if part.layer is not None:
            a, b = a[part.layer], b[part.layer]
        module = name.removesuffix(".weight")
        tensors[f"{prefix}.{module}.lora_A.weight"] = np.ascontiguousarray(a.T)
        tensors[f"{prefix}.{module}.lora_B.weight"] = np.ascontiguousarray(scale * b.T)
    with atomic_write(path) as part:
        save_file(tensors, part, metadata={"format": "pt"})


def read_lora(choice: LoraChoice, parts: Mapping[str, Part]) -> Tree:
    """The adapters of a file, as a tree beside the transformer's parameters, scales within B.

    Layers that the file leaves out have zeros, lower ranks are filled up with them. Raises
    ValueError, naming the file, for names that no linear layer has, other shapes, or matrices
    without their partner.
    """
    path = choice.file()
    return _stack(path, *_read_pairs(path, parts), parts)


def add_lora(leaves: dict[str, Leaf], adapters: Tree, weight: float) -> None:
    """Puts, in place of the leaves that adapters change, ones that read with these added."""
    flat: dict[Any, Any] = flatten_dict(adapters)
    for layer in {place[:-2] for place in flat}:
        pair = {name: flat[(*layer, NAME, name)] for name in ("a", "b")}
        leaf = leaves[name := ".".join((*layer, "kernel"))]
        pieces = (
            _adapted(piece, {key: x[i] if leaf.stacked else x for key, x in pair.items()}, weight)
            for i, piece in enumerate(leaf.pieces)
        )
        leaves[name] = replace(leaf, pieces=tuple(pieces))


def _adapted(piece: Tensor, pair: Mapping[str, np.ndarray], weight: float) -> Tensor:
    return replace(piece, read=lambda: np.asarray(merge(piece.read(), pair, weight)))


def to_both_line(lora: Sequence[LoraChoice]) -> str:
    """Says which files are for both of two transformers, "" if each is for one."""
    both = ", ".join(str(choice.path) for choice in lora if choice.expert is None)
    names = " or ".join(f"{expert}=" for expert in EXPERTS)
    return f"{both}: added to both transformers, after {names} to one" if both else ""


def lora_digest(choice: LoraChoice) -> str:
    """The file's SHA-256, the weight, and the expert if one is named."""
    path = choice.file()
    expert = "" if choice.expert is None else f":{choice.expert}"
    digests = digest_files(path.parent, [path.name]).values()
    return f"{next(iter(digests))}:{choice.weight:g}{expert}"


def _read_pairs(
    path: Path, parts: Mapping[str, Part]
) -> tuple[dict[str, dict[str, np.ndarray]], dict[str, float]]:
    """A and B of each of PyTorch's layers in the file, and the alphas that it tells."""
    modules = _modules(parts)
    by_kohya = {name.replace(".", "_"): module for name, module in modules.items()}
    found: dict[str, dict[str, np.ndarray]] = {}
    alphas: dict[str, float] = {}
    unknown = []
    scan = FiniteScan()
    for name, tensor in open_file(path).items():
        layer, matrix = _parse(name)
        module = _module(layer, modules, by_kohya)
        if module is None or matrix is None:
            unknown.append(name)
            continue
        values = scan.tensor(name, tensor).read().astype(np.float32)
        if matrix == "alpha":
            alphas[module] = float(values.item())
        else:
            found.setdefault(module, {})[matrix] = values
    if problem := scan.problem(path):
        raise ValueError(problem)
    if unknown or not found:
        shown = ", ".join(unknown[:_SHOWN]) + (" ..." if len(unknown) > _SHOWN else "")
        raise ValueError(
            f"{path}: needs low-rank matrices of this transformer's layers, found "
            + (f"{len(unknown)} other tensors: {shown}" if unknown else "none")
            + ("; whole differences are not added" if any(map(_is_difference, unknown)) else "")
        )
    told = _told_alpha(path, read_metadata(path))
    ranks = {module: len(pair["a"]) for module, pair in found.items() if "a" in pair}
    return found, {
        module: float(alphas.get(module, told or rank)) for module, rank in ranks.items()
    }


def _parse(name: str) -> tuple[str, str | None]:
    """The layer of a tensor's name, and whether it is its a, b or alpha."""
    if name.endswith(".alpha"):
        return name.removesuffix(".alpha"), "alpha"
    match = _ENDS.fullmatch(name)
    return (match[1], _MATRICES[match[2]]) if match else (name, None)


def _is_difference(name: str) -> bool:
    """Whether a tensor is a whole weight's or bias's change, as some tools keep beside pairs."""
    return name.endswith((".diff", ".diff_b"))


def _modules(parts: Mapping[str, Part]) -> dict[str, str]:
    """PyTorch's names of the layers, by each name that they have."""
    named = [(name, name) for name in parts] + [(part.other, name) for name, part in parts.items()]
    return {
        other.removesuffix(".weight"): name.removesuffix(".weight")
        for other, name in named
        if other.endswith(".weight")
    }


def _module(layer: str, modules: Mapping[str, str], by_kohya: Mapping[str, str]) -> str | None:
    """PyTorch's name of a layer of the transformer; None if there is none of that name."""
    if layer.startswith(_KOHYA):
        return by_kohya.get(layer.removeprefix(_KOHYA))
    for first in _PREFIXES:
        for second in _PREFIXES:  # base_model.model.transformer. ...
            module = layer.removeprefix(first).removeprefix(second)
            if module in modules:
                return modules[module]
    return None


def _told_alpha(path: Path, about: Mapping[str, str]) -> float | None:
    """The alpha of all layers that diffusers' header or PEFT's JSON beside the file tells."""
    config: Mapping[str, Any] = {}
    if "lora_adapter_metadata" in about:
        told = json.loads(about["lora_adapter_metadata"])
        config = {key.removeprefix("transformer."): value for key, value in told.items()}
    elif (beside := path.with_name("adapter_config.json")).is_file():
        config = read_json(beside)
    odd = ("alpha_pattern", "rank_pattern", "use_dora", "use_rslora")
    if used := [key for key in odd if config.get(key)]:
        raise ValueError(f"{path}: has {', '.join(used)}, which is not known here")
    alpha = config.get("lora_alpha")
    return None if alpha is None else float(alpha)


def _stack(
    path: Path,
    found: Mapping[str, Mapping[str, np.ndarray]],
    alphas: Mapping[str, float],
    parts: Mapping[str, Part],
) -> Tree:
    """The matrices as ours, layers stacked, scales in B."""
    layers: dict[str, int] = {}
    for part in parts.values():
        layers[part.leaf] = max(layers.get(part.leaf, 0), (part.layer or 0) + 1)
    rank = max((len(pair["a"]) for pair in found.values() if "a" in pair), default=1)
    flat: dict[tuple[str, ...], np.ndarray] = {}
    problems = []
    for module, pair in found.items():
        part = parts[f"{module}.weight"]
        shapes = {name: matrix.shape for name, matrix in pair.items()}
        outputs, inputs = part.shape[0], part.shape[-1]
        r = len(pair.get("a", ()))
        if len(part.shape) != 2 or shapes != {"a": (r, inputs), "b": (outputs, r)}:
            problems.append(
                f"{module} (found {shapes}, needs a of [rank, {inputs}] and b of [{outputs}, rank])"
            )
            continue
        place = (*part.leaf.removesuffix(".kernel").split("."), NAME)
        stacked = () if part.layer is None else (layers[part.leaf],)
        a = flat.setdefault((*place, "a"), np.zeros((*stacked, inputs, rank), np.float32))
        b = flat.setdefault((*place, "b"), np.zeros((*stacked, rank, outputs), np.float32))
        at = ... if part.layer is None else part.layer
        a[at][:, :r] = pair["a"].T
        b[at][:r] = alphas[module] / r * pair["b"].T
    if problems:
        raise ValueError(f"{path}: does not fit the transformer: {'; '.join(problems[:_SHOWN])}")
    return unflatten_dict(flat)
