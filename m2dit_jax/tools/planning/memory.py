"""Memory of a device: what of the state it holds, and what a compiled program takes."""

import math
import re
from typing import Any

import jax
from jax.stages import Compiled

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def local_bytes(tree: Any) -> int:
    """Bytes of the parts of all arrays (or shapes with shardings) that one device holds."""
    return sum(
        math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree)
    )


def program_bytes(compiled: Compiled) -> int:
    """Bytes that a program takes of a device: arguments, results, temporaries and its code.

    All allocations together, and not only what is in use at the same moment: that they are cut
    from the memory in one piece costs a little more.
    """
    analysis: Any = compiled.memory_analysis()
    return (
        analysis.argument_size_in_bytes
        + analysis.output_size_in_bytes
        - analysis.alias_size_in_bytes
        + analysis.temp_size_in_bytes
        + analysis.generated_code_size_in_bytes
    )


def bytes_that_did_not_fit(message: str, held: int) -> int | None:
    """Bytes that a program would take, from the compiler's message that it is too much, or None.

    `held` are the bytes of its arguments, as one of the messages speaks of temporaries only.
    """
    for pattern, beside in (
        (r"[Uu]sed ([\d.]+)([KMGT]?) of [\d.]+[KMGT]? ?hbm", 0),
        (r"required for HLO temporaries \(([\d.]+)([KMGT]?)\) exceeds available HBM", held),
    ):
        found = re.search(pattern, message)
        if found:
            return int(float(found[1]) * _UNITS[found[2]]) + beside
    return None
