# SPDX-License-Identifier: Apache-2.0
"""Store a large float constant of two numbers as one byte an element.

Before:
    <float[512,512] mask = {0, -inf, -inf, …}>
    { y = Add (x, mask) }
After:
    <bool[512,512] mask_first = {1, 0, 0, …}, float mask_0 = {0}, float mask_1 = {-inf}>
    { mask = Where (mask_first, mask_0, mask_1)   y = Add (x, mask) }
Refuses: fewer than 4,096 elements; more than two numbers, told apart by their bits; what products,
quantizers or ops of other domains read: weights and scales, which are costly to look at.

Masks of attention are written out by exporters: 1 MB of the 2.3 MB of a model of 0.3 million
weights. ONNX Runtime computes the Where once, when it opens the file.
"""

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from qcompile.graph import add_initializer, constant, is_op, new_node

LEAST_ELEMENTS = 4096
_OTHERS = ("Conv", "ConvTranspose", "DequantizeLinear", "Gemm", "MatMul", "QuantizeLinear")
_CHUNK = 1 << 16  # elements looked at before most constants are seen to be no mask


class LowerMaskIntoWhere(ir.passes.InPlacePass):
    """Constants, not nodes, so it goes through the initializers."""

    stage = "lower"
    name = "lower_mask_into_where"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Every float32 initializer once."""
        modified = False
        for value in list(model.graph.initializers.values()):
            found = two_numbers(value) if _is_plain(value) else None
            if found is not None:
                _store(model.graph, value, *found)
                modified = True
        return ir.passes.PassResult(model, modified)


def _is_plain(value: ir.Value) -> bool:
    uses = value.uses()
    plain = all(is_op(u.node, u.node.op_type) and not is_op(u.node, *_OTHERS) for u in uses)
    return bool(uses) and plain and not value.is_graph_output()


def two_numbers(value: ir.Value) -> tuple[NDArray, NDArray] | None:
    """The two numbers of a large constant, as float32 [2] by their bits, and where the first is."""
    held = value.const_value
    if held is None or held.dtype != ir.DataType.FLOAT or held.size < LEAST_ELEMENTS:
        return None
    array = constant(value)
    if array is None:
        return None
    bits = np.ascontiguousarray(array).view(np.uint32)
    flat, numbers = bits.ravel(), np.zeros(0, np.uint32)
    for start in range(0, flat.size, _CHUNK):
        numbers = np.union1d(numbers, flat[start : start + _CHUNK])
        if len(numbers) > 2:
            return None
    if len(numbers) < 2:
        return None
    return numbers.astype(np.uint32).view(np.float32), bits == numbers[0]


def _store(graph: ir.Graph, value: ir.Value, numbers: NDArray, is_first: NDArray) -> None:
    name = value.name or ""
    inputs: list[ir.Value | None] = [add_initializer(graph, f"{name}_first", is_first)]
    inputs += [add_initializer(graph, f"{name}_{i}", np.asarray(numbers[i])) for i in (0, 1)]
    made = new_node("Where", inputs, f"{name}/where", f"{name}_made", shape=value.shape)
    out = made.outputs[0]
    value.replace_all_uses_with(out)
    del graph.initializers[name]
    graph.insert_before(graph[0], made)
    out.name = name
