import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name

from m2dit_jax.tools.parity.intermediates import named_values


def function(x, tree):
    squares = checkpoint_name(x**2, "squares")
    for factor in (tree["a"], tree["b"]):
        squares = checkpoint_name(squares * factor, "product")
    return squares.sum()


def test_named_values_come_with_the_result_in_the_order_of_computation():
    x = jnp.array([1.0, 2.0])
    values = named_values(function, x, {"a": jnp.float32(3), "b": jnp.float32(10)})
    assert values.keys() == {"", "squares", "product"}
    np.testing.assert_array_equal(values[""], [150.0])
    np.testing.assert_array_equal(values["squares"], [[1.0, 4.0]])
    np.testing.assert_array_equal(values["product"], [[3.0, 12.0], [30.0, 120.0]])


def test_a_function_without_names_has_a_result_only():
    assert named_values(lambda x: x + 1, jnp.float32(1)).keys() == {""}


def test_names_within_a_scan_are_not_seen():
    def scanned(x):
        return jax.lax.scan(lambda c, _: (checkpoint_name(c + 1, "inner"), None), x, length=3)[0]

    values = named_values(scanned, jnp.float32(0))
    assert values.keys() == {""}
    assert values[""][0] == 3


def test_constants_of_the_function_are_kept():
    constant = jnp.arange(3.0)
    values = named_values(lambda x: checkpoint_name(x * constant, "product").sum(), jnp.float32(2))
    np.testing.assert_array_equal(values["product"][0], [0, 2, 4])
    assert values[""][0] == 6
