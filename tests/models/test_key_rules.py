import numpy as np
import pytest

from m2dit_jax.models.key_rules import CHANGES, Rule


@pytest.mark.parametrize(
    "change, torch_shape, jax_shape",
    [
        ("same", (3,), (3,)),
        ("linear", (5, 3), (3, 5)),
        ("patch", (5, 3, 2, 2), (12, 5)),
        ("conv", (5, 4, 3, 2, 1), (3, 2, 1, 4, 5)),
    ],
)
def test_a_change_of_layout_has_an_exact_inverse(change, torch_shape, jax_shape):
    values = np.arange(np.prod(torch_shape)).reshape(torch_shape)
    ours = CHANGES[change].to_jax(values)
    assert ours.shape == jax_shape
    np.testing.assert_array_equal(CHANGES[change].to_torch(ours, torch_shape), values)


def test_places_have_the_same_numbers_on_both_sides():
    rule = Rule("up.{block}.resnets.{layer}.weight", "up.{block}.{layer}.kernel")
    assert not rule.layer_axis
    assert rule.torch_names("up.3.11.kernel") == ["up.3.resnets.11.weight"]
    assert rule.torch_names("up.x.11.kernel") is None
    assert rule.torch_names("xup.3.11.kernel") is None


def test_a_place_that_only_pytorch_has_is_a_layer_axis():
    rule = Rule("h.{layer}.bias", "blocks.bias")
    assert rule.layer_axis
    assert rule.torch_names("blocks.bias", 3) == ["h.0.bias", "h.1.bias", "h.2.bias"]
