"""Weights that a run reads and does not train: a teacher's, or those that adapters are for."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from m2dit_jax.config.recipe import Recipe
from m2dit_jax.models.quantized import cast_floats
from m2dit_jax.parallel.rules import with_shardings
from m2dit_jax.training.first_state import abstract_params, check_weights, read_params
from m2dit_jax.training.record import last_frozen
from m2dit_jax.utils.remote.places import named_place
from m2dit_jax.weights import run_folder
from m2dit_jax.weights.adapted_run import find_weights
from m2dit_jax.weights.fingerprint import fingerprint
from m2dit_jax.weights.run_folder import holds_weights

Params = Any


@dataclass(frozen=True)
class FrozenWeights:
    """Weights that fit the run: their folder, and a hash, the same wherever the folder lies."""

    kind: str
    """The role in the run: `teacher` or `base`."""
    field: str
    """The field of the config that names them."""
    place: Path
    fingerprint: str
    said: str
    """The line for the log: path and choice of weights."""
    dtype: np.dtype
    quantize: str | None = None
    """The form of the linear layers, one of `quantized.FROZEN_FORMS`; None: they are floats."""
    folder: str = "transformer"
    """The transformer's folder in a model folder."""

    @property
    def recorded(self) -> dict[str, str]:
        """Place and fingerprint, for the record of a run."""
        return {"place": str(self.place), "fingerprint": self.fingerprint}

    def load(self, shapes: Params) -> Params:
        """The weights, with dtypes and shardings of `frozen_shapes`; every process reads a part.

        Raises CheckpointError if they have been damaged or deleted meanwhile.
        """
        how = (self.dtype, self.quantize, self.folder)
        return read_params(self.place, self.field, shapes, *how)


def find_frozen(recipe: Recipe, kind: str, path: Path, field: str) -> FrozenWeights:
    """The weights that a field of the config names; names and shapes are read, and no numbers.

    Raises ValueError with all that does not fit the config.
    """
    said = check_weights(recipe, path, field)
    folder = recipe.config.transformer_folder
    how = said, _frozen_dtype(recipe), recipe.config.train.lora.quantize, folder
    if holds_weights(path):
        found = find_weights(path)
        return FrozenWeights(kind, field, found.place, found.fingerprint(), *how)
    content = fingerprint(path, (folder,))
    return FrozenWeights(kind, field, path.absolute(), content, *how)


def find_base(recipe: Recipe) -> FrozenWeights:
    """The weights that the run's adapters are for. Raises ValueError as `find_frozen` does."""
    path = named_place(recipe.config.train.init_from)
    return find_frozen(recipe, "base", path, "config.train.init_from")


def check_same_frozen(frozen: FrozenWeights, lines: list[dict[str, Any]], workdir: Path) -> None:
    """Raises ValueError if a run had others of the kind before; `lines` are its record's.

    Weights of a run are those of its latest checkpoint, and it may have been trained on since.
    """
    before = last_frozen(lines, frozen.kind)
    if run_folder.latest_step(workdir) is None or before is None:
        return
    if before["fingerprint"] != frozen.fingerprint:
        raise ValueError(
            f"{frozen.field}: {frozen.place} has other weights than the {frozen.kind} that "
            f"{workdir} learnt from, which was {before['place']}; needs the same to go on"
        )


def frozen_shapes(recipe: Recipe, mesh: Mesh) -> Params | None:
    """Shapes of such weights in the dtype that they lie in, sharded as those that are trained.

    None: the run has none.
    """
    config = recipe.config
    if not (config.distill.teacher or config.train.lora.rank):
        return None
    shapes = cast_floats(abstract_params(recipe), _frozen_dtype(recipe))
    return with_shardings(shapes, mesh)


def _frozen_dtype(recipe: Recipe) -> np.dtype:
    """The dtype of weights that are not trained and not quantised."""
    train = recipe.config.train
    as_computed = recipe.config.distill.teacher or train.lora.quantize
    return jnp.dtype(train.compute_dtype if as_computed else train.lora.base_dtype)
