# SPDX-License-Identifier: Apache-2.0
"""Where static activation codes flow: the placement rules of the quantization whitepaper.

Krishnamoorthi 2018, section 3: what fuses (Conv, bias, ReLU) has no quantizer inside; both inputs
of an Add are quantized; ops that only move data keep their input's scale. An op joins only where
its inputs are codes already, so an int8 op never forces a new quantizer into a float
neighbourhood. Functions of one code are tables (int8_ops.py).

A normalisation joins where nothing else reads its input. In a network that normalises before its
layers the input is the sum of all layers so far, which 8 bits would round once a layer, with the
errors adding up and a few large channels deciding the scale; it stays float.

Last, codes that no quantized product reads, through int8 ops or at once, are taken back where the
target's products can give floats: a result that leaves the int8 region is not rounded twice.
"""

from dataclasses import dataclass, field, replace

import onnx_ir as ir

from qcompile.attention import Attention, attention_at
from qcompile.graph import TOKEN, is_constant, is_op, rank
from qcompile.int8_ops import (
    ARITHMETIC,
    FUNCTIONS,
    MOVES_DATA,
    POOLS,
    is_function,
    is_linear_resize,
    softmax_axis,
    why_not_moved,
    why_not_pooled,
    why_not_resized,
)
from qcompile.norms import LAYER_NORM, RMS_NORMS, Norm, norm_at
from qcompile.plan import Plan
from qcompile.poles import pole_of, why_not_zero
from qcompile.products import fused_end
from qcompile.spec import QuantSpec
from qcompile.targets.target import Target
from qcompile.token_parts import FAR

NEVER_ZERO = "what reads its result has none for the code of 0"
STREAM = "other nodes read its input too, and a residual stream stays float"
SILENT = ("Shape", "Size", "QuantizeLinear", "DequantizeLinear")


def spread_activations(
    graph: ir.Graph, plan: Plan, target: Target, *, has_data: bool = True
) -> Plan:
    """The plan with all that static codes reach: activations, shared statistics, reasons.

    Of an integer-only plan every int8 op keeps its codes; the last products give int32. Without
    data the last matrix products give floats on every target: nothing says their range.
    """
    has_floats = not plan.is_integer_only
    spread = _Spread(target.has_row_ops and has_floats, has_floats)
    for node in graph:  # first: what a product before it makes would have one scale
        spread.visit_channels(node, plan)
    for node in graph:
        spread.visit(node, plan)
    if plan.is_integer_only:
        spread.read.update(o for node, _, outputs in spread.steps for o in outputs)
    if not target.gives_floats:
        spread.read |= spread.maps if not has_data else set(spread.specs)
    spread.keep_what_products_read()
    return replace(plan, activations=spread.specs, leaders=spread.leaders, reasons=spread.reasons)


@dataclass
class _Spread:
    """specs, leaders, reasons: as in Plan. roots: float value → the codes that it is a function of.

    steps: what int8 ops read and write, in order; read: what static products read; maps: what
    static convolutions give.
    """

    has_row_ops: bool
    has_floats: bool  # whether an op may compute in float between codes
    specs: dict[str, QuantSpec] = field(default_factory=dict)
    leaders: dict[str, str] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    roots: dict[str, str] = field(default_factory=dict)
    steps: list[tuple[ir.Node, list[str], list[str]]] = field(default_factory=list)
    read: set[str] = field(default_factory=set)
    maps: set[str] = field(default_factory=set)

    def visit_channels(self, node: ir.Node, plan: Plan) -> None:
        node_plan = plan.nodes.get(node.name or "")
        spec = node_plan.activation if node_plan is not None and node_plan.is_rounded else None
        if spec is not None and spec.granularity == "axis" and node.inputs[0] is not None:
            self._quantize(node.inputs[0], spec)

    def visit(self, node: ir.Node, plan: Plan) -> None:
        node_plan = plan.nodes.get(node.name or "")
        if node_plan is not None:
            spec = node_plan.activation
            if node_plan.is_rounded and spec is not None and not spec.is_dynamic:
                assert node.inputs[0] is not None
                self._quantize(node.inputs[0], spec)
                self.read.add(node.inputs[0].name or "")
                end = fused_end(node)
                self._quantize(end, replace(spec, granularity="tensor", axis=0))
                if is_op(node, "Conv"):
                    self.maps.add(end.name or "")
                if rank(node.inputs[0]) is None:  # ONNX Runtime finds no type of a float output
                    self.read.add(end.name or "")
            return
        if any(self._has_channels(v) for v in node.outputs):
            self.reasons[node.name or ""] = (
                f"{node.op_type}: its output has a scale a channel, which only products write"
            )
            return
        if all(v.name in self.specs for v in node.outputs) or is_op(node, *SILENT):
            return
        if is_op(node, "Slice") and TOKEN in node.metadata_props:
            self.reasons[node.name or ""] = "Slice: token 0 and the others have scales of their own"
            return
        if self._is_norm(node) or self._is_attention(node):
            return
        data = [v for v in node.inputs if v is not None and not is_constant(v)]
        if not any(self._can_be_codes(v) for v in data):
            return
        reason = self._place(node, data)
        if reason is not None:
            self.reasons[node.name or ""] = reason

    def _place(self, node: ir.Node, data: list[ir.Value]) -> str | None:
        """Codes for the node's outputs, or why it stays float."""
        roots = {self._root(v) for v in data}
        if is_function(node) and len(roots) == 1 and None not in roots:
            self.roots[node.outputs[0].name or ""] = roots.pop() or ""
            return None
        if self._meets_pole(node.outputs[0]):
            return f"{node.op_type}: {NEVER_ZERO}"
        if is_op(node, *ARITHMETIC):
            if len(data) < 2:
                return f"{node.op_type}: its other operand is a constant that sets no range"
            if not all(self._can_be_codes(v) for v in data):
                return f"{node.op_type}: one of its inputs is not quantized"
            self._step(node, data, [fused_end(node)])
            return None
        if is_op(node, "Concat"):
            if node.metadata_props.get(TOKEN) == FAR:
                return "Concat: token 0 of its result needs a scale of its own"
            self._quantize_token(node)
            if len(data) < len(node.inputs) or not all(self._can_be_codes(v) for v in data):
                return "Concat: one of its inputs is not quantized"
            self._step(node, data, [node.outputs[0]])
            self._share(node, data)
            return None
        if not self._can_be_codes(data[0]) or data[0] is not node.inputs[0]:
            return None
        if is_op(node, LAYER_NORM, *RMS_NORMS) and self.has_row_ops:
            return str(norm_at(node))
        if is_op(node, "Softmax") and self.has_row_ops:
            axis = softmax_axis(node)
            if isinstance(axis, str):
                return axis
            self._step(node, data[:1], [node.outputs[0]])
            return None
        if is_linear_resize(node):
            reason = why_not_resized(node)
            if not self.has_floats:
                reason = "Resize: it interpolates in float"
            if reason is None:
                self._step(node, data[:1], [node.outputs[0]])
            return reason
        if is_op(node, *MOVES_DATA):
            reason = why_not_moved(node)
            if reason is None:
                self._step(node, data[:1], list(node.outputs), leader=data[0].name)
            return reason
        if is_op(node, *POOLS):
            reason = why_not_pooled(node)
            if reason is None:
                self._step(node, data[:1], [node.outputs[0]])
            return reason
        if is_op(node, *FUNCTIONS):
            return f"{node.op_type}: it is no function of one tensor of known rank and of numbers"
        return f"{node.op_type} has no int8 kernel"

    def _quantize_token(self, node: ir.Node) -> None:
        """Codes for a constant token 0 beside codes of the others."""
        if node.metadata_props.get(TOKEN) is None:
            return
        first, others = node.inputs
        maker = None if first is None else first.producer()
        if first is None or others is None or maker is None or not self._can_be_codes(others):
            return
        if is_op(maker, "Expand") and TOKEN in maker.metadata_props:
            self._quantize(first, self.specs[self._root(others) or ""])

    def _is_norm(self, node: ir.Node) -> bool:
        """Codes for a normalisation of codes; nodes of a chain that came before have no reason."""
        norm = norm_at(node) if self.has_row_ops else None
        if not isinstance(norm, Norm) or not self._can_be_codes(norm.source):
            return False
        end = fused_end(norm.inside[-1])
        if not norm.reads_alone() or self._meets_pole(end):
            why = NEVER_ZERO if norm.reads_alone() else STREAM
            self.reasons[node.name or ""] = f"{node.op_type}: {why}"
            return True
        self._step(node, [norm.source], [end])
        for each in norm.inside:
            self.reasons.pop(each.name or "", None)
        return True

    def _is_attention(self, node: ir.Node) -> bool:
        """Codes for the attention of codes that the node ends."""
        found = attention_at(node) if self.has_row_ops else None
        operands = found.operands if isinstance(found, Attention) else []
        if not operands or not all(self._can_be_codes(v) for v in operands):
            if isinstance(found, str):
                self.reasons[node.name or ""] = found
            return isinstance(found, str)
        assert isinstance(found, Attention)
        self._step(node, operands, [found.output])
        for each in found.inside:
            self.reasons.pop(each.name or "", None)
        return True

    def _meets_pole(self, value: ir.Value) -> bool:
        """Whether the value has to stay float because of who reads it, who is told why."""
        pole = pole_of(value) if self.has_floats else None
        if pole is not None:
            self.reasons[pole.name or ""] = why_not_zero(pole)
        return pole is not None

    def _root(self, value: ir.Value) -> str | None:
        """The codes that the value is a function of, or itself where it is quantized."""
        name = value.name or ""
        return name if name in self.specs else self.roots.get(name)

    def _can_be_codes(self, value: ir.Value) -> bool:
        return self._root(value) is not None

    def _has_channels(self, value: ir.Value) -> bool:
        spec = self.specs.get(value.name or "")
        return spec is not None and spec.granularity == "axis"

    def _step(
        self,
        node: ir.Node,
        inputs: list[ir.Value],
        outputs: list[ir.Value],
        leader: str | None = None,
    ) -> None:
        """One int8 op; a function among its inputs ends there and becomes codes."""
        for value in inputs:
            root = self._root(value)
            assert root is not None
            if root != value.name:
                self._quantize(value, self.specs[root])
                producer = value.producer()
                assert producer is not None
                self.steps.append((producer, [root], [value.name or ""]))
        spec = self.specs[inputs[0].name or ""]
        for value in outputs:
            self._quantize(value, spec, leader)
        names = [[v.name or "" for v in values] for values in (inputs, outputs)]
        self.steps.append((node, names[0], names[1]))

    def _quantize(self, value: ir.Value, spec: QuantSpec, leader: str | None = None) -> None:
        name = value.name or ""
        if name in self.specs:
            return
        if name in self.roots and value.producer() is not None:
            self.steps.append((value.producer(), [self.roots[name]], [name]))  # type: ignore[arg-type]
        self.specs[name] = spec
        self.leaders[name] = self.leaders.get(leader, leader) if leader else name

    def _share(self, node: ir.Node, inputs: list[ir.Value]) -> None:
        """Inputs that only the Concat reads take its scale: they are written in place of it."""
        leader = node.outputs[0].name or ""
        followed = {v for k, v in self.leaders.items() if k != v}
        for value in inputs:
            name = value.name or ""
            is_own = self.leaders[name] == name and name not in followed
            if is_own and {u.node for u in value.uses()} == {node} and not value.is_graph_output():
                self.leaders[name] = leader

    def keep_what_products_read(self) -> None:
        """Take back the codes that lead to no static product."""
        needed = set(self.read)
        for node, inputs, outputs in reversed(self.steps):
            if needed.intersection(outputs):
                needed.update(inputs)
            else:
                self.reasons.setdefault(
                    node.name or "", f"{node.op_type}: no quantized product reads its result"
                )
        self.specs = {k: v for k, v in self.specs.items() if k in needed}
        self.leaders = {k: v for k, v in self.leaders.items() if k in needed}
