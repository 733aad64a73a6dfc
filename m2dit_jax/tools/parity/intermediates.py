"""What a function computes on its way, where it names it with `checkpoint_name`."""

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, jaxpr_as_fun


def named_values(function: Callable[..., jax.Array], *args: Any) -> dict[str, list[jax.Array]]:
    """Every named value of `function(*args)`, in the order of computation; "" is the result.

    Names within a scan, a remat or a jit are not seen: unroll the blocks.
    """
    closed = jax.make_jaxpr(function)(*args)
    jaxpr = closed.jaxpr
    named = [equation for equation in jaxpr.eqns if equation.primitive.name == "name"]
    outputs = [*jaxpr.outvars, *(equation.outvars[0] for equation in named)]
    info = jaxpr.debug_info._replace(result_paths=None)
    wanted = Jaxpr(jaxpr.constvars, jaxpr.invars, outputs, jaxpr.eqns, debug_info=info)
    run = jax.jit(jaxpr_as_fun(ClosedJaxpr(wanted, closed.consts)))
    result, *values = run(*jax.tree.leaves(args))
    found = defaultdict(list, {"": [result]})
    for equation, value in zip(named, values, strict=True):
        found[equation.params["name"]].append(value)
    return dict(found)
