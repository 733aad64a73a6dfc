"""The linear layers of transformers and text encoders: with adapters, and quantised matrices."""

from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from m2dit_jax.models.quantized import SCALE, STORED_AS, product, stored_shapes

ADAPTER = "lora"  # the name of a layer's adapter (`models.lora`)


class Linear(nnx.Linear):
    """nnx.Linear that may have an adapter, and its matrix quantised (`models.quantized`).

    `quantized` is one of `quantized.FORMS` or FROZEN_FORMS, None for a matrix of floats. A layer
    with `few_inputs`, one for all tokens of a scene, never has these rounded: it would save
    nothing.
    """

    quantized: str | None = None
    few_inputs: bool = False

    def __call__(self, inputs: Float[Array, "*B I"], out_sharding: Any = None) -> Array:
        if self.quantized is None:
            out = super().__call__(inputs, out_sharding)
        else:
            out = self._quantized_product(inputs)
        adapter = getattr(self, ADAPTER, None)
        return out if adapter is None else out + adapter(inputs)

    @property
    def by_place(self) -> bool:
        """Whether it has an adapter for which it matters where a token is (`by_place` of it)."""
        return getattr(getattr(self, ADAPTER, None), "by_place", False)

    def _quantized_product(self, inputs: Float[Array, "*B I"]) -> Float[Array, "*B O"]:
        rounds_inputs = self.quantized == "int8_w8a8" and not self.few_inputs
        scale = getattr(self, SCALE)[...]
        out = product(inputs, self.kernel[...], scale, rounds_inputs)
        return out if self.bias is None else out + self.bias[...]


def quantize_layers(model: nnx.Module, form: str) -> nnx.Module:
    """Has all `Linear` layers of a model, in place, take quantised matrices; returns the model.

    Only shapes and dtypes count (for `nnx.eval_shape`): `quantize_params` has the numbers. Raises
    ValueError for a layer that the form cannot keep.
    """
    for layer in quantizable(model).values():
        kernel, scale = stored_shapes(layer.kernel[...].shape, form)
        layer.kernel = nnx.Param(jnp.zeros(kernel, STORED_AS[form]))
        setattr(layer, SCALE, nnx.Param(jnp.ones(scale)))
        layer.quantized = form
    return model


def quantizable(model: nnx.Module) -> dict[tuple[Any, ...], Linear]:
    """The layers of a model that can be quantised, by path: those that hold nearly all of it."""
    return {path: each for path, each in nnx.iter_modules(model) if isinstance(each, Linear)}
