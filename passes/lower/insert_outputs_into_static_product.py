# SPDX-License-Identifier: Apache-2.0
"""Insert outputs of zeros into a static product, so that their number is a multiple of 32.

Before:
    { w = DequantizeLinear <axis = 0> (w_codes, w_scale)   y = Conv (x_dequantized, w)
      y_codes = QuantizeLinear (y, s, z) }
After:
    { w = DequantizeLinear <axis = 0> (w_wide_codes, w_wide_scale)   y = Conv (x_dequantized, w)
      y_wide_codes = QuantizeLinear (y, s, z)   y_codes = Slice (y_wide_codes, [0], [N], [1]) }
Refuses: products that insert_columns_into_matmul_integer would leave alone; a Conv that has a
kernel of its own, has groups or gives floats; a weight with other readers.

The reason is that of insert_columns_into_matmul_integer. The Slice stands behind the codes where
the output becomes codes, so that ONNX Runtime fuses both quantizers, else behind the product.
"""

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from qcompile.graph import (
    attribute,
    constant,
    derived_initializer,
    input_of,
    is_constant,
    is_op,
    only_consumer,
    static_shape,
)
from qcompile.passes.lower.insert_columns_into_matmul_integer import (
    TILES,
    is_wrong_with_amx,
    slice_outputs,
    widen_shape,
)
from qcompile.passes.lower.qdq import end_of, static_of, weight_codes_of
from qcompile.passes.rewrite import NodePass


class InsertOutputsIntoStaticProduct(NodePass):
    """Conv, Gemm and MatMul on static codes."""

    stage = "lower"
    op_types = ("Conv", "Gemm", "MatMul")

    def match(self, node: ir.Node) -> tuple[ir.Node, int] | str | None:
        """What dequantizes the weight, and N."""
        weight = weight_codes_of(node.inputs[1])
        dims = static_shape(weight.codes) if weight is not None else None
        if weight is None or dims is None or static_of(node.inputs[0]) is None:
            return None
        if not is_wrong_with_amx(amx_outputs(node, dims)) or weight.spec.granularity == "block":
            return None
        if is_op(node, "Conv") and attribute(node, "group", 1) > 1:
            return "it has groups"
        if is_op(node, "Conv") and end_of(node.outputs[0]) is None:
            return None  # ONNX Runtime runs it in float
        back = _only_read_here(node)
        return "its weight has other readers" if back is None else (back, dims[0])

    def rewrite(self, node: ir.Node, found: tuple[ir.Node, int]) -> None:
        """Wider constants, and a Slice."""
        back, n = found
        graph, wide = node.graph, -(-n // TILES) * TILES
        assert isinstance(graph, ir.Graph)
        _widen(graph, back, n, wide)
        if is_op(node, "Conv", "Gemm") and input_of(node, 2) is not None:
            bias = input_of(node, 2)
            assert bias is not None
            holder = bias.producer()
            if holder is not None:
                _widen(graph, holder, n, wide)
            else:
                node.replace_input_with(2, _padded(graph, bias, n, wide, 0))
        axis = 1 if is_op(node, "Conv") else -1
        end = end_of(node.outputs[0])
        passed = [] if end is None else list(end.passed)
        widen_shape(back.outputs[0], 0, wide)
        if is_op(node, "MatMul"):
            widen_shape(node.inputs[1], 1, wide)
        for each in (node, *passed):
            widen_shape(each.outputs[0], axis, wide)
        out = node.outputs[0] if end is None else end.codes
        slice_outputs(graph, out, passed[-1] if passed else node, n, axis)


def amx_outputs(node: ir.Node, dims: tuple[int, ...]) -> int:
    """Outputs N that one product of a node with a weight of dims [N, …] has in the AMX kernel.

    0 for convolutions with a kernel of their own: depthwise, or of 4 · n inputs and 8 · n outputs.
    """
    if not is_op(node, "Conv"):
        return dims[0]
    group = int(attribute(node, "group", 1))
    has_own = dims[1] % 4 == 0 and dims[0] % 8 == 0 and group == 1
    return 0 if has_own else dims[0] // group


def _only_read_here(node: ir.Node) -> ir.Node | None:
    """What dequantizes the weight, where the node alone reads it."""
    back = node.inputs[1].producer() if node.inputs[1] is not None else None
    if back is not None and is_op(back, "Transpose") and only_consumer(back.outputs[0]) is node:
        node, back = back, back.inputs[0].producer() if back.inputs[0] is not None else None
    return back if back is not None and only_consumer(back.outputs[0]) is node else None


def _widen(graph: ir.Graph, back: ir.Node, n: int, wide: int) -> None:
    """Pad the constants of a DequantizeLinear of N rows: codes 0, scales 1."""
    for index, fill in enumerate((0, 1, 0)):
        value = input_of(back, index)
        if value is not None:
            back.replace_input_with(index, _padded(graph, value, n, wide, fill))


def _padded(graph: ir.Graph, value: ir.Value, n: int, wide: int, fill: int) -> ir.Value:
    dims, tensor = static_shape(value), value.const_value
    assert is_constant(value) and dims is not None and tensor is not None
    if not dims or dims[0] != n:
        return value  # one of the whole tensor

    def pad() -> ir.TensorProtocol:
        array: NDArray = np.asarray(constant(value))
        rest = np.full((wide - n, *dims[1:]), fill, array.dtype)
        return ir.tensor(np.concatenate([array, rest]))

    lazy = ir.LazyTensor(pad, tensor.dtype, ir.Shape([wide, *dims[1:]]))
    return derived_initializer(graph, value, "_wide", lambda: lazy)
