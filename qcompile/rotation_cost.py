# SPDX-License-Identifier: Apache-2.0
"""What a transform stores twice: a table and a head that it changes in two ways."""

import onnx_ir as ir

from qcompile.graph import is_op
from qcompile.plan import NodePlan, Plan
from qcompile.rotated_weights import is_even
from qcompile.rotation_edge import Edge
from qcompile.rotation_paths import weight_place


def untied_bytes(edge: Edge, plan: Plan) -> tuple[float, float]:
    """Bytes of codes of the weights that would be there more than once, and of all weights."""
    changes: dict[ir.Value, set[bytes | None]] = {}
    touched: dict[ir.Value, set[ir.Node]] = {}
    for node, norm in [(r.node, r.norm) for r in edge.readers] + [
        (w.node, None) for w in edge.writers
    ]:
        owner, index = weight_place(node)
        value = owner.inputs[index]
        assert value is not None
        key = None if norm is None or is_even(norm) else norm.gamma.tobytes()
        changes.setdefault(value, set()).add(key)
        touched.setdefault(value, set()).add(node)
    for value, nodes in touched.items():
        if _readers(value) - nodes:
            changes[value].add(b"as it was")
    sizes = {p.weight_name: p.num_elements * _bits(p) / 8 for p in plan.nodes.values()}
    added = sum(sizes.get(v.name or "", 0.0) * (len(keys) - 1) for v, keys in changes.items())
    return added, sum(sizes.values())


def _readers(weight: ir.Value) -> set[ir.Node]:
    """Products and Gathers of a weight, also those that read its transpose."""
    found: set[ir.Node] = set()
    for node, _ in weight.uses():
        found |= {u.node for u in node.outputs[0].uses()} if is_op(node, "Transpose") else {node}
    return found


def _bits(plan: NodePlan) -> int:
    return 32 if plan.weight is None else plan.weight.bits


def stored_twice(edge: Edge, plan: Plan) -> str:
    """What is stored twice from now on."""
    added, _ = untied_bytes(edge, plan)
    if not added:
        return ""
    tables = [w.node.name for w in edge.writers if is_op(w.node, "Gather")]
    which = ", ".join(str(name) for name in tables) or "a table"
    return f"{which} and the head are two tensors now: {added / 1000:.1f} kB of codes more"
