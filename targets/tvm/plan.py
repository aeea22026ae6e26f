# SPDX-License-Identifier: Apache-2.0
"""A plan: the kernels of a graph in the order in which they run, whatever the device."""

from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from qcompile.integer_graph import CodeMap, IntegerGraph, Node


@dataclass(frozen=True)
class Step:
    """One kernel: its function, what each parameter reads, and the array that it makes.

    view: the shape in which others read the array, where it is another.
    """

    name: str
    function: Any = field(repr=False)
    arguments: tuple[tuple[str, str | NDArray], ...] = field(repr=False)
    output: str
    shape: tuple[int, ...]
    kind: str
    node: Node | None = field(default=None, repr=False)
    view: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Plan:
    """Steps from the array `input_name` to the output of the last step."""

    graph: IntegerGraph
    input_name: str
    input_shape: tuple[int, ...]
    input_kind: str
    steps: tuple[Step, ...]


def code_kind(x: CodeMap) -> str:
    """The type of an array of unpacked codes."""
    return {32: "int32"}.get(x.bits, "int8" if x.is_signed else "uint8")
