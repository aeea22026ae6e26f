# SPDX-License-Identifier: Apache-2.0
"""An edge: what one transform of channels changes, and the products that write and read it."""

from dataclasses import dataclass, field

import onnx_ir as ir

from qcompile.norms import Norm

POSITIVE = ("Relu", "LeakyRelu")  # f(s x) = s f(x) for s > 0, of each element
STREAM, VALUES, LINEAR, MAPS = "residual stream", "attention values", "linear", "linear bottleneck"
ORDER, NORMED, EQUAL = "order of channels", "norm output", "channels of maps"


@dataclass(frozen=True)
class Part:
    """Elements first … first + count of an axis: the part of a product's outputs on the edge."""

    first: int
    count: int


@dataclass(frozen=True)
class Writer:
    """A product, a Conv, or a Gather of a table, some of whose outputs are on the edge."""

    node: ir.Node
    part: Part


@dataclass(frozen=True)
class Constant:
    """Input `index` of a node: a bias, or positions that are added."""

    node: ir.Node
    index: int
    part: Part


@dataclass(frozen=True)
class Reader:
    """A product that reads a value of the edge, and the norm between."""

    node: ir.Node
    norm: Norm | None


@dataclass
class Edge:
    """What one matrix turns. block: its size. reason: why nothing may, the first that was found."""

    start: ir.Value
    block: int
    width: int
    writers: list[Writer] = field(default_factory=list)
    constants: list[Constant] = field(default_factory=list)
    readers: list[Reader] = field(default_factory=list)
    norms: list[Norm] = field(default_factory=list)
    reason: str = ""
    is_attended: bool = False
    is_map: bool = False  # the channels of [B, C, H, W], else the last axis
    is_normed: bool = False  # what a norm gives, whose scale and shift are its constants
    is_equal: bool = False  # between convolutions with windows, or by channels: scales pass alone
    is_sorted: bool = False  # its channels may take another order, and nothing more
    bend: str = ""  # a function with f(s x) = s f(x), s > 0, on the way: scales pass it alone

    @property
    def kind(self) -> str:
        """What people call it."""
        if self.is_sorted:
            return ORDER
        if self.is_equal:
            return EQUAL
        if self.is_normed:
            return NORMED
        last = VALUES if self.is_attended else LINEAR
        return MAPS if self.is_map else STREAM if self.norms else last

    @property
    def is_centred(self) -> bool:
        """Whether a norm subtracts the mean, which the matrix must keep."""
        return any(norm.is_centred for norm in self.norms)

    @property
    def name(self) -> str:
        """The value that the walk started from."""
        return self.start.name or ""


def shown(node: ir.Node) -> str:
    """A node in a reason."""
    return f"{node.op_type} {node.name}"
