# SPDX-License-Identifier: Apache-2.0
"""Fold what does not depend on the inputs, and lift every constant to an initializer.

Before:
    f (float[2] x) => (float[2] y)
    <float[2] a = {1, 2}, float[2] b = {3, 4}>
    { c = Add (a, b)   y = Mul (x, c) }
After:
    f (float[2] x) => (float[2] y)
    <float[2] c = {4, 6}>
    { y = Mul (x, c) }
Refuses: random ops; Quantize/DequantizeLinear (their codes are the point); inputs above 64 MiB;
what follows a node at which onnxscript's folder fails.

An initializer that is also a graph input is its default value and becomes a constant.
"""

import onnx_ir as ir
import onnx_ir.passes.common as common
from onnxscript import optimizer

from qcompile.graph import is_op

_KEPT = {
    "RandomNormal",
    "RandomUniform",
    "RandomNormalLike",
    "RandomUniformLike",
    "Multinomial",
    "Bernoulli",
    "QuantizeLinear",
    "DequantizeLinear",
}
_LIMIT_BYTES = 64 << 20


def _should_fold(node: ir.Node) -> bool | None:
    if node.op_type in _KEPT:
        return False
    constants = (v.const_value for v in node.inputs if v is not None)
    return True if sum(t.nbytes for t in constants if t is not None) <= _LIMIT_BYTES else None


class FoldConstants(ir.passes.InPlacePass):
    """onnxscript's folder, without its size limits, then constants as initializers."""

    stage = "normalise"
    name = "fold_constants"
    is_global = True  # all graphs at once

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Fold to a fixed point."""
        casts = _name_types(model)
        fixed = common.RemoveInitializersFromInputsPass()(model)
        folded = _fold(model)
        lifted = common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(
            model
        )
        unused = common.RemoveUnusedNodesPass()(model)
        modified = folded or casts or any(bool(r.modified) for r in (fixed, lifted, unused))
        return ir.passes.PassResult(model, modified)


def _name_types(model: ir.Model) -> bool:
    """CastLike with attributes becomes Cast with them; onnxscript 0.7 forgets `saturate`."""
    changed = False
    for node in model.graph.all_nodes():
        like = node.inputs[1] if is_op(node, "CastLike") and node.attributes else None
        if like is not None and like.dtype is not None:
            node.op_type = "Cast"
            node.attributes["to"] = ir.AttrInt64("to", int(like.dtype))
            node.resize_inputs(1)
            changed = True
    return changed


def _fold(model: ir.Model) -> bool:
    """onnxscript's folder raises at some nodes; it replaces one at a time, so the rest stays."""
    try:
        return optimizer.fold_constants_ir(model, should_fold=_should_fold).modified
    except RuntimeError:
        return True
