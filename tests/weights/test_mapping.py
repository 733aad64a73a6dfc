import jax
import numpy as np
import pytest

from m2dit_jax.models.key_rules import Rule
from m2dit_jax.weights.lazy import Tensor
from m2dit_jax.weights.mapping import (
    check_shapes,
    expected_parts,
    flatten,
    leaves_from_tensors,
    tensors_from_leaves,
)

TABLE = (
    Rule("proj.weight", "embed.kernel", "patch"),
    Rule("h.{layer}.fc.weight", "blocks.kernel", "linear"),
    Rule("list.{layer}.bias", "list.{layer}.bias"),
    Rule("shared.weight", "shared"),
)


def like(*shape):
    return jax.ShapeDtypeStruct(shape, np.float32)


ABSTRACT = {
    "embed": {"kernel": like(12, 5)},
    "blocks": {"kernel": like(2, 3, 4)},
    "list": {0: {"bias": like(2)}, 1: {"bias": like(3)}},
    "shared": like(7, 2),
}
SHAPES = {
    "proj.weight": (5, 3, 2, 2),
    "h.0.fc.weight": (4, 3),
    "h.1.fc.weight": (4, 3),
    "list.0.bias": (2,),
    "list.1.bias": (3,),
    "shared.weight": (7, 2),
}
PARTS = expected_parts(TABLE, ABSTRACT, window=(2, 2))


def tensors(dtypes=(), **shapes):
    """Numbers 0, 1, 2, ... in tensors of SHAPES and `shapes`; None leaves one out."""
    dtypes = dict(dtypes)
    return {
        name: Tensor(
            shape,
            np.dtype(dtypes.get(name, np.float32)),
            lambda shape=shape: np.arange(np.prod(shape), dtype=np.float32).reshape(shape),
        )
        for name, shape in (SHAPES | shapes).items()
        if shape is not None
    }


def test_pytorch_has_these_shapes():
    assert {name: part.shape for name, part in PARTS.items()} == SHAPES


def test_without_a_window_patches_are_embedded_by_a_linear_layer():
    assert expected_parts(TABLE, ABSTRACT, ())["proj.weight"].shape == (5, 12)


def test_our_leaves_have_the_shapes_of_the_abstract_tree():
    leaves = leaves_from_tensors(PARTS, tensors())
    assert {name: leaf.shape for name, leaf in leaves.items()} == {
        name: leaf.shape for name, leaf in flatten(ABSTRACT).items()
    }


def test_layers_are_stacked_in_order():
    found = tensors()
    kernel = leaves_from_tensors(PARTS, found)["blocks.kernel"].read()
    for layer in (0, 1):
        np.testing.assert_array_equal(kernel[layer], found[f"h.{layer}.fc.weight"].read().T)


def test_there_and_back():
    found = tensors()
    back = tensors_from_leaves(PARTS, leaves_from_tensors(PARTS, found))
    assert back.keys() == found.keys()
    for name, tensor in back.items():
        assert tensor.shape == found[name].shape
        np.testing.assert_array_equal(tensor.read(), found[name].read())


def problems(*args, **shapes):
    with pytest.raises(ValueError) as caught:
        leaves_from_tensors(PARTS, tensors(*args, **shapes))
    return str(caught.value).splitlines()


def test_all_problems_are_reported_together():
    assert problems(
        **{"shared.weight": None, "x": (1,), "y": (2,), "list.0.bias": (9,), "proj.weight": (5, 12)}
    ) == [
        "1 missing: shared.weight (7, 2)",
        "2 unexpected: x (1,), y (2,)",
        "2 of another shape: proj.weight (found (5, 12), needs (5, 3, 2, 2)), "
        "list.0.bias (found (9,), needs (2,))",
    ]


def test_a_hole_in_the_layers_is_missing_and_one_too_many_is_unexpected():
    assert problems(**{"h.0.fc.weight": None, "h.2.fc.weight": (4, 3)}) == [
        "1 missing: h.0.fc.weight (4, 3)",
        "1 unexpected: h.2.fc.weight (4, 3)",
    ]


def test_a_long_list_is_abbreviated_but_counted():
    (line,) = problems(**{f"x{number}": (1,) for number in range(100)})
    assert line.startswith("100 unexpected: x0 (1,), x1 (1,)")
    assert line.endswith("and 92 more")


def test_layers_of_different_dtypes_do_not_stack():
    (line,) = problems({"h.1.fc.weight": np.float16})
    assert line.startswith("the layers of blocks.kernel (float16, float32) have different dtypes")


def test_the_second_name_of_the_t5_embeddings_is_ignored_if_it_has_their_shape():
    leaves_from_tensors(PARTS, tensors(**{"encoder.embed_tokens.weight": (7, 2)}))
    assert problems(**{"encoder.embed_tokens.weight": (7, 3)}) == [
        "1 unexpected: encoder.embed_tokens.weight (7, 3)"
    ]


def test_a_leaf_that_no_rule_is_about():
    with pytest.raises(ValueError, match="no rule for other.kernel"):
        expected_parts(TABLE, ABSTRACT | {"other": {"kernel": like(1)}}, ())


def test_all_shapes_that_differ_are_named_layers_of_which_the_same_is_said_together():
    found = {f"h.{layer}.fc": (2,) for layer in range(30)} | {"h.30.fc": (5,), "z": (1,)}
    with pytest.raises(ValueError) as caught:
        check_shapes(found, {name: (3,) for name in found})
    assert str(caught.value) == (
        "32 of another shape: h.*.fc (found (2,), needs (3,)), h.30.fc (found (5,), needs (3,)), "
        "z (found (1,), needs (3,))"
    )
