import ml_dtypes
import numpy as np
import pytest

from m2dit_jax.weights.lazy import Leaf, Tensor, layered


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


def test_the_layers_of_arrays_are_read_one_array_after_the_other_each_once():
    values = {"a": np.arange(6.0).reshape(3, 2), "b": np.ones((2, 2)), "c": np.zeros(4)}
    read = []

    def counted(name):
        x = values[name]
        return Tensor(x.shape, x.dtype, lambda: (read.append(name), x)[1])

    leaves = layered({name: counted(name) for name in values}, {"a", "b"})
    assert read == []
    for name, x in values.items():
        assert leaves[name].stacked == (name != "c") and leaves[name].shape == x.shape
        np.testing.assert_array_equal(leaves[name].read(), x)
    assert read == ["a", "b", "c"]
    np.testing.assert_array_equal(leaves["a"].pieces[2].read(), [4.0, 5.0])
    assert read[3:] == ["a"]  # only the latest is kept
