import jax
import jax.numpy as jnp
import numpy as np
import pytest

from m2dit_jax.models.remat import REMAT
from m2dit_jax.models.stacked import over_layers, with_remat

TOKENS = jnp.arange(6.0).reshape(1, 3, 2)
LAYERS = jnp.array([2.0, 3.0, 5.0])
MASKS = ("one", "two", "two")


def run_layer(mask, tokens, layer):
    tokens = tokens * layer + (mask == "two")
    return tokens, tokens.sum()


@pytest.mark.parametrize("scan", [True, False])
def test_layers_run_one_after_the_other_each_with_its_mask(scan):
    tokens, kept = over_layers(run_layer, MASKS, scan, TOKENS, LAYERS)
    np.testing.assert_allclose(tokens, (TOKENS * 2 * 3 + 1) * 5 + 1)
    np.testing.assert_allclose(kept, [30, 96, 486])


@pytest.mark.parametrize("remat", REMAT)
def test_remat_changes_no_gradient(remat):
    def total(layers):
        run = with_remat(run_layer, remat, scan=True)
        return over_layers(run, ("one",) * 3, True, TOKENS, layers)[0].sum()

    expected = 15 * jnp.array([15.0, 10.0, 6.0])
    np.testing.assert_allclose(jax.grad(total)(LAYERS), expected)
