"""The state that training starts from: fresh weights, or those of a model folder or another run.

Only weights are taken over: the optimizer, its schedule and the steps begin anew. So a run is
trained for longer, or with another schedule, by a new run that starts from it.
"""

from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from jaxtyping import Array, Key

from m2dit_jax.config.recipe import (
    Recipe,
    build_recipe,
    make_schedule,
    make_transformer_config,
    without_adapters,
)
from m2dit_jax.config.schema import Config
from m2dit_jax.diffusion.flow import FlowSchedule
from m2dit_jax.diffusion.noising import Schedule
from m2dit_jax.models.families import family_of
from m2dit_jax.models.lora import split_adapters
from m2dit_jax.training.state import TrainState
from m2dit_jax.utils.remote.places import named_place
from m2dit_jax.weights.adapted_run import find_weights
from m2dit_jax.weights.mapping import check_shapes, flatten
from m2dit_jax.weights.model_folder import boundary_ratio, unused_line
from m2dit_jax.weights.networks import load_params, load_tensors, open_leaves, read_json_as
from m2dit_jax.weights.run_folder import CheckpointError, CheckpointGone, holds_weights

OF_THE_DATA = ("channels", "text_dim")


def check_init_from(recipe: Recipe) -> str:
    """Looks at the names and shapes of `config.train.init_from`, and reads no numbers.

    Without it, at those of the teacher that the weights are then from. Returns what will be taken
    from where, for the log. Raises ValueError with all that does not fit the config.
    """
    return f"starts from {check_weights(recipe, *_source(recipe))}"


def check_weights(recipe: Recipe, path: Path, field: str) -> str:
    """Looks at the names and shapes of the weights that a field of the config names.

    Returns what they are and where. Raises ValueError with all that does not fit the config.
    """
    if not holds_weights(path):
        return _check_folder(recipe, path / recipe.config.transformer_folder, field)
    found = find_weights(path)
    theirs = build_recipe(Config.from_dict(found.config, found.place))
    problems = _differences(recipe, theirs.config, "run")
    shapes = {name: like.shape for name, like in flatten(params_in_files(recipe)).items()}
    try:
        saved = found.tensors()
        check_shapes({name: tensor.shape for name, tensor in saved.items()}, shapes)
    except ValueError as error:
        problems.append(str(error))
    raise_misfits(field, found.place, problems)
    return f"{found.place}, weights {found.weights!r}"


def _check_folder(recipe: Recipe, folder: Path, field: str) -> str:
    if not folder.parent.is_dir():
        raise ValueError(f"{field}: {folder.parent}: no such folder; needs a run or a model folder")
    if recipe.config.data.source != "latents":
        raise ValueError(
            f"{field}: {folder.parent} is no training run, as config.data.source "
            f"{recipe.config.data.source!r} needs: released weights are not for pixels"
        )
    boundary, ours = boundary_ratio(folder.parent, recipe.family), recipe.config.diffusion.boundary
    if boundary != ours:
        two = "; of its two transformers config.train.expert says which is trained" * (not ours)
        problem = f"config.diffusion.boundary is {ours:g}, that of the folder {boundary:g}{two}"
        raise_misfits(field, folder.parent, [problem])
    family = recipe.family
    found = read_json_as(family_of, folder / "config.json")
    if found is not family:
        raise_misfits(field, folder, [_of_family(recipe.config, found.name, "folder")])
    theirs = read_json_as(family.transformer.config, folder / "config.json")
    problems = _transformer_differences(recipe, theirs, "folder")
    scheduler = folder.parent / "scheduler" / "scheduler_config.json"
    if scheduler.is_file():
        released = read_json_as(family.schedule, scheduler)
        problems += _prediction_differences(recipe.schedule, released, "folder")
    try:
        open_leaves(folder, family.transformer, params_in_files(recipe)["transformer"])
    except ValueError as error:
        problems.append(str(error).removeprefix(f"{folder}: "))
    raise_misfits(field, folder, problems)
    unused = unused_line(folder.parent)
    return str(folder) + (f"\n{unused}" if unused else "")


def _differences(recipe: Recipe, theirs: Config, owner: str) -> list[str]:
    """The fields that say what weights mean and that differ from those of another run."""
    ours = recipe.config
    if ours.model.family != theirs.model.family:
        return [_of_family(ours, theirs.model.family, owner)]
    sources = ours.data.source, theirs.data.source
    if sources[0] != sources[1]:
        return [f"config.data.source is {sources[0]!r}, that of the {owner} {sources[1]!r}"]
    problems = _transformer_differences(recipe, make_transformer_config(theirs), owner)
    schedules = make_schedule(ours.diffusion), make_schedule(theirs.diffusion)
    problems += _prediction_differences(*schedules, owner)
    if ours.train.expert != theirs.train.expert:
        problems.append(
            f"config.train.expert is {ours.train.expert!r}, that of the {owner} "
            f"{theirs.train.expert!r}"
        )
    if ours.diffusion.boundary != theirs.diffusion.boundary:
        problems.append(
            f"config.diffusion.boundary is {ours.diffusion.boundary:g}, that of the {owner} "
            f"{theirs.diffusion.boundary:g}"
        )
    if ours.data.source != "latents":
        problems += [
            f"config.text_encoder.{name} is {here}, that of the {owner} {there}"
            for name, here, there in _differing(ours.text_encoder, theirs.text_encoder)
            if name != "trained"
        ]
    return problems


def _transformer_differences(recipe: Recipe, theirs: Any, owner: str) -> list[str]:
    ours = make_transformer_config(recipe.config)
    return [
        f"config.{'data' if name in OF_THE_DATA else 'model'}.{name} is {here}, "
        f"that of the {owner} {there}"
        for name, here, there in _differing(ours, theirs)
        if name not in recipe.family.weightless
    ]


def _of_family(ours: Config, theirs: str, owner: str) -> str:
    return f"config.model.family is {ours.model.family!r}, that of the {owner} {theirs!r}"


def _prediction_differences(ours: Schedule, theirs: Schedule, owner: str) -> list[str]:
    choices = {
        "kind": (_kind(ours), _kind(theirs)),
        "prediction": (ours.prediction, theirs.prediction),
    }
    return [
        f"config.diffusion.{name} is {here!r}, that of the {owner} {there!r}"
        for name, (here, there) in choices.items()
        if here != there
    ]


def _kind(schedule: Schedule) -> str:
    return "flow" if isinstance(schedule, FlowSchedule) else "diffusion"


def _differing(ours: Any, theirs: Any) -> Iterator[tuple[str, Any, Any]]:
    """Name and both values of each field of two dataclasses that differs."""
    for field in fields(ours):
        here, there = (
            () if getattr(config, field.name) is None else getattr(config, field.name)  # no grid
            for config in (ours, theirs)
        )
        if here != there:
            yield field.name, here, there


def raise_misfits(field: str, place: Path, problems: list[str]) -> None:
    """Raises ValueError with all problems of the weights that a field names, if there are some."""
    if problems:
        raise ValueError("\n".join([f"{field}: {place} does not fit:", *problems]))


def make_first_state(
    recipe: Recipe,
    optimizer: optax.GradientTransformation,
    key: Key[Array, ""],
    state: TrainState,
) -> Callable[[], TrainState]:
    """A function that makes the state before the first step, with the shardings of `state`.

    With `config.train.init_from` (or a teacher) it reads the weights, in float32, when it is
    called; every process reads a part. Adapters are fresh always. It raises CheckpointError if
    the weights have been damaged since `check_init_from`.
    """
    train = recipe.config.train

    def create(params: Any) -> TrainState:
        return TrainState.create(params, optimizer, train.ema_decay)

    places = jax.tree.map(lambda x: x.sharding, state)
    if train.lora.rank or not recipe.config.first_weights:
        create_fresh = jax.jit(
            lambda key: create(trained_params(recipe, recipe.init_params(key))),
            out_shardings=places,
        )
        return lambda: create_fresh(key)

    create_in_place = jax.jit(create, out_shardings=places, donate_argnums=0)

    def read() -> TrainState:
        path, field = _source(recipe)
        folder = recipe.config.transformer_folder
        params = read_params(path, field, state.params, np.dtype(np.float32), folder=folder)
        return create_in_place(params)

    return read


def state_shapes(recipe: Recipe, optimizer: optax.GradientTransformation) -> TrainState:
    """Shapes and dtypes of the state; nothing is read or allocated."""
    return jax.eval_shape(
        lambda key: TrainState.create(
            trained_params(recipe, recipe.init_params(key)),
            optimizer,
            recipe.config.train.ema_decay,
        ),
        jax.random.key(0),
    )


def trained_params(recipe: Recipe, params: Any) -> Any:
    """Of a model's parameters those that are trained: adapters alone, if there are some."""
    return split_adapters(params)[1] if recipe.config.train.lora.rank else params


def _source(recipe: Recipe) -> tuple[Path, str]:
    """Where the first weights are, and the field that says so."""
    config = recipe.config
    return named_place(config.first_weights), config.first_weights_field


def read_params(
    path: Path,
    field: str,
    abstract: Any,
    dtype: np.dtype,
    quantize: str | None = None,
    folder: str = "transformer",
) -> Any:
    """The weights that a field names in a dtype, with the shardings of `abstract`.

    `quantize` is the form that `abstract` has of some, one of `quantized.FROZEN_FORMS`; `folder` is
    that of the transformer in a model folder. Raises CheckpointError if they have been damaged
    since `check_weights`.
    """
    try:
        return _read(path, abstract, dtype, quantize, folder)
    except (ValueError, OSError) as error:
        raise CheckpointError(f"{field}: {error}") from error


def _read(path: Path, abstract: Any, dtype: np.dtype, quantize: str | None, folder: str) -> Any:
    if not holds_weights(path):
        network = read_json_as(family_of, path / folder / "config.json").transformer
        params = load_params(path / folder, network, abstract["transformer"], dtype, quantize)
        return {"transformer": params}
    if quantize is not None:
        found = find_weights(path)
        return load_tensors(found.place, found.tensors(), abstract, dtype, quantize)
    mesh = jax.tree.leaves(abstract)[0].sharding.mesh
    try:
        return find_weights(path).load(mesh, dtype)
    except CheckpointGone:  # the other run has gone on; several processes read different ones else
        if jax.process_count() > 1:
            raise
        return find_weights(path).load(mesh, dtype)


def abstract_params(recipe: Recipe) -> Any:
    """Shapes and dtypes of the parameters of the recipe's model, without adapters.

    Those of a model that adapters are for are quantised where the config says so.
    """
    return split_adapters(jax.eval_shape(recipe.init_params, jax.random.key(0)))[0]


def params_in_files(recipe: Recipe) -> Any:
    """The same as files have them: nothing is quantised."""
    return abstract_params(replace(recipe, config=without_adapters(recipe.config)))
