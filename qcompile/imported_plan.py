# SPDX-License-Identifier: Apache-2.0
"""The plan of products that the user's model holds in codes: as the model says."""

import math
from dataclasses import replace

import onnx_ir as ir

from qcompile.graph import attribute, input_of, is_constant, is_op
from qcompile.imported import ImportedWeight, imported_weight, input_spec, is_nbits
from qcompile.plan import NodePlan
from qcompile.products import is_depthwise, odd_groups
from qcompile.recipe import Recipe
from qcompile.spec import QuantSpec
from qcompile.targets.target import Request, Target

AS_THE_MODEL_SAYS = "as the model says"
FLOAT_IN_THE_MODEL = "float in the model; give --preset to quantize it too"


def plan_imported(graph: ir.Graph, recipe: Recipe, target: Target) -> dict[str, NodePlan]:
    """Node name → plan of every product whose weight is in codes.

    One without a kernel stays what it is in the model, and says why.
    """
    found = {}
    for node in graph:
        weight = imported_weight(node)
        if weight is not None:
            found[node.name or ""] = _planned(node, weight, recipe, target)
    return found


def _planned(
    node: ir.Node, weight: ImportedWeight | str, recipe: Recipe, target: Target
) -> NodePlan:
    op_type = "MatMul" if is_nbits(node) else node.op_type
    plan = NodePlan(node.name or "", op_type, "", 0, rule=AS_THE_MODEL_SAYS, is_imported=True)
    if isinstance(weight, str):
        return replace(plan, reason=_stays(weight))
    plan = replace(plan, weight_name=weight.name, num_elements=math.prod(weight.dims))
    activation = input_spec(node)
    if isinstance(activation, str):
        return replace(plan, reason=_stays(activation))
    rules = [r for r in recipe.rules if r.covers(plan.node, op_type)]
    if rules and rules[-1].exclude:
        return replace(plan, reason=_stays(f"excluded by {rules[-1].source}"))
    reason = (
        odd_groups(node, weight.dims[0])
        or _rounded(weight, activation)
        or _odd(node)
        or target.refuse(_request(node, op_type, weight, activation))
    )
    if reason is not None:
        return replace(plan, reason=_stays(reason))
    return replace(plan, weight=weight.spec, activation=activation)


def _rounded(weight: ImportedWeight, activation: QuantSpec | None) -> str | None:
    """Integer products have entries of at most 16 bits, to which the codes' values would round."""
    if activation is None or weight.spec.format.entry_bits <= 16:
        return None
    return (
        f"integer products round {weight.spec.format} to 16 bits, and its codes are kept exactly: "
        "leave out the quantizer of its input"
    )


def _stays(reason: str) -> str:
    return f"{reason}; it stays as in the model"


def _odd(node: ir.Node) -> str | None:
    """What no kernel does, whatever the numbers."""
    if is_op(node, "Conv") and attribute(node, "auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        return f"auto_pad {attribute(node, 'auto_pad')} depends on the input's size"
    bias = input_of(node, 2) if is_op(node, "Conv", "Gemm") else None
    if (
        bias is not None
        and not is_constant(bias)
        and not is_op(bias.producer(), "DequantizeLinear")
    ):
        return f"its bias {bias.name} is computed at run time"
    plain = attribute(node, "alpha", 1.0) == 1.0 and attribute(node, "beta", 1.0) == 1.0
    if is_op(node, "Gemm") and (not plain or attribute(node, "transA", 0)):
        return "Gemm with alpha, beta or transA"
    if is_op(node, "Gather") and attribute(node, "axis", 0) not in (0, -2):
        return f"Gather along axis {attribute(node, 'axis', 0)}"
    return None


def _request(
    node: ir.Node, op_type: str, weight: ImportedWeight, activation: QuantSpec | None
) -> Request:
    dims, group = weight.dims, int(attribute(node, "group", 1)) if op_type == "Conv" else 1
    return Request(
        op_type, weight.spec, activation, math.prod(dims[1:]), group, is_depthwise(node, dims)
    )
