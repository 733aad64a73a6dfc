import jax
import jax.numpy as jnp
import numpy as np
import pytest

from m2dit_jax.models.layout import Layout
from m2dit_jax.models.masks import scene_mask
from m2dit_jax.tools.planning.compiled_flops import _splash_flops, compiled_flops, visible_blocks
from m2dit_jax.tools.planning.hlo import ArrayShape, parse


def flops_of(function, *arguments):
    """Of the program before the compiler changes it: that is where convolutions are whole."""
    text = jax.jit(function).lower(*arguments).as_text(dialect="hlo")
    return compiled_flops(parse(text), None, "").total


def test_products_of_matrices():
    x, y = jnp.ones((3, 4, 5)), jnp.ones((3, 5, 6))
    assert flops_of(jnp.matmul, x, y) == 2 * 3 * 4 * 5 * 6


@pytest.mark.parametrize(
    ("window", "met"),
    [
        ({"padding": "VALID"}, 4 * 3),
        ({"padding": "SAME"}, 6 * 3 - 2),  # at both ends one weight lies on padding
        ({"padding": "VALID", "window_strides": (2,)}, 2 * 3),
        ({"padding": "VALID", "rhs_dilation": (2,)}, 2 * 3),
        # 11 positions, of which every other holds a number: 2, 1, 2, ... of them under 3 weights.
        ({"padding": ((0, 0),), "lhs_dilation": (2,)}, 5 * 2 + 4 * 1),
    ],
)
def test_convolutions_count_the_weights_that_meet_numbers(window, met):
    image, kernel = jnp.ones((2, 6, 5)), jnp.ones((3, 5, 7))
    window = {"window_strides": (1,)} | window

    def convolve(image, kernel):
        return jax.lax.conv_general_dilated(
            image, kernel, dimension_numbers=("NWC", "WIO", "NWC"), **window
        )

    assert flops_of(convolve, image, kernel) == 2 * met * 2 * 5 * 7


def test_convolutions_in_groups():
    image, kernel = jnp.ones((2, 6, 4)), jnp.ones((1, 2, 6))

    def convolve(image, kernel):
        return jax.lax.conv_general_dilated(
            image,
            kernel,
            (1,),
            "VALID",
            dimension_numbers=("NWC", "WIO", "NWC"),
            feature_group_count=2,
        )

    assert flops_of(convolve, image, kernel) == 2 * 2 * 6 * 6 * 2


def kernel_module(line, *parameters):
    operands = ", ".join(f"%p{i}" for i in range(len(parameters)))
    inside = "\n".join(f"  %p{i} = {p} parameter({i})" for i, p in enumerate(parameters))
    line = line.replace("OPERANDS", operands)
    return parse(f"HloModule m\n\nENTRY %main () -> f32[] {{\n{inside}\n  {line}\n}}\n")


def test_splash_kernels_in_closed_form():
    layout = Layout(2, 128, 256)
    heads = ["bf16[4,768,64]{2,1,0}"] * 3
    for name, products in (("fwd_residuals.2", 2), ("dq_no_residuals", 3), ("dkv.1", 4)):
        line = f"%splash_mha_{name} = bf16[4,768,64]{{2,1,0}} custom-call(OPERANDS), x=1"
        module = kernel_module(line, "s8[1,6,6]{2,1,0}", *heads)
        flops = compiled_flops(module, layout, "symmetric")
        # Whole blocks here: so exactly what the mask allows.
        pairs = int(np.asarray(scene_mask(layout)).sum())
        assert flops == (0, products * 2 * 4 * 64 * pairs)


def test_cudnn_convolutions_are_products():
    line = (
        "%conv = (bf16[2,6,8]{2,1,0}, u8[0]{0}) custom-call(OPERANDS), window={size=3 pad=1_1}, "
        'dim_labels=b0f_o0i->b0f, custom_call_target="__cudnn$convForward"'
    )
    module = kernel_module(line, "bf16[2,6,4]{2,1,0}", "bf16[8,3,4]{2,1,0}")
    assert compiled_flops(module, None, "") == (2 * (6 * 3 - 2) * 2 * 4 * 8, 0)


def test_cudnn_attention_in_closed_form():
    line = (
        '%attend = bf16[1,4,6,8]{3,2,1,0} custom-call(OPERANDS), custom_call_target="TARGET", '
        'backend_config={"cudnn_fmha_backend_config": {"intermediate_tensor_shape": '
        '{"element_type": "BF16", "dimensions": ["1", "4", "6", "10"], "tuple_shapes": []}}}'
    )
    for target, products in (("__cudnn$fmhaSoftmax", 2), ("__cudnn$fmhaSoftmaxBackward", 5)):
        module = kernel_module(line.replace("TARGET", target), "bf16[1,6,4,8]{3,2,1,0}")
        assert compiled_flops(module, None, "").kernels == products * 2 * 4 * 6 * 10 * 8


@pytest.mark.parametrize("mask", ["symmetric", "independent", "full", "first_frame"])
def test_visible_blocks_are_those_with_any_pair(mask):
    layout = Layout(2, 4, 6, padding=4, frame=2)
    allowed = np.asarray(scene_mask(layout, mask))
    expected = sum(
        allowed[r : r + 4, c : c + 2].any() for r in range(0, 24, 4) for c in range(0, 24, 2)
    )
    assert visible_blocks(layout, mask, 24, 24, 4, 2) == expected
    assert 0 < expected < 6 * 12


def test_blocks_of_a_part_of_the_queries():
    layout = Layout(2, 4, 12)  # 32 tokens, a half of the queries is 16
    assert visible_blocks(layout, "full", 16, 32, 4, 4, 2) == 4 * 8
    # In blocks of 2 rows and 4 columns: each text sees itself and its video, a block and 3 of them;
    # 6 blocks of video see one text and 6 blocks of video.
    assert visible_blocks(layout, "symmetric", 16, 32, 2, 4, 2) == 2 * 4 + 6 * 7


def test_kernels_of_a_model_whose_text_is_no_part_of_the_sequence():
    """Video of 3 scenes to itself, all of which is seen; and each scene's video to its text."""
    layout = Layout(3, 512, 4096)
    blocks = ArrayShape("s8", (1, 24, 12))
    video = ArrayShape("bf16", (12, 12_288, 128))
    assert _splash_flops([blocks, video, video], layout, "symmetric", 1) == 2 * 12 * 128 * 12_288**2
    blocks = ArrayShape("s8", (1, 8, 4))
    query, text = (ArrayShape("bf16", (3, 12, tokens, 136)) for tokens in (4096, 512))
    flops = _splash_flops([blocks, query, text], layout, "symmetric", 1)
    assert flops == 2 * 3 * 12 * 136 * 4096 * 512
