# SPDX-License-Identifier: Apache-2.0
"""Weights in ONNX's own types as floats, and a copy of a model for ONNX Runtime, which lacks some.

ONNX Runtime 1.32 has DequantizeLinear of no 4- and 6-bit floats, of no E8M0 scales, and none of
8-bit floats in opset 28; 4-bit integers with scales of another type than the output it fuses into
what it then refuses. What such a node makes of constants is computed here as ONNX defines it, by
ml_dtypes and not by the tables of qcompile's formats, which are compared with it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from qcompile.graph import attribute, input_of, is_constant, is_op, unique_name

_NEVER_RUN = ("FLOAT4E2M1", "FLOAT6E2M3", "FLOAT6E3M2")
_NO_FLOATS8 = 28  # the opset whose DequantizeLinear has no kernel for floats of 8 bits


@dataclass(frozen=True)
class Stored:
    """What DequantizeLinear reads, all of it constant; the scale may be dequantized itself.

    codes of any shape; scale and point of one element, of one an index of `axis`, or of one a
    block of `block_size` along it.
    """

    codes: ir.TensorProtocol
    scale: "ir.TensorProtocol | Stored"
    point: ir.TensorProtocol | None
    axis: int
    block_size: int

    def numbers(self) -> NDArray[np.float32]:
        """(code − point) · scale, float32 of the codes' shape, rounded once."""
        held = self.scale.numbers() if isinstance(self.scale, Stored) else self.scale.numpy()
        wide = self.codes.numpy().astype(np.float32)
        if self.point is not None:
            wide = wide - self._spread(self.point.numpy().astype(np.float32))
        with np.errstate(over="ignore", invalid="ignore"):
            return np.asarray(wide * self._spread(held.astype(np.float32)), np.float32)

    def _spread(self, part: NDArray[np.float32]) -> NDArray[np.float32]:
        return spread(part, self.codes.shape.numpy(), self.axis, self.block_size)


def spread(part: NDArray, shape: Sequence[int], axis: int, block_size: int) -> NDArray:
    """Scales or zero points so that they broadcast to the shape of what they belong to."""
    if block_size:
        whole = np.repeat(part, block_size, axis=axis)
        return whole[tuple(slice(n) for n in shape)]
    if part.size == 1:
        return part.reshape(())
    return part.reshape([-1 if i == axis else 1 for i in range(len(shape))])


def stored(back: ir.Node | None) -> Stored | None:
    """What the node dequantizes, or None of another op and of what is computed at run time."""
    if back is None or not is_op(back, "DequantizeLinear"):
        return None
    codes, scale, point = (input_of(back, i) for i in range(3))
    if codes is None or scale is None or not is_constant(codes):
        return None
    held = scale.const_value if is_constant(scale) else stored(scale.producer())
    if held is None or (point is not None and not is_constant(point)):
        return None
    assert codes.const_value is not None
    axis = int(attribute(back, "axis", 1))
    return Stored(
        codes.const_value,
        held,
        None if point is None else point.const_value,
        axis % max(len(codes.const_value.shape), 1),
        int(attribute(back, "block_size", 0)),
    )


def lacks_kernel(node: ir.Node, opset: int) -> bool:
    """Whether it dequantizes constants, and ONNX Runtime cannot."""
    if stored(node) is None:
        return False
    codes, scale = node.inputs[0], node.inputs[1]
    assert codes is not None and codes.dtype is not None and scale is not None
    made = attribute(node, "output_dtype", 0) or scale.dtype
    return (
        codes.dtype.name in _NEVER_RUN
        or scale.dtype != made
        or (codes.dtype.name.startswith("FLOAT8") and opset >= _NO_FLOATS8)
    )


def put_floats(node: ir.Node) -> None:
    """The node, of which `stored` is not None, becomes an Identity of floats, decoded when read."""
    parts, graph, out = stored(node), node.graph, node.outputs[0]
    assert parts is not None and isinstance(graph, ir.Graph) and node.inputs[1] is not None
    kept = node.inputs[1].dtype
    dtype = ir.DataType(attribute(node, "output_dtype", 0) or kept or ir.DataType.FLOAT)
    shape, name = ir.Shape(parts.codes.shape.numpy()), unique_name(graph, f"{out.name}_decoded")

    def floats() -> ir.TensorProtocol:
        return ir.tensor(parts.numbers().astype(dtype.numpy()), dtype=dtype, name=name)

    tensor = ir.LazyTensor(floats, dtype, shape, name=name)
    value = ir.Value(name=name, shape=shape, type=ir.TensorType(dtype), const_value=tensor)
    graph.register_initializer(value)
    node.op_type, node.version = "Identity", None
    node.attributes.clear()
    node.resize_inputs(1)
    node.replace_input_with(0, value)


def with_decoded_weights(model: ir.Model) -> ir.Model:
    """The model, or a copy with floats in place of the nodes that ONNX Runtime lacks."""
    opset = model.graph.opset_imports.get("", 0)
    if not any(lacks_kernel(node, opset) for node in model.graph.all_nodes()):
        return model
    copy = model.clone()
    for node in [n for n in copy.graph.all_nodes() if lacks_kernel(n, opset)]:
        put_floats(node)
    # Scales in codes of their own are read no more, nor are the codes.
    dead = [n for n in copy.graph if is_op(n, "DequantizeLinear") and not n.outputs[0].uses()]
    for node in dead:
        if stored(node) is not None and not node.outputs[0].is_graph_output():
            copy.graph.remove(node, safe=True)
    for graph in copy.graphs():
        for name, value in list(graph.initializers.items()):
            is_end = value.is_graph_output() or value.is_graph_input()
            if not value.uses() and not is_end:
                del graph.initializers[name]
    return copy
