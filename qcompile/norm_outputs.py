# SPDX-License-Identifier: Apache-2.0
"""Find what a norm gives to products alone: its channels may be scaled and moved in the norm.

x' = (x + t) / r goes into the norm's scale γ / r and shift (β + t) / r, and back into the products,
W · r and b − W t: scales are SmoothQuant's (Xiao et al. 2023, section 4), both together RepQ-ViT's
re-parameterisation of post-LayerNorm activations (Li et al. 2023, section 3.2), which LRP-QViT uses
with clipped ranges. No node is added. The stream before the norm stays as it is.
"""

import onnx_ir as ir

from qcompile.graph import constant, is_op, rank
from qcompile.norms import Norm, norm_at
from qcompile.numerics.scaling import Moving, Scaling
from qcompile.rotated_weights import Turned, add_shift, affine_places, turn
from qcompile.rotation_edge import Constant, Edge, Part, Reader, shown
from qcompile.rotation_paths import bias_place, carried, is_product, last_size


def norm_edges(graph: ir.Graph) -> list[Edge]:
    """Of every norm whose result products alone read, in the order of the graph."""
    found = []
    for node in graph:
        norm = norm_at(node)
        edge = _edge(norm) if isinstance(norm, Norm) else None
        if edge is not None:
            found.append(edge)
    return found


def can_move(edge: Edge) -> bool:
    """Whether the norm has a shift, and every product a bias that takes it back."""
    return len(edge.constants) > 1 and all(bias_place(r.node) is not None for r in edge.readers)


def move(edge: Edge, moving: Moving, weights: Turned) -> None:
    """Change the norm and the products."""
    for reader in edge.readers:
        add_shift(reader.node, -moving.shift, weights)
    shift = edge.constants[1]
    beta = constant(shift.node.inputs[shift.index])
    assert beta is not None
    weights.put(shift.node, shift.index, (beta + moving.shift).astype(beta.dtype))
    turn(edge, Scaling(moving.scales, moving.alpha), weights)


def _edge(norm: Norm) -> Edge | None:
    size = norm.gamma.size
    places = [place for place in affine_places(norm) if place is not None]
    scale = affine_places(norm)[0]
    if scale is None or size < 2 or last_size(norm.output) != size:
        return None
    if norm.axis + 1 != rank(norm.source) or any(_size(*place) != size for place in places):
        return None
    if any(_is_read(node, norm) for node in norm.inside[:-1]):
        return None
    edge = Edge(norm.output, size, size, bend=shown(norm.inside[0]), is_normed=True)
    edge.constants += [Constant(*place, Part(0, size)) for place in places]
    todo = [norm.output]
    while todo:
        value = todo.pop()
        if value.is_graph_output():
            return None
        for use in value.uses():
            if use.node.graph is not norm.inside[-1].graph:
                return None
            if use.idx == 0 and is_product(use.node):
                edge.readers.append(Reader(use.node, None))
            elif use.idx == 0 and carried(use.node) == (0,) and _only_moves(use.node, size):
                todo += use.node.outputs
            elif not is_op(use.node, "Shape", "Size"):
                return None
    return edge if edge.readers else None


def _is_read(node: ir.Node, norm: Norm) -> bool:
    """Whether something outside the norm reads what this node of it gives."""
    (out,) = node.outputs[:1]
    return out.is_graph_output() or not {use.node for use in out.uses()} <= set(norm.inside)


def _size(node: ir.Node, index: int) -> int:
    """Elements of a constant."""
    found = constant(node.inputs[index])
    return 0 if found is None else found.size


def _only_moves(node: ir.Node, size: int) -> bool:
    """Whether elements are moved, with whole rows, and not summed or scaled."""
    is_plain = not is_op(node, "Neg", "Mul", "Div", "MatMul", "ReduceMean", "ReduceSum")
    return is_plain and all(last_size(out) == size for out in node.outputs)
