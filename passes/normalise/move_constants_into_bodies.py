# SPDX-License-Identifier: Apache-2.0
"""Move constants that a body of If, Loop or Scan reads from outside into the body.

Before:
    f (bool c, float[2] x) => (float[2] y)
    <float[2] w = {1, 2}>
    { [n] y = If (c) <then_branch = t () => (float[2] z) { z = Add (x, w) },
                      else_branch = e () => (float[2] k) { k = Neg (x) }> }
After:
    f (bool c, float[2] x) => (float[2] y)
    { [n] y = If (c) <then_branch = t () => (float[2] z)
                      <float[2] "n/then_branch/w" = {1, 2}> { z = Add (x, "n/then_branch/w") },
                      else_branch = e () => (float[2] k) { k = Neg (x) }> }
Refuses: nothing. A constant that several graphs read is in each of them, and is written once.

A body is compiled as a model of its own, whose weights are its initializers. A value that a Loop or
Scan carries from step to step, that starts as a constant and that no step changes, is one too.
"""

import onnx_ir as ir

from qcompile.bodies import Body, all_bodies, captured, replace_inside
from qcompile.graph import attribute, is_constant, is_op


class MoveConstantsIntoBodies(ir.passes.InPlacePass):
    """Outer bodies first, so that a constant reaches those inside."""

    stage = "normalise"
    name = "move_constants_into_bodies"
    is_global = True  # all graphs at once

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Every body."""
        modified = False
        for body in all_bodies(model.graph):
            for value in captured(body.graph):
                if is_constant(value):
                    replace_inside(body.graph, value, _copy(body, value))
                    modified = True
            for inner, outer in _unchanged(body):
                readers = _readers(body.graph, inner)
                if readers:
                    _replace(readers, _copy(body, outer))
                    modified = True
        return ir.passes.PassResult(model, modified)


def _copy(body: Body, value: ir.Value) -> ir.Value:
    """An initializer of the body that shares the tensor's bytes."""
    tensor, name = value.const_value, f"{body.path}/{value.name}"
    assert tensor is not None
    if name not in body.graph.initializers:
        copy = ir.Value(name=name, type=value.type, shape=value.shape, const_value=_alias(tensor))
        copy.name = name
        body.graph.register_initializer(copy)
    return body.graph.initializers[name]


def _alias(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    """The same bytes under a name of its own."""
    if isinstance(tensor, ir.ExternalTensor):
        return ir.ExternalTensor(
            tensor.location,
            tensor.offset,
            tensor.length,
            tensor.dtype,
            shape=ir.Shape(tensor.shape.numpy()),
            name=tensor.name or "",
            base_dir=tensor.base_dir,
        )
    return ir.LazyTensor(lambda: tensor, tensor.dtype, ir.Shape(tensor.shape.numpy()))


def _unchanged(body: Body) -> list[tuple[ir.Value, ir.Value]]:
    """(the carried value inside, the constant outside) of what every step leaves as it is."""
    inputs, outputs, given = body.graph.inputs, body.graph.outputs, body.holder.inputs
    if is_op(body.holder, "If"):
        return []
    first_in, first_given, first_out = (2, 2, 1) if is_op(body.holder, "Loop") else (0, 0, 0)
    count = len(given) - first_given
    if is_op(body.holder, "Scan"):
        count = len(given) - int(attribute(body.holder, "num_scan_inputs"))
    found = []
    for i in range(count):
        inner, after, outer = inputs[first_in + i], outputs[first_out + i], given[first_given + i]
        maker = after.producer()
        kept = maker.inputs[0] if maker is not None and is_op(maker, "Identity") else after
        if kept is inner and outer is not None and is_constant(outer):
            found.append((inner, outer))
    return found


def _readers(graph: ir.Graph, carried: ir.Value) -> list[tuple[ir.Node, int]]:
    """All that compute with the carried value; an Identity of the graph itself carries it on."""
    uses = [(use.node, use.idx) for use in carried.uses()]
    return [(n, i) for n, i in uses if not is_op(n, "Identity") or n.graph is not graph]


def _replace(readers: list[tuple[ir.Node, int]], new: ir.Value) -> None:
    for node, index in readers:
        node.replace_input_with(index, new)
