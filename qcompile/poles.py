# SPDX-License-Identifier: Apache-2.0
"""Values that never are 0, or negative, as floats, because of what reads them.

Codes always hold 0. A spectrum that is clipped at 1e-9 and then goes into Log would become
log(0) = −inf wherever its code is that of 0, so such a value stays float. Where it is a spectrum
plus 1e-9, a corrected bias may make it negative, so the bias stays.
"""

from collections.abc import Callable
from dataclasses import replace

import onnx_ir as ir

from qcompile.graph import constant, input_of, is_constant, is_op
from qcompile.int8_ops import MOVES_DATA, POOLS
from qcompile.plan import Plan
from qcompile.products import fused_end

_KEEPS_ZERO = (
    *("Relu", "LeakyRelu", "PRelu", "Abs", "Neg", "Sqrt", "Tanh", "Erf", "Sin", "Tan", "Sinh"),
    *("Asin", "Atan", "Asinh", "Atanh", "HardSwish", "Floor", "Round", *MOVES_DATA, *POOLS),
)


def pole_of(value: ir.Value) -> ir.Node | None:
    """The first node that gives infinity where the value is 0, through ops that keep a 0."""
    return _reader(value, _has_pole)


def edge_of(value: ir.Value) -> ir.Node | None:
    """The first node that gives NaN where the value is negative, through ops that keep a 0."""
    return _reader(value, _has_edge)


def _reader(value: ir.Value, is_wanted: Callable[[ir.Node, int], bool]) -> ir.Node | None:
    for use in value.uses():
        if is_wanted(use.node, use.idx):
            return use.node
        for out in use.node.outputs if _keeps_zero(use.node, use.idx) else ():
            found = _reader(out, is_wanted)
            if found is not None:
                return found
    return None


def why_not_zero(node: ir.Node) -> str:
    """What the report says of a node that `pole_of` gives."""
    return f"{node.op_type}: its input would be codes, and it has no result for the code of 0"


def _has_pole(node: ir.Node, index: int) -> bool:
    if is_op(node, "Pow"):
        exponent = constant(input_of(node, 1))
        return index == 0 and exponent is not None and bool((exponent < 0).any())
    return is_op(node, "Log", "Reciprocal") or (is_op(node, "Div") and index == 1)


def _has_edge(node: ir.Node, index: int) -> bool:
    if is_op(node, "Pow"):
        exponent = constant(input_of(node, 1))
        return index == 0 and exponent is not None and bool((exponent % 1 != 0).any())
    return is_op(node, "Log", "Sqrt")


def _keeps_zero(node: ir.Node, index: int) -> bool:
    """Whether a 0 there is a 0 in the result; of two factors the other one is a constant."""
    if is_op(node, "Mul"):
        return is_constant(node.inputs[1 - index])
    is_first = index == 0
    return is_first and (
        is_op(node, *_KEEPS_ZERO) or (is_op(node, "Div") and is_constant(node.inputs[1]))
    )


def keep_float_at_poles(graph: ir.Graph, plan: Plan) -> Plan:
    """Without the static products whose result goes into Log or a divisor.

    Even where it stayed float, the nearest code of what is added to it for safety, 1e-9, is 0.
    """
    nodes = dict(plan.nodes)
    for node in graph:
        known = nodes.get(node.name or "")
        spec = known.activation if known is not None and known.is_rounded else None
        pole = None if spec is None or spec.is_dynamic else pole_of(fused_end(node))
        if known is not None and pole is not None:
            reason = (
                f'{pole.op_type} "{pole.name}" reads its result, and has none for the code of 0'
            )
            nodes[node.name or ""] = replace(known, weight=None, activation=None, reason=reason)
    return replace(plan, nodes=nodes)
