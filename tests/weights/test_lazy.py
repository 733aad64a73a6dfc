import ml_dtypes
import numpy as np
import pytest

from m2dit_jax.weights.lazy import Leaf, Tensor


def tensor(values):
    values = np.asarray(values)
    return Tensor(values.shape, values.dtype, lambda: values)


def test_a_stacked_leaf_has_its_pieces_as_layers():
    leaf = Leaf((tensor([1.0, 2.0]), tensor([3.0, 4.0])), stacked=True)
    assert (leaf.shape, leaf.nbytes) == ((2, 2), 32)
    np.testing.assert_array_equal(leaf.read(), [[1.0, 2.0], [3.0, 4.0]])


def test_a_leaf_of_one_layer_keeps_its_axis():
    assert Leaf((tensor([1.0, 2.0]),), stacked=True).read().shape == (1, 2)
    assert Leaf((tensor([1.0, 2.0]),), stacked=False).read().shape == (2,)


def test_a_cast_rounds_to_the_nearest():
    cast = tensor(np.float32([1 + 2**-8 + 2**-9, np.inf, np.nan])).cast(
        np.dtype(ml_dtypes.bfloat16)
    )
    assert cast.nbytes == 6
    np.testing.assert_array_equal(cast.read().astype(np.float32), [1 + 2**-7, np.inf, np.nan])


def test_a_number_too_large_for_the_dtype_is_refused():
    with pytest.raises(ValueError, match="70000 is too large for float16"):
        tensor(np.float32([1.0, 70000.0])).cast(np.dtype(np.float16)).read()
