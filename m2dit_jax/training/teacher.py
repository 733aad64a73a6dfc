"""The teacher of a run that distils one, checked."""

from dataclasses import fields
from pathlib import Path
from typing import Any

from m2dit_jax.config.recipe import Recipe, build_recipe, make_transformer_config
from m2dit_jax.config.schema import Config
from m2dit_jax.diffusion.noising import Schedule
from m2dit_jax.diffusion.schedule import NoiseSchedule
from m2dit_jax.training.first_state import raise_misfits
from m2dit_jax.training.frozen import FrozenWeights, find_frozen
from m2dit_jax.utils.remote.places import named_place
from m2dit_jax.weights.adapted_run import find_weights
from m2dit_jax.weights.networks import read_json_as
from m2dit_jax.weights.run_folder import RECORD, holds_weights, read_record

Params = Any
FIELD = "config.distill.teacher"
_OF_COMPUTING = ("attention", "scan", "remat")  # fields of a transformer with the same results
# Fields of a schedule that say nothing about the noise; the check of weights compares the last.
_NOT_OF_NOISE = ("spacing", "steps_offset", "prediction")


def find_teacher(recipe: Recipe) -> FrozenWeights:
    """The teacher of `config.distill`; configs, names and shapes are read, and no numbers.

    Raises ValueError with all in which it is another model than the student, down to mask and
    noise.
    """
    path = named_place(recipe.config.distill.teacher)
    teacher = find_frozen(recipe, "teacher", path, FIELD)
    transformer, schedule = _transformer_and_schedule(recipe, path)
    if not isinstance(schedule, NoiseSchedule):
        raise_misfits(FIELD, path, ["it is trained by flow matching, which is not distilled here"])
    noise = [field.name for field in fields(NoiseSchedule) if field.name not in _NOT_OF_NOISE]
    # Of the transformer, what the check of its weights leaves out.
    same = [name for name in recipe.family.weightless if name not in _OF_COMPUTING]
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
    return teacher


def _transformer_and_schedule(recipe: Recipe, path: Path) -> tuple[Any, Schedule]:
    """The config of a teacher's transformer, and its noise."""
    config = None
    if holds_weights(path):
        config = find_weights(path).config
    elif (path / RECORD).is_file():  # a model folder that was converted from a run
        config = read_record(path)["config"]
    if config is not None:
        theirs = build_recipe(Config.from_dict(config, path))
        return make_transformer_config(theirs.config), theirs.schedule
    transformer = read_json_as(recipe.family.transformer.config, path / "transformer/config.json")
    schedule = read_json_as(recipe.family.schedule, path / "scheduler/scheduler_config.json")
    return transformer, schedule
