# SPDX-License-Identifier: Apache-2.0
"""Plan: for every weighted node and every activation what was decided, and why."""

from dataclasses import dataclass, field

from qcompile.numerics.softmax_formats import SoftmaxFormat
from qcompile.rotation_rows import RotationRow
from qcompile.spec import QuantSpec

WEIGHTED_OPS = ("Conv", "MatMul", "Gemm", "Gather")
RECURRENT_OPS = ("LSTM", "GRU", "RNN")  # coverage leaves out those that stay float
QUANTIZED_OPS = (*WEIGHTED_OPS, *RECURRENT_OPS)


@dataclass(frozen=True)
class NodePlan:
    """A weighted node: its weight's spec and how it takes activations, or why it stays float.

    is_imported: its codes are those of the user's model. is_exact: its weight lies on the grid of
    its spec, and stays what it is. part_of: name and op of the recurrent node
    that was split into it and others. activation is the spec of the input:
    static (`uint8/tensor`), dynamic (`int8/row`, `int8/sample`) or None (float).
    """

    node: str
    op_type: str
    weight_name: str
    num_elements: int
    weight: QuantSpec | None = None
    activation: QuantSpec | None = None
    reason: str = ""
    rule: str = ""
    is_imported: bool = False
    is_exact: bool = False
    part_of: tuple[str, str] | None = None

    @property
    def origins(self) -> list[tuple[str, str]]:
        """(name, op) for the rules of a recipe."""
        return [(self.node, self.op_type), *([self.part_of] if self.part_of else [])]

    @property
    def is_quantized(self) -> bool:
        """Whether the node runs from packed codes."""
        return self.weight is not None

    @property
    def is_rounded(self) -> bool:
        """Whether its codes are found here, from float weights."""
        return self.is_quantized and not self.is_imported

    @property
    def may_change(self) -> bool:
        """Whether its weight may become another: it is rounded, with an error."""
        return self.is_rounded and not self.is_exact


@dataclass(frozen=True)
class Plan:
    """What was decided for a model.

    nodes: weighted nodes by name. activations: value name → spec of static codes. leaders: value
    name → the value whose statistics it shares. copies: name of narrower codes, which products
    alone read → the value that they are of. reasons: other nodes that stay float inside
    quantized neighbourhoods, and why. attentions: MatMuls that end an attention which codes made at
    run time may compute. softmax: MatMuls that end an attention of static codes → the format of its
    weights, where it is not uint8. is_integer_only: no float may stand among codes. ranges_from:
    what the ranges of static activations come from. rotations: what could be rotated, and whether
    it is. stepped: activations whose scale the time step chooses. unstepped: others, and why not.
    """

    preset: str
    target: str
    nodes: dict[str, NodePlan]
    activations: dict[str, QuantSpec] = field(default_factory=dict)
    leaders: dict[str, str] = field(default_factory=dict)
    copies: dict[str, str] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    attentions: frozenset[str] = frozenset()
    softmax: dict[str, SoftmaxFormat] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    is_integer_only: bool = False
    ranges_from: str | None = None
    rotations: tuple[RotationRow, ...] = ()
    stepped: frozenset[str] = frozenset()
    unstepped: dict[str, str] = field(default_factory=dict)

    def coverage(self) -> float:
        """Weight elements that run from packed codes ÷ all; a tied weight counts once."""
        sizes = {p.weight_name: p.num_elements for p in self.counted()}
        total = sum(sizes.values())
        packed = {p.weight_name for p in self.counted() if p.is_quantized}
        return sum(sizes[name] for name in packed) / total if total else 0.0

    def counted(self) -> list[NodePlan]:
        """The nodes that coverage counts: Conv, MatMul, Gemm, some tables and LSTM.

        Tables that are quantized or tied; LSTM that is quantized.
        """
        products = {p.weight_name for p in self.nodes.values() if p.op_type != "Gather"}
        return [
            p
            for p in self.nodes.values()
            if (p.op_type not in RECURRENT_OPS or p.is_quantized)
            and (p.op_type != "Gather" or p.is_quantized or p.weight_name in products)
        ]
