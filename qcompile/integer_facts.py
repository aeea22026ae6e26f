# SPDX-License-Identifier: Apache-2.0
"""What the nodes of a lowered integer-only graph say: windows, weights, the form of the input."""

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from qcompile.graph import DOMAIN, attribute, is_op
from qcompile.numerics.conv import Window
from qcompile.pack import weight_parts
from qcompile.products import code_bounds


def wide_values(graph: ir.Graph) -> set[ir.Value]:
    """Codes of at most 15 that 8-bit weights meet, and what shares a map's width with them."""
    wide: set[ir.Value] = set()
    for node in reversed(list(graph)):
        source = node.inputs[0] if node.inputs else None
        if source is None:
            continue
        is_product = node.domain == DOMAIN and node.op_type in ("QConv", "QMatMul")
        is_kept = not (node.domain == DOMAIN and attribute(node, "mode") != "max")
        if (is_product and int(attribute(node, "bits")) > 4) or (
            is_kept and any(v in wide for v in node.outputs)
        ):
            wide.add(source)
    return wide


def weight_values(node: ir.Node) -> NDArray[np.int64]:
    """Values [N, K] of a product."""
    return np.concatenate([part.values().astype(np.int64) for _, part in weight_parts(node)])


def window_of(node: ir.Node) -> Window:
    """The window of a QConv or QPool; an absent kernel is (0, 0)."""

    def pair(name: str, default: tuple[int, ...]) -> Any:
        return tuple(int(v) for v in attribute(node, name, default))

    return Window(
        pair("kernel_shape", ()) or (0, 0),
        pair("strides", (1, 1)),
        pair("pads", (0, 0, 0, 0)),
        pair("dilations", (1, 1)),
        bool(attribute(node, "ceil_mode", 0)),
    )


def first_perm(value: ir.Value, rank: int) -> tuple[int, ...]:
    """How the codes of the input are transposed where they are read first."""
    todo = [value]
    while todo:
        for use in todo.pop(0).uses():
            if is_op(use.node, "Transpose"):
                return tuple(attribute(use.node, "perm"))
            if is_op(use.node, "Clip"):
                todo.append(use.node.outputs[0])
    return tuple(range(rank))


def clip_behind(node: ir.Node) -> tuple[int, int] | None:
    """The bounds of a Clip of the input's codes: those of less than 8 bits have one."""
    uses = [use.node for use in node.outputs[0].uses()]
    if len(uses) != 1 or not is_op(uses[0], "Clip"):
        return None
    return code_bounds(uses[0])
