# SPDX-License-Identifier: Apache-2.0
"""Lower an LSTM whose weights are codes to com.microsoft DynamicQuantizeLSTM.

Before:
    { y = LSTM (x, w_dequantized, r_dequantized, b) }
After:
    { y = com.microsoft.DynamicQuantizeLSTM (x, w_codes, r_codes, b, , , , , w_scale, w_zero_point,
      r_scale, r_zero_point) }
Refuses: float weights.

The op takes its weights as [directions, K, 4 · hidden], and scales and zero points as [directions,
4 · hidden]. The int8 codes become uint8 with zero point 128: on x86-64 without VNNI, ONNX Runtime
adds two products of uint8 and int8 in 16 bits, which saturates, and uint8 weights do not.
"""

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from qcompile.graph import derived_initializer, is_op
from qcompile.passes.lower.qdq import Weight, weight_codes_of
from qcompile.passes.rewrite import NodePass

QUANTIZED_LSTM = "DynamicQuantizeLSTM"
ZERO_POINT = 128
W, R = 1, 2
PLACES = ((W, 8, 9), (R, 10, 11))  # codes, scale, zero point, behind the eight inputs of LSTM
NUM_INPUTS = 12


class LowerLstmIntoDynamicQuantizeLstm(NodePass):
    """All that an LSTM may have, the op has too, but for layout 1."""

    stage = "lower"
    op_types = ("LSTM",)

    def match(self, node: ir.Node) -> tuple[Weight, Weight] | None:
        """The codes of W and of R."""
        w, r = (_weight(node.inputs[i]) for i in (W, R))
        return None if w is None or r is None else (w, r)

    def rewrite(self, node: ir.Node, found: tuple[Weight, Weight]) -> None:
        """The node changes its op and its weights."""
        graph, held = node.graph, node.inputs[W]
        assert isinstance(graph, ir.Graph) and held is not None and held.shape is not None
        directions, rows = (int(d) for d in held.shape[:2])  # type: ignore[arg-type]
        node.domain, node.op_type = "com.microsoft", QUANTIZED_LSTM
        node.attributes.pop("layout", None)
        node.resize_inputs(NUM_INPUTS)
        for places, weight in zip(PLACES, found, strict=True):
            columns = int(weight.codes.shape[1])  # type: ignore[index, arg-type]
            made = _inputs(graph, weight, directions, rows, columns)
            for place, value in zip(places, made, strict=True):
                node.replace_input_with(place, value)


def unsigned(codes: NDArray[np.int8]) -> NDArray[np.uint8]:
    """Codes [D, N, K] as the op takes them: [D, K, N], with the zero point added.

    >>> unsigned(np.array([[[-127, 0], [1, 127]]], np.int8)).tolist()
    [[[1, 129], [128, 255]]]
    """
    return (codes.astype(np.int16) + ZERO_POINT).astype(np.uint8).transpose(0, 2, 1)


def _weight(value: ir.Value | None) -> Weight | None:
    """The codes behind the Reshape that makes directions of a matrix."""
    reshape = value.producer() if value is not None else None
    if reshape is None or not is_op(reshape, "Reshape"):
        return None
    return weight_codes_of(reshape.inputs[0])


def _inputs(
    graph: ir.Graph, weight: Weight, directions: int, rows: int, columns: int
) -> tuple[ir.Value, ir.Value, ir.Value]:
    """Codes, scale and zero point in the op's form, computed when they are read."""
    each, uint8 = (directions, rows), ir.DataType.UINT8
    return (
        _derived(
            graph,
            weight.codes,
            "_unsigned",
            (directions, columns, rows),
            uint8,
            lambda codes: unsigned(codes.reshape(directions, rows, columns)),
        ),
        _derived(
            graph, weight.scale, "_directions", each, ir.DataType.FLOAT, lambda s: s.reshape(each)
        ),
        _derived(
            graph,
            weight.scale,
            "_zero_point",
            each,
            uint8,
            lambda _: np.full(each, ZERO_POINT, np.uint8),
        ),
    )


def _derived(
    graph: ir.Graph,
    source: ir.Value,
    suffix: str,
    dims: tuple[int, ...],
    dtype: ir.DataType,
    make: Callable[[NDArray], NDArray],
) -> ir.Value:
    tensor = source.const_value
    assert tensor is not None

    def made() -> ir.TensorProtocol:
        return ir.tensor(np.ascontiguousarray(make(tensor.numpy())))

    lazy = ir.LazyTensor(made, dtype, ir.Shape(dims))
    return derived_initializer(graph, source, suffix, lambda: lazy)
