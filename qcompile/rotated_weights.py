# SPDX-License-Identifier: Apache-2.0
"""Turn what an edge is written and read by: weights, tables, biases, and the scales of its norms.

With R on the edge's last axis a writer's outputs become Rᵀ W, b R, a table's rows E R, and a
reader's inputs W diag(γ) R, where γ is the scale of the norm between, which becomes 1. A shift β of
a norm goes into the readers' biases, b + W β; where one of them has none it stays in the norm, as
(β / γ) R. Large weights are turned in slices when they are first read, and wait in a file.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from qcompile.graph import (
    add_initializer,
    attribute,
    constant,
    input_of,
    is_constant,
    is_op,
    unique_name,
)
from qcompile.memory import row_slices
from qcompile.norms import LAYER_NORM, RMS_NORMS, Norm
from qcompile.numerics.hadamard import Hadamard, Rotation
from qcompile.numerics.learned import Learned
from qcompile.numerics.ordering import Haar, Ordering
from qcompile.numerics.scaling import Scaling
from qcompile.passes.transform.array_file import ArrayFile, StoredArray
from qcompile.rotation_edge import Edge, Part, Reader
from qcompile.rotation_paths import bias_place, weight_place

Fused = Rotation | Learned | Scaling | Haar | Ordering  # what needs no node
EAGER_BYTES = 1 << 20  # larger tensors are turned when they are read
_SPREAD = 16.0  # a norm's β / γ, times the largest γ, may be so much larger than its β
Write = Callable[[NDArray, NDArray], None]  # (source, where the turned one goes)


def shift_refusal(edge: Edge) -> str:
    """Why a norm's shift has no place, or nothing."""
    for norm in edge.norms:
        if not norm.beta.any() or _takes_shift(edge, norm):
            continue
        gamma, beta = (a.astype(np.float64) for a in (norm.gamma, norm.beta))
        name = norm.inside[0].name
        without = next(r.node for r in _readers(edge, norm) if bias_place(r.node) is None)
        what = f"{without.op_type} {without.name} has no bias for the shift of norm {name}"
        if not gamma.all():
            return f"{what}, whose scale has zeros"
        if np.abs(beta / gamma).max() * np.abs(gamma).max() > _SPREAD * np.abs(beta).max():
            return f"{what}, whose scale is too small beside it"
    return ""


def turn(edge: Edge, rotation: Fused, weights: "Turned") -> None:
    """Change the graph; no node is added but a Transpose where two products shared one."""
    for norm in edge.norms:
        assert not isinstance(rotation, Scaling)  # no norm commutes with scales
        if isinstance(rotation, Ordering):
            _sort_norm(norm, rotation, weights)
        else:
            _settle_norm(edge, norm, rotation, weights)
    for reader in edge.readers:
        gamma = None if reader.norm is None or is_even(reader.norm) else reader.norm.gamma
        is_own = is_op(reader.node, "Conv") and attribute(reader.node, "group", 1) > 1
        side = _own_side(rotation) if is_own else _input_side(rotation, gamma)
        weights.change(*_own_place(reader.node), side)
    for writer in edge.writers:
        place = _own_place(writer.node)
        is_table = is_op(writer.node, "Gather")
        side = _rows_side(rotation) if is_table else _output_side(rotation, writer.part)
        weights.change(*place, side)
    done: set[tuple[ir.Node, int]] = set()
    for each in edge.constants:
        if (each.node, each.index) not in done:
            done.add((each.node, each.index))
            weights.change(each.node, each.index, _vector_side(rotation, each.part))


def turn_input(node: ir.Node, rotation: Hadamard, weights: "Turned") -> None:
    """A product's W becomes W R."""
    weights.change(*_own_place(node), _input_side(rotation, None))


def is_even(norm: Norm) -> bool:
    """Whether its scale is one number, which commutes with every matrix."""
    return bool((norm.gamma == norm.gamma[0]).all())


def _readers(edge: Edge, norm: Norm) -> list[Reader]:
    return [reader for reader in edge.readers if reader.norm is norm]


def _takes_shift(edge: Edge, norm: Norm) -> bool:
    """Whether every reader has a bias for the shift."""
    return all(bias_place(reader.node) is not None for reader in _readers(edge, norm))


def _settle_norm(
    edge: Edge, norm: Norm, rotation: Rotation | Learned | Haar, weights: "Turned"
) -> None:
    """γ and β go to the readers; what stays in the norm is 1 and 0, or (β / γ) R."""
    gamma, beta = (a.astype(np.float64) for a in (norm.gamma, norm.beta))
    scale, shift = affine_places(norm)
    left = np.zeros_like(beta)
    if beta.any() and _takes_shift(edge, norm):
        for reader in _readers(edge, norm):
            add_shift(reader.node, beta, weights)
    elif beta.any():
        left = rotation.times(beta if is_even(norm) else beta / gamma)
    if not is_even(norm) and scale is not None:
        weights.put(*scale, np.ones(gamma.size, np.float32))
    if beta.any() and shift is not None:
        weights.put(*shift, left.astype(np.float32))


def _sort_norm(norm: Norm, order: Ordering, weights: "Turned") -> None:
    """γ and β stay in the norm, in the order."""
    for place in affine_places(norm):
        array = None if place is None else constant(place[0].inputs[place[1]])
        if place is not None and array is not None and array.size > 1:
            weights.change(*place, _vector_side(order, Part(0, norm.gamma.size)))


def affine_places(norm: Norm) -> tuple[tuple[ir.Node, int] | None, tuple[ir.Node, int] | None]:
    """Where the scale and the shift stand."""
    first = norm.inside[0]
    if is_op(first, LAYER_NORM, *RMS_NORMS):
        return (first, 1), (first, 2) if input_of(first, 2) is not None else None
    after = norm.inside[[n.op_type for n in norm.inside].index("Div") + 1 :]
    found: dict[str, tuple[ir.Node, int]] = {}
    for node in after:
        found[node.op_type] = node, next(i for i, v in enumerate(node.inputs) if is_constant(v))
    return found.get("Mul"), found.get("Add")


def add_shift(node: ir.Node, beta: NDArray[np.float64], weights: "Turned") -> None:
    """b + W β of a product."""
    place, (owner, index) = bias_place(node), weight_place(node)
    weight = constant(owner.inputs[index])
    assert place is not None and weight is not None
    bias = constant(place[0].inputs[place[1]])
    assert bias is not None
    moved = np.concatenate([weight[rows] @ beta for rows in row_slices(*weight.shape)])
    weights.put(*place, (bias + moved).astype(np.float32))


def _own_place(node: ir.Node) -> tuple[ir.Node, int]:
    """Where the weight is, in a node that no other product reads it through."""
    owner, index = weight_place(node)
    if owner is node or len(list(owner.outputs[0].uses())) == 1:
        return owner, index
    graph = node.graph
    assert isinstance(graph, ir.Graph)
    out = owner.outputs[0]
    copy = ir.node("Transpose", list(owner.inputs), {"perm": (1, 0)}, name=f"{node.name}/weight")
    copy.outputs[0].name = unique_name(graph, f"{node.outputs[0].name}_weight")
    copy.outputs[0].type, copy.outputs[0].shape = out.type, out.shape
    graph.insert_before(node, copy)
    node.replace_input_with(1, copy.outputs[0])
    return copy, 0


@dataclass(frozen=True)
class Change:
    """How a constant changes. key: what decides it, so that equal changes are made once."""

    key: str
    write: Write


def _input_side(rotation: Fused | Hadamard, gamma: NDArray | None) -> Change:
    """W diag(γ) R of [N, K], or of the channels of [N, K, kh, kw]."""
    wide = None if gamma is None else gamma.astype(np.float64)

    def write(source: NDArray, out: NDArray) -> None:
        source, out = (np.moveaxis(a.reshape(*a.shape[:2], -1), 1, -1) for a in (source, out))
        for rows in row_slices(len(source), source[0].size if len(source) else 1):
            part = source[rows] if wide is None else source[rows] * wide
            out[rows] = rotation.readers(np.ascontiguousarray(part))

    return Change(f"{rotation} in {'' if wide is None else wide.tobytes().hex()}", write)


def _own_side(rotation: Fused) -> Change:
    """s · W of a depthwise [C, 1, kh, kw], each of whose channels reads its own."""

    def write(source: NDArray, out: NDArray) -> None:
        wide = source.reshape(len(source), -1).T
        out[...] = rotation.readers(np.ascontiguousarray(wide)).T.reshape(source.shape)

    return Change(f"{rotation} own", write)


def _rows_side(rotation: Fused) -> Change:
    """E R of a table's rows."""

    def write(source: NDArray, out: NDArray) -> None:
        for rows in row_slices(*source.shape):
            out[rows] = rotation.times(source[rows])

    # A head that is the table's transpose stays one with it where that is the same change.
    side = "rows" if isinstance(rotation, Scaling) else "in"
    return Change(f"{rotation} {side} ", write)


def _output_side(rotation: Fused, part: Part) -> Change:
    """Rᵀ W of rows of [N, K], or [N, C, kh, kw]: the columns of W are turned."""
    chosen = slice(part.first, part.first + part.count)

    def write(source: NDArray, out: NDArray) -> None:
        source, out = (a.reshape(len(a), -1) for a in (source, out))
        for columns in row_slices(source.shape[1], source.shape[0]):
            turned = source[:, columns].astype(np.float64)
            turned[chosen] = rotation.times(np.ascontiguousarray(turned[chosen].T)).T
            out[:, columns] = turned

    return Change(f"{rotation} out {part}", write)


def _vector_side(rotation: Fused, part: Part) -> Change:
    """b R of some elements of the last axis."""
    chosen = slice(part.first, part.first + part.count)

    def write(source: NDArray, out: NDArray) -> None:
        turned = source.astype(np.float64)
        turned[..., chosen] = rotation.times(np.ascontiguousarray(turned[..., chosen]))
        out[...] = turned

    return Change(f"{rotation} vector {part}", write)


@dataclass
class Turned:
    """The new initializers of a graph; a constant that changes alike in two places stays one."""

    graph: ir.Graph
    file: ArrayFile = field(default_factory=ArrayFile)
    made: dict[tuple[str, str], ir.Value] = field(default_factory=dict)

    def change(self, node: ir.Node, index: int, change: Change) -> None:
        """The node reads the changed constant."""
        source = node.inputs[index]
        assert source is not None and source.const_value is not None
        key = source.name or "", change.key
        if key not in self.made:
            tensor = self._tensor(source.const_value, change.write)
            self.made[key] = add_initializer(self.graph, f"{source.name}_rotated", tensor)
        node.replace_input_with(index, self.made[key])

    def put(self, node: ir.Node, index: int, array: NDArray[np.float32]) -> None:
        """The node reads the array instead of what it read."""
        source = node.inputs[index]
        assert source is not None
        key = source.name or "", array.tobytes().hex()
        if key not in self.made:
            self.made[key] = add_initializer(self.graph, f"{source.name}_rotated", array)
        node.replace_input_with(index, self.made[key])

    def remove_unread(self) -> None:
        """Initializers that nothing reads any more."""
        for name, value in list(self.graph.initializers.items()):
            if not value.uses() and not value.is_graph_output() and not value.is_graph_input():
                del self.graph.initializers[name]

    def _tensor(self, source: ir.TensorProtocol, write: Write) -> ir.TensorProtocol:
        if source.nbytes <= EAGER_BYTES:
            array = np.empty(source.shape.numpy(), np.float32)
            write(source.numpy(), array)
            return ir.tensor(array)
        stored: list[StoredArray] = []

        def read() -> ir.TensorProtocol:
            if not stored:
                shape = tuple(source.shape.numpy())
                stored.append(
                    self.file.fill(shape, np.float32, lambda out: write(source.numpy(), out))
                )
            return ir.tensor(stored[0].read())

        return ir.LazyTensor(read, ir.DataType.FLOAT, ir.Shape(source.shape.numpy()))
