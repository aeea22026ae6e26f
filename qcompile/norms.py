# SPDX-License-Identifier: Apache-2.0
"""Reading LayerNormalization and RMSNorm: the ops, and the chains that exporters write for them."""

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from qcompile.graph import attribute, constant, input_of, is_constant, is_op, only_consumer, rank
from qcompile.int8_ops import reduced_axes
from qcompile.numerics.layer_norm import LONGEST_ROW

LAYER_NORM = "LayerNormalization"
# The second one is ONNX Runtime's, in ONNX's domain.
RMS_NORMS = ("RMSNormalization", "SimplifiedLayerNormalization")


@dataclass(frozen=True)
class Norm:
    """A normalisation of `source` over one axis, the last one or the channels of maps.

    gamma, beta: float32 [K]. inside: its nodes in the order of the graph; the last one ends it.
    """

    source: ir.Value
    axis: int
    epsilon: float
    gamma: NDArray[np.float32]
    beta: NDArray[np.float32]
    is_centred: bool
    inside: tuple[ir.Node, ...]

    def reads_alone(self) -> bool:
        """Whether nothing but its own nodes reads the source."""
        readers = {use.node for use in self.source.uses()}
        return readers <= set(self.inside) and not self.source.is_graph_output()

    @property
    def output(self) -> ir.Value:
        """The result."""
        return self.inside[-1].outputs[0]


def norm_at(node: ir.Node) -> Norm | str | None:
    """The normalisation that a node, or a chain by its division, is; a str: why it is float."""
    if is_op(node, LAYER_NORM, *RMS_NORMS):
        return _of_op(node)
    chain = _chain_at(node) if is_op(node, "Div") else None
    return None if chain is None else _with_affine(*chain)


def _of_op(node: ir.Node) -> Norm | str:
    source, dims = node.inputs[0], rank(node.inputs[0])
    if source is None or dims is None:
        return f"{node.op_type}: the rank of its input is not known"
    if any(v.uses() or v.is_graph_output() for v in node.outputs[1:]):
        return f"{node.op_type}: its mean or its deviation is read"
    axis = int(attribute(node, "axis", -1)) % dims
    if axis != dims - 1:
        return f"{node.op_type}: over the axes from {axis} on, not the last alone"
    size = source.shape[-1] if source.shape is not None else None
    arrays = []
    for index, fill in ((1, 1.0), (2, 0.0)):
        value = input_of(node, index)
        found = _along(value, axis, dims, size) if value is not None else _filled(size, fill)
        if found is None:
            return f"{node.op_type}: its weights are no constants of one size"
        arrays.append(found)
    epsilon = float(attribute(node, "epsilon", 1e-5))
    is_centred = is_op(node, LAYER_NORM)
    return Norm(source, axis, epsilon, arrays[0], arrays[1], is_centred, (node,))


Chain = tuple[ir.Value, int, float, bool, list[ir.Node]]


def _chain_at(node: ir.Node) -> Chain | None:
    """(source, axis, epsilon, is_centred, nodes) of x / √(mean x² + ε), or of x − mean x."""
    top, root = node.inputs[0], _producer(node.inputs[1], "Sqrt")
    total = _producer(root.inputs[0], "Add") if root is not None else None
    if top is None or root is None or total is None:
        return None
    epsilon = next((c for v in total.inputs if (c := constant(v)) is not None), None)
    mean = next((m for v in total.inputs if (m := _producer(v, "ReduceMean"))), None)
    power = _producer(mean.inputs[0], "Pow", "Mul") if mean is not None else None
    if epsilon is None or epsilon.size != 1 or mean is None or power is None:
        return None
    axis = _axis(mean)
    if axis is None or not is_square(power, top):
        return None
    inside = [power, mean, total, root, node]
    difference = _producer(top, "Sub")
    first = _producer(difference.inputs[1], "ReduceMean") if difference is not None else None
    if difference is not None and first is not None and _axis(first) == axis:
        source = difference.inputs[0]
        if source is not None and first.inputs[0] is source:
            return source, axis, float(epsilon), True, [first, difference, *inside]
    return top, axis, float(epsilon), False, inside


def is_square(node: ir.Node, of: ir.Value) -> bool:
    """Whether the node is the square of the value."""
    if is_op(node, "Mul"):
        return node.inputs[0] is of and node.inputs[1] is of
    exponent = constant(node.inputs[1])
    return node.inputs[0] is of and exponent is not None and bool((exponent == 2).all())


def _axis(mean: ir.Node) -> int | None:
    """The last axis, or that of the channels of maps; None for another mean."""
    axes, dims = reduced_axes(mean), rank(mean.inputs[0])
    if axes is None or len(axes) != 1 or not attribute(mean, "keepdims", 1):
        return None
    return axes[0] if axes[0] + 1 == dims or (axes[0], dims) == (1, 4) else None


def _with_affine(
    source: ir.Value, axis: int, epsilon: float, is_centred: bool, inside: list[ir.Node]
) -> Norm | str | None:
    """The chain with the product and the sum that follow, where they are constants of the axis."""
    dims = rank(source)
    assert dims is not None
    size = source.shape[axis] if source.shape is not None else None
    out, arrays = inside[-1].outputs[0], [_filled(size, 1.0), _filled(size, 0.0)]
    for at, op_type in enumerate(("Mul", "Add")):
        follower = only_consumer(out)
        if follower is None or not is_op(follower, op_type):
            continue
        other = next((v for v in follower.inputs if v is not out), None)
        found = _along(other, axis, dims, size)
        if found is None:
            break
        arrays[at], out = found, follower.outputs[0]
        inside.append(follower)
    gamma, beta = arrays
    if gamma is None or beta is None:
        return "Div: the size of what it normalises is not known"
    return Norm(source, axis, epsilon, gamma, beta, is_centred, tuple(inside))


def _along(
    value: ir.Value | None, axis: int, dims: int, size: object
) -> NDArray[np.float32] | None:
    """A constant that varies along the axis alone, [K]; None for another, or with a NaN."""
    found = constant(value) if is_constant(value) else None
    if found is None or found.ndim > dims or not np.isfinite(found).all():
        return None
    shape = (1,) * (dims - found.ndim) + found.shape
    if found.size != shape[axis]:
        return None
    if found.size == 1 and size != 1:
        return _filled(size, float(found.ravel()[0]))
    is_known = not isinstance(size, int) or size == found.size
    return found.ravel().astype(np.float32) if is_known and found.size <= LONGEST_ROW else None


def _filled(size: object, value: float) -> NDArray[np.float32] | None:
    if not isinstance(size, int) or size > LONGEST_ROW:
        return None
    return np.full(size, value, np.float32)


def _producer(value: ir.Value | None, *op_types: str) -> ir.Node | None:
    node = value.producer() if value is not None else None
    return node if node is not None and is_op(node, *op_types) else None
