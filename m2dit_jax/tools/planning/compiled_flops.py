"""Floating-point operations of a compiled program, of one device, from its HLO text.

Products of matrices and convolutions only, a product and its sum as two. Attention kernels are not
open to the compiler: their operations are given in closed form, from the shapes that they are
called with.
"""

import math
import re
from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from m2dit_jax.models.layout import Layout
from m2dit_jax.models.masks import base_mask, block_masks, key_runs, segment_table
from m2dit_jax.tools.planning.hlo import ArrayShape, Instruction, Module

# Products of matrices that a kernel makes, by a part of its name: forward, the logits and the
# weighted values. Splash's backward pass makes the logits twice, once for dk and dv, once for dq.
_SPLASH_PRODUCTS = {"splash_mha_fwd": 2, "splash_mha_dkv": 4, "splash_mha_dq": 3}
_CUDNN_PRODUCTS = {"__cudnn$fmhaSoftmaxBackward": 5, "__cudnn$fmhaSoftmax": 2}


class CompiledFlops(NamedTuple):
    """Operations of one device: those that the compiler sees, and those of attention kernels."""

    products: int
    kernels: int

    @property
    def total(self) -> int:
        """Both."""
        return self.products + self.kernels


def compiled_flops(
    module: Module, layout: Layout | None, mask: str, parts: int = 1
) -> CompiledFlops:
    """`layout` and `mask` are those of the attention, for kernels which skip what nobody sees.

    A kernel has one of so many `parts` of the queries (`parallel.heads`).
    """
    products = kernels = 0
    for computation, instruction, count in module.instructions():
        shapes = module.operand_shapes(computation, instruction)
        products += count * product_flops(instruction, shapes)
        if instruction.opcode == "custom-call":
            kernels += count * _kernel_flops(instruction, shapes, layout, mask, parts)
    return CompiledFlops(products, kernels)


def product_flops(instruction: Instruction, operands: list[ArrayShape]) -> int:
    """Operations of a product of matrices or a convolution; 0 for every other instruction."""
    if instruction.opcode == "dot":
        contracted = _indices(instruction.attributes, "lhs_contracting_dims")
        return (
            2 * instruction.shapes[0].elements * math.prod(operands[0].dims[i] for i in contracted)
        )
    if instruction.opcode == "convolution" or "__cudnn$conv" in instruction.attributes:
        return _convolution_flops(instruction, *operands[:2])
    if "__cublas$" in instruction.attributes:
        return _gemm_flops(instruction, operands)
    return 0


def _convolution_flops(instruction: Instruction, image: ArrayShape, kernel: ArrayShape) -> int:
    """The pairs of a position and a weight that meet, in each spatial dimension, times the rest."""
    attributes, out = instruction.attributes, instruction.shapes[0]
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", attributes)
    if labels is None:
        raise ValueError(f"a convolution without dim_labels: {instruction.name}")
    image_dims, kernel_dims, out_dims = labels.groups()
    windows = _window(attributes, sum(label.isdigit() for label in image_dims))
    met = 1
    for number, window in enumerate(windows):
        met *= _pairs_that_meet(
            image.dims[image_dims.index(str(number))],
            kernel.dims[kernel_dims.index(str(number))],
            out.dims[out_dims.index(str(number))],
            window,
        )
    groups = re.search(r"batch_group_count=(\d+)", attributes)
    batch = image.dims[image_dims.index("b")] // int(groups[1] if groups else 1)
    return 2 * met * batch * out.dims[out_dims.index("f")] * kernel.dims[kernel_dims.index("i")]


class _Window(NamedTuple):
    stride: int = 1
    padding: int = 0
    image_dilation: int = 1
    kernel_dilation: int = 1


def _window(attributes: str, dimensions: int) -> list[_Window]:
    text = re.search(r"window=\{([^}]*)\}", attributes)
    fields = dict(part.split("=") for part in text[1].split()) if text else {}

    def values(name: str, default: str) -> list[int]:
        if name not in fields:
            return [int(default)] * dimensions
        return [int(value.split("_")[0]) for value in fields[name].split("x")]

    return [
        _Window(*each)
        for each in zip(
            values("stride", "1"),
            values("pad", "0"),
            values("lhs_dilate", "1"),
            values("rhs_dilate", "1"),
            strict=True,
        )
    ]


@lru_cache(maxsize=4096)
def _pairs_that_meet(image: int, kernel: int, out: int, window: _Window) -> int:
    """Pairs of an output position and a weight of the kernel that do not meet padding."""
    starts = np.arange(out, dtype=np.int64) * window.stride - window.padding
    last = (image - 1) * window.image_dilation
    pairs = 0
    for weight in range(kernel):
        at = starts + weight * window.kernel_dilation
        pairs += int(((at >= 0) & (at <= last) & (at % window.image_dilation == 0)).sum())
    return pairs


def _kernel_flops(
    instruction: Instruction,
    operands: list[ArrayShape],
    layout: Layout | None,
    mask: str,
    parts: int,
) -> int:
    for target, products in _CUDNN_PRODUCTS.items():
        if f'"{target}"' in instruction.attributes:
            logits = re.search(
                r'"intermediate_tensor_shape":.*?"dimensions": ?\[([^\]]*)\]',
                instruction.attributes,
            )
            if logits is None:
                raise ValueError(f"{instruction.name}: no shape of the logits in its text")
            sizes = [int(size) for size in re.findall(r"\d+", logits[1])]
            return 2 * products * math.prod(sizes) * operands[0].dims[-1]
    for name, products in _SPLASH_PRODUCTS.items():
        if instruction.name.startswith(name) and layout is not None:
            return products * _splash_flops(operands, layout, mask, parts)
    return 0


def _splash_flops(operands: list[ArrayShape], layout: Layout, mask: str, parts: int) -> int:
    """Operations of one product: the kernel works on whole blocks that somebody sees.

    Where masks differ from block to block of the model it is their mean, over 30 of them.
    """
    blocks = next(shape.dims[-2:] for shape in operands if shape.dtype == "s8")
    query, key = [shape for shape in operands if shape.dtype != "s8" and len(shape.dims) > 2][:2]
    *heads, rows, width = query.dims
    columns = key.dims[-2]
    # In the kernel for dk and dv the table of blocks lies the other way.
    if rows % blocks[0] or columns % blocks[1]:
        blocks = blocks[::-1]
    sizes = rows // blocks[0], columns // blocks[1]
    video = layout.real_tokens - layout.text_tokens
    if columns < video:  # cross-attention: whole texts, without a mask
        return 2 * math.prod(heads) * width * rows * columns
    if columns < layout.tokens:  # of a model whose text is no part of the sequence
        layout = replace(layout, text=0, padding=0)
    masks = block_masks(mask, 30)
    seen = sum(visible_blocks(layout, one, rows, columns, *sizes, parts) for one in masks)
    return 2 * math.prod(heads) * width * seen * math.prod(sizes) // len(masks)


@lru_cache(maxsize=64)
def visible_blocks(
    layout: Layout,
    mask: str,
    rows: int,
    columns: int,
    row_block: int,
    column_block: int,
    parts: int = 1,
) -> int:
    """Blocks of the mask in which any query sees any key.

    Rows and columns may be more than the layout's tokens: the rest lies beyond it. Rows are one of
    so many parts of them.
    """
    table = np.pad(np.asarray(segment_table(layout, base_mask(mask))), ((0, 1), (0, 1)))
    table[-1, -1] = True  # what lies beyond sees itself

    def present(ids: np.ndarray, last: int, length: int, block: int) -> np.ndarray:
        """A row for each block: the rows or columns of the table that it has tokens of."""
        beyond = np.full(length - len(ids), last)
        blocks = np.concatenate([ids, beyond]).reshape(-1, block)
        return np.stack([(blocks == i).any(1) for i in range(last + 1)], axis=1).astype(int)

    queries, keys = layout.share(parts).segments(), key_runs(layout, mask).ids()
    meet = (
        present(queries, len(table) - 1, rows, row_block)
        @ table.astype(int)
        @ present(keys, table.shape[1] - 1, columns, column_block).T
    )
    return int((meet > 0).sum())


def _gemm_flops(instruction: Instruction, operands: list[ArrayShape]) -> int:
    contracted = re.search(r'"lhs_contracting_dimensions": ?\[([^\]]*)\]', instruction.attributes)
    if contracted is None:
        return 0
    inner = math.prod(operands[0].dims[int(i)] for i in re.findall(r"\d+", contracted[1]))
    return 2 * instruction.shapes[0].elements * inner


def _indices(attributes: str, name: str) -> list[int]:
    match = re.search(rf"{name}=\{{([\d,]*)\}}", attributes)
    return [int(index) for index in match[1].split(",") if index] if match else []
