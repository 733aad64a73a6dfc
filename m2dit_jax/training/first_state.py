"""The state that training starts from: fresh weights, or the transformer of a model folder."""

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from jaxtyping import Array, Key

from m2dit_jax.config.recipe import Recipe, make_transformer_config
from m2dit_jax.models.families import DEFAULT
from m2dit_jax.training.state import TrainState
from m2dit_jax.weights.networks import load_params, open_leaves, read_config
from m2dit_jax.weights.run_folder import CheckpointError

# What may differ from the folder's config.json: these change nothing about the weights.
OURS_TO_CHOOSE = ("mask", "attention", "scan", "remat")
OF_THE_DATA = ("channels", "text_dim")
_NETWORK = DEFAULT.transformer


def check_init_from(recipe: Recipe) -> None:
    """Looks at the names and shapes of `config.train.init_from`, and reads no numbers.

    Raises ValueError with all that does not fit the config.
    """
    folder = _folder(recipe)
    json = read_config(folder)
    try:
        theirs = _NETWORK.config(json)
    except ValueError as error:
        raise ValueError(f"{folder / 'config.json'}: {error}") from error
    ours = make_transformer_config(recipe.config)
    problems = []
    for name in (field.name for field in fields(ours) if field.name not in OURS_TO_CHOOSE):
        here, there = (
            () if getattr(config, name) is None else getattr(config, name)  # no base_grid
            for config in (ours, theirs)
        )
        if here != there:
            section = "data" if name in OF_THE_DATA else "model"
            problems.append(f"config.{section}.{name} is {here}, that of the folder {there}")
    try:
        open_leaves(folder, _NETWORK, _abstract_params(recipe)["transformer"])
    except ValueError as error:
        problems.append(str(error).removeprefix(f"{folder}: "))
    if problems:
        raise ValueError("\n".join([f"config.train.init_from: {folder} does not fit:", *problems]))


def make_first_state(
    recipe: Recipe,
    optimizer: optax.GradientTransformation,
    key: Key[Array, ""],
    state: TrainState,
) -> Callable[[], TrainState]:
    """A function that makes the state before the first step, with the shardings of `state`.

    With `config.train.init_from` it reads the transformer, in float32, when it is called; it raises
    CheckpointError if that has been damaged since `check_init_from`.
    """
    train = recipe.config.train

    def create(params: Any) -> TrainState:
        return TrainState.create(params, optimizer, train.ema_decay)

    places = jax.tree.map(lambda x: x.sharding, state)
    if not train.init_from:
        create_fresh = jax.jit(lambda key: create(recipe.init_params(key)), out_shardings=places)
        return lambda: create_fresh(key)

    abstract = state.params["transformer"]
    create_in_place = jax.jit(create, out_shardings=places, donate_argnums=0)

    def read() -> TrainState:
        try:
            params = load_params(_folder(recipe), _NETWORK, abstract, np.dtype(np.float32))
        except (ValueError, OSError) as error:
            raise CheckpointError(f"config.train.init_from: {error}") from error
        return create_in_place({"transformer": params})

    return read


def state_shapes(recipe: Recipe, optimizer: optax.GradientTransformation) -> TrainState:
    """Shapes and dtypes of the state; nothing is read or allocated."""
    return jax.eval_shape(
        lambda params: TrainState.create(params, optimizer, recipe.config.train.ema_decay),
        _abstract_params(recipe),
    )


def _folder(recipe: Recipe) -> Path:
    return Path(recipe.config.train.init_from) / "transformer"


def _abstract_params(recipe: Recipe) -> Any:
    return jax.eval_shape(recipe.init_params, jax.random.key(0))
