# SPDX-License-Identifier: Apache-2.0
"""Codes of 8 bits where fewer save nothing: of networks with narrow static activations.

HAWQ-V3 (Yao et al. 2021, section 3) keeps what a residual sum adds wider than the codes of the
layers, and the first and the last layer at 8 bits. Here a value is widened where no product with
narrow weights reads it: a sum, a normalisation or attention gains nothing from fewer bits. Of a
value that both kinds read, as in a residual stream, the products get a narrow copy, codes of codes.
"""

from dataclasses import dataclass, field, replace

import onnx_ir as ir

import qcompile.formats as formats
from qcompile.graph import is_op
from qcompile.plan import NodePlan, Plan
from qcompile.recipe import Preset
from qcompile.spec import QuantSpec

WIDE = formats.get("uint8")
KEEPS_CODES = ("MaxPool", "GlobalMaxPool", "Concat")
NARROW = "_narrow"
NOTE = (
    "codes that no product with narrow weights reads have 8 bits, and what a residual sum adds; "
    "--activation-format says otherwise"
)


def widen(graph: ir.Graph, plan: Plan, preset: Preset) -> Plan:
    """The plan with 8 bits for such values, and for the codes that leave the network."""
    if preset.activation != "static" or preset.activation_bits == 8:
        return plan
    found = _Widening(plan, preset, {v.name or "" for v in graph.outputs})
    for node in graph:
        found.visit(node)
    families: dict[str, list[str]] = {}
    for name, leader in plan.leaders.items():
        families.setdefault(leader, []).append(name)
    for names in families.values():
        found.decide(names)
    if not found.changed:
        return plan
    return replace(
        plan,
        nodes={name: found.node_plan(p) for name, p in plan.nodes.items()},
        activations=plan.activations | found.changed | found.narrow,
        leaders=plan.leaders | {name: name for name in found.narrow},
        copies=found.copies,
        notes=(*plan.notes, NOTE),
    )


@dataclass
class _Widening:
    """changed: value → its wide spec. narrow, copies: of the copies; name → spec, and → value."""

    plan: Plan
    preset: Preset
    ends: set[str]
    readers: dict[str, list[ir.Node]] = field(default_factory=dict)
    makers: dict[str, ir.Node] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)  # product → the value that it reads
    changed: dict[str, QuantSpec] = field(default_factory=dict)
    narrow: dict[str, QuantSpec] = field(default_factory=dict)
    copies: dict[str, str] = field(default_factory=dict)

    def visit(self, node: ir.Node) -> None:
        """Who reads and makes which codes."""
        self.makers |= {v.name or "": node for v in node.outputs}
        for value in node.inputs:
            if value is not None and value.name in self.plan.activations:
                self.readers.setdefault(value.name, []).append(node)
        if node.inputs and node.inputs[0] is not None:
            self.sources[node.name or ""] = node.inputs[0].name or ""

    def decide(self, names: list[str]) -> None:
        """Values of one scale: all wide, perhaps with narrow copies, or left alone."""
        found = [(name, node) for name in names for node in self.readers.get(name, [])]
        is_end = any(name in self.ends for name in names)
        if any(is_op(self.makers.get(name), *KEEPS_CODES) for name in names):
            return  # what it makes has the codes of what it reads
        if any(self.plan.activations[name].granularity != "tensor" for name in names):
            return  # a scale a channel, which the user asked for
        read_narrow = {name for name, node in found if self._is_narrow(node.name or "")}
        is_shared = is_end or any(is_op(node, "Add", "Sub") for _, node in found)
        if (not found and not is_end) or (read_narrow and not is_shared):
            return
        for name in names:
            spec = self.plan.activations[name]
            self.changed[name] = replace(spec, format=WIDE)
            if name in read_narrow:
                self.narrow[name + NARROW] = spec
                self.copies[name + NARROW] = name

    def _is_narrow(self, node: str) -> bool:
        """Whether the node gains from codes of less than 8 bits, or was asked to read them."""
        product = self.plan.nodes.get(node)
        if product is None or product.weight is None:
            return False
        if self.plan.is_integer_only:
            return product.weight.bits <= 4  # which have the kernels of narrow codes
        return product.weight.bits <= max(4, self.preset.weight_bits)

    def node_plan(self, plan: NodePlan) -> NodePlan:
        """The plan of a product that reads wide codes now: no narrow product, which has a copy."""
        is_changed = self.sources.get(plan.node, "") in self.changed
        if plan.activation is None or not is_changed or self._is_narrow(plan.node):
            return plan
        return replace(plan, activation=replace(plan.activation, format=WIDE))
