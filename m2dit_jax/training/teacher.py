"""The teacher of a run that distils one: checked, known by its files, and loaded."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from m2dit_jax.config.recipe import Recipe, build_recipe, make_transformer_config
from m2dit_jax.config.schema import Config
from m2dit_jax.diffusion.schedule import NoiseSchedule
from m2dit_jax.models.families import DEFAULT
from m2dit_jax.parallel.rules import with_shardings
from m2dit_jax.training.first_state import (
    abstract_params,
    check_weights,
    raise_misfits,
    read_params,
)
from m2dit_jax.training.record import last_teacher
from m2dit_jax.weights import run_folder
from m2dit_jax.weights.fingerprint import fingerprint
from m2dit_jax.weights.networks import read_json_as
from m2dit_jax.weights.run_folder import RECORD, find_weights, holds_weights, read_record

Params = Any
FIELD = "config.distill.teacher"
_OF_COMPUTING = ("attention", "scan", "remat")  # fields of a transformer with the same results
# Fields of a schedule that say nothing about the noise; the check of weights compares the last.
_NOT_OF_NOISE = ("spacing", "steps_offset", "prediction")


@dataclass(frozen=True)
class Teacher:
    """A teacher that fits its student: the folder of its weights, and a hash of these.

    The hash is the same wherever the folder lies.
    """

    place: Path
    fingerprint: str
    said: str
    """What it is, for the log."""

    @property
    def recorded(self) -> dict[str, str]:
        """What the record of a run keeps of its teacher."""
        return {"place": str(self.place), "fingerprint": self.fingerprint}

    def load(self, shapes: Params) -> Params:
        """Its weights, with dtypes and shardings of `teacher_shapes`; every process reads a part.

        Raises CheckpointError if they have been damaged or deleted meanwhile.
        """
        dtype = np.dtype(jax.tree.leaves(shapes)[0].dtype)
        return read_params(self.place, FIELD, shapes, dtype)


def find_teacher(recipe: Recipe) -> Teacher:
    """The teacher of `config.distill`; configs, names and shapes are read, and no numbers.

    Raises ValueError with all in which it is another model than the student, down to mask and
    noise.
    """
    path = Path(recipe.config.distill.teacher).expanduser()
    said = check_weights(recipe, path, FIELD)
    transformer, schedule = _transformer_and_schedule(path)
    noise = [field.name for field in fields(NoiseSchedule) if field.name not in _NOT_OF_NOISE]
    # Of the transformer, what the check of its weights leaves out.
    same = [name for name in DEFAULT.weightless if name not in _OF_COMPUTING]
    problems = [
        f"config.{section}.{name} is {getattr(here, name)!r}, that of the teacher "
        f"{getattr(there, name)!r}"
        for section, names, here, there in (
            ("model", same, make_transformer_config(recipe.config), transformer),
            ("diffusion", noise, recipe.schedule, schedule),
        )
        for name in names
        if getattr(here, name) != getattr(there, name)
    ]
    raise_misfits(FIELD, path, problems)
    if holds_weights(path):
        found = find_weights(path)
        return Teacher(found.place, found.fingerprint(), said)
    return Teacher(path.absolute(), fingerprint(path, ("transformer",)), said)


def _transformer_and_schedule(path: Path) -> tuple[Any, NoiseSchedule]:
    """The config of a teacher's transformer, and its noise."""
    config = None
    if holds_weights(path):
        config = find_weights(path).config
    elif (path / RECORD).is_file():  # a model folder that was converted from a run
        config = read_record(path)["config"]
    if config is not None:
        theirs = build_recipe(Config.from_dict(config, path))
        return make_transformer_config(theirs.config), theirs.schedule
    transformer = read_json_as(DEFAULT.transformer.config, path / "transformer/config.json")
    schedule = read_json_as(DEFAULT.schedule, path / "scheduler/scheduler_config.json")
    return transformer, schedule


def check_same_teacher(teacher: Teacher, lines: list[dict[str, Any]], workdir: Path) -> None:
    """Raises ValueError if a run learnt from another teacher before; `lines` are its record's.

    A teacher that is a run is its latest checkpoint, and may have been trained on since.
    """
    before = last_teacher(lines)
    if run_folder.latest_step(workdir) is None or before is None:
        return
    if before["fingerprint"] != teacher.fingerprint:
        raise ValueError(
            f"{FIELD}: {teacher.place} has other weights than the teacher that {workdir} learnt "
            f"from, which was {before['place']}; needs the same to go on"
        )


def teacher_shapes(recipe: Recipe, mesh: Mesh) -> Params | None:
    """Shapes of the teacher's weights in the dtype of the computation, sharded as the student's.

    None: there is no teacher.
    """
    if not recipe.config.distill.teacher:
        return None
    dtype = jnp.dtype(recipe.config.train.compute_dtype)
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, dtype), abstract_params(recipe))
    return with_shardings(shapes, mesh)
