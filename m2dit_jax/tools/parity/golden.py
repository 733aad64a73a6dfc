"""Golden files of the PyTorch reference: every array is either an input or is compared."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from m2dit_jax.diffusion.noising import Schedule

EXACT = 0.0  # the limit of what must be equal


@dataclass(frozen=True)
class Case:
    """One comparison. `error` is NaN where there is no number to compare; `note` says why."""

    case: str
    error: float
    limit: float
    passed: bool
    note: str = ""


class GoldenFile:
    """The arrays of a file, each to be taken as `input` or compared with `expect`.

    `finish` turns whatever was neither into a failure, so that no array goes unnoticed.
    """

    def __init__(self, name: str, arrays: dict[str, np.ndarray]):
        self.name = name
        self.cases: list[Case] = []
        self._arrays = arrays
        self._unused = set(arrays)

    def __contains__(self, array: str) -> bool:
        return array in self._arrays

    @property
    def arrays(self) -> tuple[str, ...]:
        """The names of all arrays."""
        return tuple(self._arrays)

    def input(self, array: str) -> np.ndarray:
        """An array that the computation starts from.

        Raises KeyError if it is not there, and ValueError if it has NaN or infinity in it, which
        would not be seen if that number should have no effect.
        """
        values = self._take(array)
        if not np.all(np.isfinite(values)):
            raise ValueError(f"{array} has numbers that are not finite")
        return values

    def _take(self, array: str) -> np.ndarray:
        self._unused.discard(array)
        return self._arrays[array]

    def number(self, array: str) -> int:
        """An input that is a single whole number."""
        return int(self.input(array))

    def timesteps(self, array: str, schedule: Schedule) -> Int[Array, " N"]:
        """An input of timesteps. Raises ValueError beyond the schedule, where JAX would clamp."""
        values = self.input(array)
        if values.min() < 0 or values.max() >= schedule.timesteps:
            raise ValueError(f"{array} has timesteps outside 0..{schedule.timesteps - 1}")
        return jnp.asarray(values, jnp.int32)

    def expect(self, array: str, ours: Any, limit: float, relative: bool = False) -> None:
        """Compares an output: largest absolute error, or `relative` to the largest value."""
        expected = self._take(array)
        self.add(f"{self.name}:{array}", ours, expected, limit, relative)

    def add(
        self, case: str, ours: Any, expected: Any, limit: float, relative: bool = False
    ) -> None:
        """Adds a comparison of two arrays under any name."""
        self.cases.append(compare(case, ours, expected, limit, relative))

    def finish(self) -> list[Case]:
        """All cases of the file, with a failure for each array that was not looked at."""
        return self.cases + [
            failure(f"{self.name}:{array}", "not exercised") for array in sorted(self._unused)
        ]


def compare(case: str, ours: Any, expected: Any, limit: float, relative: bool = False) -> Case:
    """The largest absolute error of an array, over its largest value if `relative`."""
    ours, expected = np.asarray(ours), np.asarray(expected)
    if ours.shape != expected.shape:
        return failure(case, f"has shape {ours.shape}, the reference {expected.shape}", limit)
    if expected.size == 0:
        return failure(case, "is empty", limit)
    with np.errstate(invalid="ignore"):  # infinity less infinity is NaN
        difference = np.abs(ours.astype(np.float64) - expected.astype(np.float64))
    error = float(np.max(difference))
    if relative:
        error /= float(np.max(np.abs(expected)))
    return Case(case, error, limit, passed=bool(error <= limit))  # NaN fails


def failure(case: str, note: str, limit: float = 0.0) -> Case:
    """A case that failed without a number."""
    return Case(case, float("nan"), limit, passed=False, note=note)


def read_npz(root: Path, name: str) -> GoldenFile:
    """The arrays of `root/name`. Raises ValueError if it is not an npz file of plain arrays."""
    try:
        # np.load leaves a file that it cannot read open if it opened it itself.
        with (root / name).open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            return GoldenFile(name, {array: file[array] for array in file.files})
    except Exception as error:  # zip, header and decompression errors are of many kinds
        raise ValueError(f"{root / name}: not a readable npz file ({error})") from error
