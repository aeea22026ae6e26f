# SPDX-License-Identifier: Apache-2.0
"""sparsify: `--sparsity 2:4` asks of narrow products that two of every four weights are 0.

Of weights of 3 and 4 bits that only MatMul reads, which n16k4s/1 stores in 2.5 and 3 bits
(docs/layouts.md). Which ones stay is chosen with the codes (observers/kept_weights.py).
"""

from dataclasses import replace

import onnx_ir as ir

from qcompile.errors import InputError
from qcompile.graph import constant, static_shape
from qcompile.layouts import n16k4s
from qcompile.memory import row_slices
from qcompile.plan import NodePlan, Plan
from qcompile.products import weight_of
from qcompile.recipe import Recipe
from qcompile.spec import QuantSpec
from qcompile.targets.target import Target
from qcompile.verdict import Check
from qcompile.verify_compensated import written_weight

_FEWEST_COLUMNS = 32


def sparsify(graph: ir.Graph, plan: Plan, recipe: Recipe, target: Target) -> Plan:
    """The plan with sparse specs, and a note of how many and which are none."""
    if recipe.sparsity is None:
        return plan
    if target.name != "cpu":
        raise InputError(
            f"sparsity {recipe.sparsity}: target {target.name} has no layout that leaves weights "
            "out; choose target cpu, or leave sparsity out"
        )
    nodes, readers = {n.name or "": n for n in graph}, _readers(plan)
    changed, left = dict(plan.nodes), dict[str, int]()
    for name, planned in plan.nodes.items():
        if planned.weight is None or not planned.is_rounded:
            continue
        reason = _why_not(nodes.get(name), planned, readers[planned.weight_name])
        if reason:
            left[reason] = left.get(reason, 0) + 1
        else:
            spec = replace(planned.weight, sparsity=recipe.sparsity)
            changed[name] = replace(planned, weight=spec)
    count = sum(p.weight is not None and p.weight.sparsity is not None for p in changed.values())
    note = f"{recipe.sparsity} sparsity: {count} weights of {count + sum(left.values())}"
    others = [f"{number} {reason}" for reason, number in left.items()]
    note += f"; dense are {', '.join(others)}" if others else ""
    return replace(plan, nodes=changed, notes=(*plan.notes, note))


def _readers(plan: Plan) -> dict[str, list[NodePlan]]:
    """Of every weight."""
    found: dict[str, list[NodePlan]] = {}
    for planned in plan.nodes.values():
        found.setdefault(planned.weight_name, []).append(planned)
    return found


def _why_not(node: ir.Node | None, planned: NodePlan, readers: list[NodePlan]) -> str:
    """Why a planned weight stays dense, or nothing."""
    assert planned.weight is not None
    if node is None:
        return "in bodies of If, Loop or Scan"
    if any(reader.op_type == "Conv" for reader in readers):
        return "of a Conv, whose columns change their order when they are packed"
    others = {reader.op_type for reader in readers} - {"MatMul", "Gemm"}
    if others:
        return f"that {' and '.join(sorted(others))} reads"
    if not n16k4s.has_sparse_codes(planned.weight.format):
        why = "sparse codes have 3 or 4 bits and one that is 0, and none that is special"
        return f"of {planned.weight.format}: {why}"
    weight = weight_of(node)
    dims = None if weight is None else static_shape(weight)
    is_wide = dims is not None and dims[1] >= _FEWEST_COLUMNS
    return "" if is_wide else f"of fewer than {_FEWEST_COLUMNS} columns"


def check_sparse(quantized: ir.Model) -> list[Check]:
    """transform: of every four neighbours of a sparse weight at most two are not 0."""
    worst, where, count = 0, "", 0
    for node in quantized.graph:
        text = node.outputs[0].metadata_props.get("qcompile.spec") if node.outputs else None
        codes = constant(node.inputs[0]) if node.inputs else None
        if text is None or codes is None or QuantSpec.parse(text).sparsity is None:
            continue
        count += 1
        weight = written_weight(node, codes, QuantSpec.parse(text))
        for rows in row_slices(*weight.shape):
            most = n16k4s.most_of_four(weight.rows(rows))
            if most > worst:
                worst, where = most, node.outputs[0].name or ""
    if not count:
        return []
    text = "weights of four neighbours that are not 0"
    return [Check("transform: sparse weights", worst, n16k4s.KEPT, text, where, count)]
