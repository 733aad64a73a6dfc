"""The networks of a run on pixels, which are kept as one model."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from m2dit_jax.config.recipe import Recipe, build_recipe
from m2dit_jax.config.schema import Config
from m2dit_jax.models.linear import quantize_layers
from m2dit_jax.models.network import LoadedNetwork, Params
from m2dit_jax.models.quantized import cast_floats
from m2dit_jax.weights.quantizing import quantize_params
from m2dit_jax.weights.released import DTYPES, Precision


class SplitModel:
    """The text encoder and the transformer of a run on pixels, which are kept as one model."""

    def __init__(self, recipe: Recipe, params: Callable[[], Params], precision: Precision):
        self._recipe = build_recipe(sampled_config(recipe.config))
        self._read, self._precision = params, precision
        self._params: Params | None = None
        self._model = nnx.eval_shape(self._new_model)

    def text_encoder(self) -> LoadedNetwork:
        """The T5-like encoder of single prompts."""
        return LoadedNetwork(nnx.graphdef(self._model.text_encoder), self._part("text_encoder"))

    def transformer(self) -> LoadedNetwork:
        """The M2DiT."""
        return LoadedNetwork(nnx.graphdef(self._model.transformer), self._part("transformer"))

    def _new_model(self) -> Any:
        model, form = self._recipe.new_model(nnx.Rngs(0)), self._precision.quantize
        return model if form is None else quantize_layers(model, form)

    def _part(self, name: str) -> Params:
        params = self._params = self._params or self._read_params()
        return params[name]

    def _read_params(self) -> Params:
        params, form = self._read(), self._precision.quantize
        if form is not None:
            abstract = nnx.to_pure_dict(nnx.state(self._model, nnx.Param))
            params = jax.tree.map(jnp.asarray, quantize_params(params, abstract, form))
        return cast_floats(params, DTYPES[self._precision.dtype])


def sampled_config(config: Config) -> Config:
    """The config with attention chosen for the device that samples, not the one that trained."""
    return replace(config, model=replace(config.model, attention="auto"))
