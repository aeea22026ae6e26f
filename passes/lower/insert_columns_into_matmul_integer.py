# SPDX-License-Identifier: Apache-2.0
"""Insert columns of zeros into the weight of a MatMulInteger, so that N is a multiple of 32.

Before:
    { i = MatMulInteger (q, w, z)   f = Cast (i) }
After:
    { p = MatMulInteger (q, w_wide, z)   i = Slice (p, [0], [N], [-1])   f = Cast (i) }
Refuses: N % 32 of 0 to 16.

ONNX Runtime 1.21 to 1.24 gets such a product wrong on processors with AMX, alone or fused into
another op. Its kernel takes 32 rows at once, and of the columns beyond the last multiple of 32
first 16 and then the rest; for the rest the machine code loads the starting sums before it has
stored those of the last row. With zeros up to a multiple of 32 there is no rest. The sums are
integers, so the numbers stay.
"""

import numpy as np
import onnx_ir as ir

from qcompile.graph import (
    add_initializer,
    derived_initializer,
    is_constant,
    new_node,
    replace,
    static_shape,
    unique_name,
)
from qcompile.passes.rewrite import NodePass

TILES, TILE = 32, 16  # columns of two AMX tiles, and of one


def is_wrong_with_amx(num_outputs: int) -> bool:
    """Whether onnxruntime 1.21 to 1.24 gets a product of so many outputs wrong.

    >>> [is_wrong_with_amx(n) for n in (8, 16, 17, 20, 31, 32, 48, 52)]
    [False, False, True, True, True, False, False, True]
    """
    return num_outputs % TILES > TILE


class InsertColumnsIntoMatmulInteger(NodePass):
    """Constant weights [K, N] of int8 codes."""

    stage = "lower"
    op_types = ("MatMulInteger",)

    def match(self, node: ir.Node) -> tuple[ir.Value, int, int] | None:
        """The weight, K and N."""
        weight = node.inputs[1]
        dims = static_shape(weight) if weight is not None and is_constant(weight) else None
        if weight is None or dims is None or len(dims) != 2 or not is_wrong_with_amx(dims[1]):
            return None
        return weight, *dims

    def rewrite(self, node: ir.Node, found: tuple[ir.Value, int, int]) -> None:
        """The wider product, and a Slice behind it."""
        weight, k, n = found
        graph, out = node.graph, node.outputs[0]
        tensor = weight.const_value
        assert isinstance(graph, ir.Graph) and tensor is not None
        wide = -(-n // TILES) * TILES

        def pad() -> ir.TensorProtocol:
            return ir.tensor(np.pad(tensor.numpy(), ((0, 0), (0, wide - n))))

        lazy = ir.LazyTensor(pad, tensor.dtype, ir.Shape([k, wide]))
        node.replace_input_with(1, derived_initializer(graph, weight, "_wide", lambda: lazy))
        widen_shape(out, -1, wide)
        slice_outputs(graph, out, node, n, -1)


def widen_shape(value: ir.Value | None, axis: int, wide: int) -> None:
    """The value has so many outputs along the axis."""
    if value is not None and value.shape is not None:
        dims = list(value.shape)
        dims[axis] = wide
        value.shape = ir.Shape(dims)


def slice_outputs(graph: ir.Graph, out: ir.Value, after: ir.Node, n: int, axis: int) -> None:
    """All readers of `out` read its first n outputs, under its name."""
    name, dims = out.name or "", None if out.shape is None else list(out.shape)
    if dims is not None:
        dims[axis] = n
    bounds = [
        add_initializer(graph, f"{name}_{what}", np.array([value], np.int64))
        for what, value in (("start", 0), ("end", n), ("axis", axis))
    ]
    sliced = new_node(
        "Slice",
        [None, *bounds],
        f"{name}/slice",
        unique_name(graph, f"{name}_sliced"),
        dtype=out.dtype or ir.DataType.FLOAT,
        shape=None if dims is None else ir.Shape(dims),
    )
    first = sliced.outputs[0]
    first.metadata_props.update(out.metadata_props)
    graph.insert_after(after, sliced)
    replace(out, first)
    sliced.replace_input_with(0, out)
    out.name = unique_name(graph, f"{name}_wide")
    first.name = name
