"""What a function computes on its way, where it names it with `checkpoint_name`."""

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import jax
from jax.extend.core import jaxpr_as_fun

from m2dit_jax.utils.compat import with_outputs


def named_values(function: Callable[..., jax.Array], *args: Any) -> dict[str, list[jax.Array]]:
    """Every named value of `function(*args)`, in the order of computation; "" is the result.

    Names within a scan, a remat or a jit are not seen: unroll the blocks.
    """
    closed = jax.make_jaxpr(function)(*args)
    jaxpr = closed.jaxpr
    named = [equation for equation in jaxpr.eqns if equation.primitive.name == "name"]
    outputs = [*jaxpr.outvars, *(equation.outvars[0] for equation in named)]
    run = jax.jit(jaxpr_as_fun(with_outputs(closed, outputs)))
    result, *values = run(*jax.tree.leaves(args))
    found = defaultdict(list, {"": [result]})
    for equation, value in zip(named, values, strict=True):
        found[equation.params["name"]].append(value)
    return dict(found)
