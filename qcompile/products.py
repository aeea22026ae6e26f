# SPDX-License-Identifier: Apache-2.0
"""Reading weighted products: where the weight is, and what fuses with the output."""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from qcompile.graph import (
    attribute,
    constant,
    input_of,
    is_constant,
    is_op,
    only_consumer,
    rank,
    static_shape,
)
from qcompile.numerics.conv import Window

# The least number of those in use for "never": BERT's. A mask is added like a bias, but no data:
# it sets no range.
MASK = 1e4


def weight_of(node: ir.Node) -> ir.Value | None:
    """The constant weight of a node: [N, K], [N, C/g, kh, kw] or a table; through a Transpose."""
    value = node.inputs[0] if is_op(node, "Gather") else input_of(node, 1)
    if value is not None and is_op(value.producer(), "Transpose") and is_op(node, "MatMul"):
        producer = value.producer()
        assert producer is not None
        value = producer.inputs[0]
    return value if is_constant(value) else None


def fused_end(node: ir.Node) -> ir.Value:
    """The end of what fuses with the node: a constant bias (MatMul), then Relu or Clip."""
    value = node.outputs[0]
    if is_op(node, "MatMul"):
        value = end_of_bias(value) or value
    follower = only_consumer(value)
    return follower.outputs[0] if follower is not None and is_relu(follower) else value


def end_of_bias(value: ir.Value) -> ir.Value | None:
    """The output of an Add of a constant vector that alone reads the value."""
    follower = only_consumer(value)
    if follower is None or not is_op(follower, "Add"):
        return None
    other = next((v for v in follower.inputs if v is not value), None)
    if other is None or not is_constant(other) or rank(other) != 1 or value.shape is None:
        return None
    if is_mask(other):
        return None
    return follower.outputs[0] if static_shape(other) == (value.shape[-1],) else None


def is_depthwise(node: ir.Node, dims: Sequence[int]) -> bool:
    """Whether every output channel has an input channel of its own; dims those of the weight."""
    group = int(attribute(node, "group", 1)) if is_op(node, "Conv") else 1
    return group > 1 and dims[0] == group and dims[1] == 1


def is_by_channel(node: ir.Node, scale: NDArray, zero_point: NDArray) -> bool:
    """Whether the pair has a scale for each index of axis 1, and one zero point for all."""
    is_one = zero_point.size == scale.size and (zero_point == zero_point.flat[0]).all()
    is_vector = scale.ndim == 1 and not attribute(node, "block_size", 0)
    return bool(is_one and is_vector and attribute(node, "axis", 1) == 1)


def is_mask(value: ir.Value) -> bool:
    """Whether a constant holds an infinity or a number as large as one that stands for it.

    >>> is_mask(ir.Value(const_value=ir.tensor(np.array([0, -1e9], np.float32))))
    True
    """
    array = constant(value)
    return array is not None and array.size > 0 and not float(np.abs(array).max()) < MASK


def is_relu(node: ir.Node) -> bool:
    """Relu, or Clip between constants."""
    return is_op(node, "Relu") or (
        is_op(node, "Clip") and all(v is None or is_constant(v) for v in node.inputs[1:])
    )


def code_bounds(node: ir.Node, least: int = 0, largest: int = 255) -> tuple[int, int] | None:
    """What a Clip of codes clamps to; None: a bound is computed at run time.

    A bound that is left out (PyTorch omits what the type says) is the least or the largest code.
    """
    given = [(input_of(node, 1), least), (input_of(node, 2), largest)]
    if any(value is not None and not is_constant(value) for value, _ in given):
        return None
    low, high = (end if v is None else int(np.asarray(constant(v)).item()) for v, end in given)
    return low, high


def window_of(node: ir.Node, kernel: tuple[int, int]) -> Window:
    """The window of a 2-D Conv or pool."""
    strides = tuple(attribute(node, "strides", (1, 1)))
    pads = tuple(attribute(node, "pads", (0, 0, 0, 0)))
    dilations = tuple(attribute(node, "dilations", (1, 1)))
    return Window(kernel, strides, pads, dilations)


def odd_groups(node: ir.Node, outputs: int) -> str | None:
    """The reason why a Conv of so many outputs is none, or None."""
    group = attribute(node, "group", 1) if is_op(node, "Conv") else 1
    if isinstance(group, int) and group > 0 and outputs % group == 0:
        return None
    return f"it has {outputs} outputs in {group} groups"
