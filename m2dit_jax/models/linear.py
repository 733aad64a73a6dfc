"""The linear layers of transformers and text encoders: with adapters, and matrices in 8 bits."""

from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from m2dit_jax.models.quantized import IN_8_BITS, SCALE, product

ADAPTER = "lora"  # the name of a layer's adapter (`models.lora`)


class Linear(nnx.Linear):
    """nnx.Linear that may have an adapter, and its matrix in 8 bits (`models.quantized`).

    `quantized` is one of `quantized.FORMS`, None for a matrix of floats. A layer with
    `few_inputs`, one for all tokens of a scene, never has these rounded: it would save nothing.
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
    """Has all `Linear` layers of a model, in place, take matrices in 8 bits; returns the model.

    Only shapes and dtypes count (for `nnx.eval_shape`): `quantize_params` has the numbers.
    """
    for layer in quantizable(model).values():
        kernel = layer.kernel[...]
        layer.kernel = nnx.Param(kernel.astype(IN_8_BITS[form]))
        setattr(layer, SCALE, nnx.Param(jnp.ones((*kernel.shape[:-2], kernel.shape[-1]))))
        layer.quantized = form
    return model


def quantizable(model: nnx.Module) -> dict[tuple[Any, ...], Linear]:
    """The layers of a model that can be quantised, by path: those that hold nearly all of it."""
    return {path: each for path, each in nnx.iter_modules(model) if isinstance(each, Linear)}
