"""The weights of a run that trained adapters: those of its base, with the adapters added.

The checkpoints of such a run hold its adapters alone; `base.json` in its folder says where the base
is and what it was.
"""

import json
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from m2dit_jax.models.families import family_of
from m2dit_jax.models.family import EXPERTS, NetworkSpec
from m2dit_jax.models.lora import NAME, adapter_scale, merge, merge_adapters
from m2dit_jax.parallel.rules import with_shardings
from m2dit_jax.utils import files
from m2dit_jax.utils.remote.places import named_place
from m2dit_jax.weights import run_folder
from m2dit_jax.weights.fingerprint import content_fingerprint, fingerprint
from m2dit_jax.weights.lazy import Tensor
from m2dit_jax.weights.networks import load_params, open_leaves, read_config, read_json_as
from m2dit_jax.weights.run_folder import CheckpointError, TrainedWeights, workdir_of

Params = Any
FILE = "base.json"
_TRANSFORMER = "transformer"  # what a run's weights are called, whichever of two they are


def find_weights(path: Path, chosen: str | None = None) -> TrainedWeights:
    """The weights of a run, of the folder of a step, or of a converted run, adapters added.

    As `run_folder.find_weights`, which also says what is raised; and ValueError if the base of
    adapters is gone or has other weights now.
    """
    found = run_folder.find_weights(path, chosen)
    lora = found.config.get("train", {}).get("lora", {})
    if not lora.get("rank"):
        return found
    own = {field.name: getattr(found, field.name) for field in fields(TrainedWeights)}
    return AdaptedWeights(**own, base=_find_base(found))


def base_weights(path: Path) -> "Base":
    """The weights that a run's adapters are for.

    Raises ValueError as `find_weights` does, and for a run without adapters.
    """
    found = find_weights(path)
    if not isinstance(found, AdaptedWeights) or found.base is None:
        raise ValueError(f"{path}: trained no adapters (config.train.lora.rank is 0)")
    return found.base


def keep_base(workdir: Path, place: Path, content: str) -> None:
    """Writes down what base the adapters of a run are for; `content` is its fingerprint."""
    record = {"place": str(place), "fingerprint": content}
    files.write_text(workdir / FILE, json.dumps(record, indent=2) + "\n")


@dataclass(frozen=True)
class _Folder:
    """The transformer of a model folder, as adapters' base; `name` is its folder in that."""

    place: Path
    name: str

    def _network(self) -> tuple[Path, NetworkSpec, Any]:
        directory = self.place / self.name
        network = family_of(read_config(directory)).transformer
        return directory, network, read_json_as(network.abstract, directory / "config.json")

    def tensors(self) -> dict[str, Tensor]:
        leaves = open_leaves(*self._network())
        return {
            f"{_TRANSFORMER}.{name}": Tensor(leaf.shape, leaf.dtype, leaf.read)
            for name, leaf in leaves.items()
        }

    def load(self, mesh: Mesh | None = None, dtype: Any = None) -> Params:
        directory, network, abstract = self._network()
        if mesh is not None:
            abstract = with_shardings(abstract, mesh)
        target = None if dtype is None else np.dtype(dtype)
        return {_TRANSFORMER: load_params(directory, network, abstract, target)}

    def fingerprint(self) -> str:
        return fingerprint(self.place, (self.name,))

    def content_fingerprint(self) -> str:
        return content_fingerprint(self.place, (self.name,))


Base = TrainedWeights | _Folder


@dataclass(frozen=True)
class AdaptedWeights(TrainedWeights):
    """Weights of a base with a run's adapters added; adding is done in float32."""

    base: Base | None = None

    @property
    def _scale(self) -> float:
        lora = self.config.train.lora
        return adapter_scale(lora.rank, lora.alpha)

    def tensors(self) -> dict[str, Tensor]:
        """The weights of the whole model by dotted name, none of them read yet."""
        assert self.base is not None
        adapters, whole, scale = super().tensors(), self.base.tensors(), self._scale

        def read(kernel: Tensor, layer: str) -> np.ndarray:
            pair = {name: adapters[f"{layer}.{NAME}.{name}"].read() for name in ("a", "b")}
            return np.asarray(merge(kernel.read(), pair, scale))

        for layer in {name.rpartition(f".{NAME}.")[0] for name in adapters}:
            kernel = whole.get(f"{layer}.kernel")
            if kernel is None:
                raise CheckpointError(f"{self.place}: adapts {layer}, which its base lacks")
            whole[f"{layer}.kernel"] = replace(kernel, read=partial(read, kernel, layer))
        return whole

    def load(self, mesh: Mesh | None = None, dtype: Any = None) -> Params:
        """The weights of the whole model as arrays on the mesh, or on the first device."""
        assert self.base is not None
        adapters, own = super().load(mesh), self.base.load(mesh, dtype)
        add = partial(merge_adapters, scale=self._scale)
        return jax.jit(add, donate_argnums=0)(own, adapters)

    def fingerprint(self) -> str:
        """Hashes of the adapters' files and of the base's."""
        assert self.base is not None
        return f"{super().fingerprint()} {self.base.fingerprint()}"

    def content_fingerprint(self) -> str:
        """Hashes of all bytes of the same files."""
        assert self.base is not None
        return f"{super().content_fingerprint()} {self.base.content_fingerprint()}"


def _find_base(found: TrainedWeights) -> Base:
    """The base that the run's base.json names, or, where that is gone, its config."""
    workdir = workdir_of(found.place)
    try:
        record = files.read_json(workdir / FILE)
        place, content = Path(record["place"]), record["fingerprint"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{workdir / FILE}: not what the training of adapters writes ({error!r}); copy it again"
        ) from error
    name = EXPERTS.get(found.config.train.get("expert", ""), _TRANSFORMER)
    for path in (place, None):  # the latter, which may lie in a bucket, only where need be
        path = path or named_place(found.config.train.init_from).absolute()
        if not path.exists():
            continue
        base = find_weights(path) if run_folder.holds_weights(path) else _Folder(path, name)
        if base.fingerprint() == content:
            return base
    raise CheckpointError(
        f"{workdir}: trained adapters of {place}, which is not there or has other weights now; "
        "needs the same, there or where config.train.init_from said"
    )
