"""How one kind of PyTorch weight becomes one of ours, and back: a line of a key table."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np


class Change(NamedTuple):
    """A change of layout and its inverse; both only move numbers, so that there and back is exact.

    `to_torch` also gets the shape that PyTorch has.
    """

    to_jax: Callable[[np.ndarray], np.ndarray]
    to_torch: Callable[[np.ndarray, tuple[int, ...]], np.ndarray]


CHANGES = {
    "same": Change(lambda x: x, lambda x, shape: x),
    # (out, in) -> (in, out)
    "linear": Change(lambda x: x.T, lambda x, shape: x.T),
    # A convolution whose windows do not overlap, as a linear layer over flat (c, p, p) patches.
    "patch": Change(lambda x: x.reshape(x.shape[0], -1).T, lambda x, shape: x.T.reshape(shape)),
    # (out, in, *window) -> (*window, in, out)
    "conv": Change(
        lambda x: np.moveaxis(x, (1, 0), (-2, -1)),
        lambda x, shape: np.moveaxis(x, (-2, -1), (1, 0)),
    ),
    # Factors of channels, with axes of a picture, or of a video, to broadcast over.
    "image_scale": Change(lambda x: x.reshape(-1), lambda x, shape: x.reshape(-1, 1, 1)),
    "video_scale": Change(lambda x: x.reshape(-1), lambda x, shape: x.reshape(-1, 1, 1, 1)),
}


@dataclass(frozen=True)
class Rule:
    """`torch` and `jax` are names with the same `{place}`s in them, dots between their parts.

    A place stands for one or more digits. One that only `torch` has is a layer axis: the tensors
    of all its numbers are stacked, in order, along axis 0 of ours. `other` is one more name that
    it has in files of adapters, with the places of `torch`.
    """

    torch: str
    jax: str
    change: str = "same"
    other: str = ""

    @property
    def layer_axis(self) -> bool:
        """Whether the PyTorch tensors of this rule are stacked."""
        return bool(self._places(self.torch) - self._places(self.jax))

    def torch_names(self, jax_name: str, layers: int = 1) -> list[str] | None:
        """The PyTorch tensors, in order, of our array; None if the rule is not about it.

        `layers` counts those that are stacked, if any are.
        """
        return self._names(self.torch, jax_name, layers)

    def other_names(self, jax_name: str, layers: int = 1) -> list[str] | None:
        """Their other names, "" where there is none."""
        return self._names(self.other, jax_name, layers)

    def _names(self, name: str, jax_name: str, layers: int) -> list[str] | None:
        pattern = re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>[0-9]+)", re.escape(self.jax))
        found = re.fullmatch(pattern, jax_name)
        if found is None:
            return None
        axes = self._places(self.torch) - self._places(self.jax)
        return [
            name.format(**found.groupdict(), **dict.fromkeys(axes, layer))
            for layer in range(layers if axes else 1)
        ]

    @staticmethod
    def _places(name: str) -> set[str]:
        return set(re.findall(r"\{(\w+)\}", name))


def linear_rules(torch: str, jax: str, bias: bool = True, other: str = "") -> list[Rule]:
    """The lines of a linear layer; `other` is one more name of it in files of adapters."""
    rules = [Rule(f"{torch}.weight", f"{jax}.kernel", "linear", other and f"{other}.weight")]
    return rules + [Rule(f"{torch}.bias", f"{jax}.bias")] * bias


def norm_rules(torch: str, jax: str) -> list[Rule]:
    """The lines of a norm with scale and bias."""
    return [Rule(f"{torch}.weight", f"{jax}.scale"), Rule(f"{torch}.bias", f"{jax}.bias")]
