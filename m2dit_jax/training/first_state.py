"""The state that training starts from: fresh weights, or those of a model folder or another run.

Only weights are taken over: the optimizer, its schedule and the steps begin anew. So a run is
trained for longer, or with another schedule, by a new run that starts from it.
"""

from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from jaxtyping import Array, Key

from m2dit_jax.config.recipe import Recipe, build_recipe, make_transformer_config
from m2dit_jax.config.schema import Config
from m2dit_jax.models.families import DEFAULT
from m2dit_jax.training.state import TrainState
from m2dit_jax.weights.mapping import check_shapes, flatten
from m2dit_jax.weights.model_folder import unused_line
from m2dit_jax.weights.networks import load_params, open_leaves, read_json_as
from m2dit_jax.weights.run_folder import (
    CheckpointError,
    CheckpointGone,
    find_weights,
    holds_weights,
)

OF_THE_DATA = ("channels", "text_dim")
_NETWORK = DEFAULT.transformer


def check_init_from(recipe: Recipe) -> str:
    """Looks at the names and shapes of `config.train.init_from`, and reads no numbers.

    Returns what will be taken from where, for the log. Raises ValueError with all that does not fit
    the config.
    """
    path = _path(recipe)
    if not holds_weights(path):
        return _check_folder(recipe, path / "transformer")
    found = find_weights(path)
    theirs = build_recipe(Config.from_dict(found.config, found.place))
    problems = _differences(recipe.config, theirs.config, "run")
    shapes = {name: like.shape for name, like in flatten(_abstract_params(recipe)).items()}
    try:
        saved = found.tensors()
        check_shapes({name: tensor.shape for name, tensor in saved.items()}, shapes)
    except ValueError as error:
        problems.append(str(error))
    _raise(found.place, problems)
    return f"starts from {found.place}, weights {found.weights!r}"


def _check_folder(recipe: Recipe, folder: Path) -> str:
    if recipe.config.data.source != "latents":
        raise ValueError(
            f"config.train.init_from: {folder.parent} is no training run, as config.data.source "
            f"{recipe.config.data.source!r} needs: released weights are not for pixels"
        )
    theirs = read_json_as(_NETWORK.config, folder / "config.json")
    problems = _transformer_differences(make_transformer_config(recipe.config), theirs, "folder")
    try:
        open_leaves(folder, _NETWORK, _abstract_params(recipe)["transformer"])
    except ValueError as error:
        problems.append(str(error).removeprefix(f"{folder}: "))
    _raise(folder, problems)
    unused = unused_line(folder.parent)
    return f"starts from {folder}" + (f"\n{unused}" if unused else "")


def _differences(ours: Config, theirs: Config, owner: str) -> list[str]:
    """The fields that say what weights mean and that differ from those of another run."""
    sources = ours.data.source, theirs.data.source
    if sources[0] != sources[1]:
        return [f"config.data.source is {sources[0]!r}, that of the {owner} {sources[1]!r}"]
    transformers = make_transformer_config(ours), make_transformer_config(theirs)
    problems = _transformer_differences(*transformers, owner)
    if ours.data.source != "latents":
        problems += [
            f"config.text_encoder.{name} is {here}, that of the {owner} {there}"
            for name, here, there in _differing(ours.text_encoder, theirs.text_encoder)
            if name != "trained"
        ]
    return problems


def _transformer_differences(ours: Any, theirs: Any, owner: str) -> list[str]:
    return [
        f"config.{'data' if name in OF_THE_DATA else 'model'}.{name} is {here}, "
        f"that of the {owner} {there}"
        for name, here, there in _differing(ours, theirs)
        if name not in DEFAULT.weightless
    ]


def _differing(ours: Any, theirs: Any) -> Iterator[tuple[str, Any, Any]]:
    """Name and both values of each field of two dataclasses that differs."""
    for field in fields(ours):
        here, there = (
            () if getattr(config, field.name) is None else getattr(config, field.name)  # no grid
            for config in (ours, theirs)
        )
        if here != there:
            yield field.name, here, there


def _raise(place: Path, problems: list[str]) -> None:
    if problems:
        raise ValueError("\n".join([f"config.train.init_from: {place} does not fit:", *problems]))


def make_first_state(
    recipe: Recipe,
    optimizer: optax.GradientTransformation,
    key: Key[Array, ""],
    state: TrainState,
) -> Callable[[], TrainState]:
    """A function that makes the state before the first step, with the shardings of `state`.

    With `config.train.init_from` it reads the weights, in float32, when it is called; every process
    reads a part. It raises CheckpointError if they have been damaged since `check_init_from`.
    """
    train = recipe.config.train

    def create(params: Any) -> TrainState:
        return TrainState.create(params, optimizer, train.ema_decay)

    places = jax.tree.map(lambda x: x.sharding, state)
    if not train.init_from:
        create_fresh = jax.jit(lambda key: create(recipe.init_params(key)), out_shardings=places)
        return lambda: create_fresh(key)

    create_in_place = jax.jit(create, out_shardings=places, donate_argnums=0)

    def read() -> TrainState:
        try:
            params = _read_params(_path(recipe), state.params)
        except (ValueError, OSError) as error:
            raise CheckpointError(f"config.train.init_from: {error}") from error
        return create_in_place(params)

    return read


def state_shapes(recipe: Recipe, optimizer: optax.GradientTransformation) -> TrainState:
    """Shapes and dtypes of the state; nothing is read or allocated."""
    return jax.eval_shape(
        lambda params: TrainState.create(params, optimizer, recipe.config.train.ema_decay),
        _abstract_params(recipe),
    )


def _path(recipe: Recipe) -> Path:
    return Path(recipe.config.train.init_from).expanduser()


def _read_params(path: Path, abstract: Any) -> Any:
    """The weights in float32, with the shardings of `abstract`."""
    if not holds_weights(path):
        transformer = abstract["transformer"]
        params = load_params(path / "transformer", _NETWORK, transformer, np.dtype(np.float32))
        return {"transformer": params}
    mesh = jax.tree.leaves(abstract)[0].sharding.mesh
    try:
        return find_weights(path).load(mesh, np.dtype(np.float32))
    except CheckpointGone:  # the other run has gone on; several processes read different ones else
        if jax.process_count() > 1:
            raise
        return find_weights(path).load(mesh, np.dtype(np.float32))


def _abstract_params(recipe: Recipe) -> Any:
    return jax.eval_shape(recipe.init_params, jax.random.key(0))
