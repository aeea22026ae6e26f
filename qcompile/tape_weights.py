# SPDX-License-Identifier: Apache-2.0
"""TapeWeight: a weight of a tape beside the float one, and the product that reads it."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from qcompile.graph import attribute, is_op
from qcompile.products import weight_of
from qcompile.reverse import Tape
from qcompile.reverse_products import Real


@dataclass(frozen=True)
class TapeWeight:
    """leaf: its name. real: the float weight [N, K] or [N, C/group, kh, kw]; input: what the
    product reads.
    """

    leaf: str
    real: Real
    input: str
    node: ir.Node

    def by_column(self, power: Real) -> Real:
        """The second moment of every input channel [C] for every element of the weight."""
        group = int(attribute(self.node, "group", 1)) if is_op(self.node, "Conv") else 1
        each = power.reshape(group, 1, -1)
        rows = self.real.reshape(group, len(self.real) // group, each.shape[2], -1)
        return np.broadcast_to(each[..., None], rows.shape).reshape(self.real.shape)

    def power(self, x: Real) -> Real:
        """The mean square of every channel of inputs [B, C, H, W] or [..., K]."""
        axes = (0, 2, 3) if is_op(self.node, "Conv") else tuple(range(x.ndim - 1))
        return np.asarray(np.square(x, dtype=np.float64).mean(axes), np.float32)


def weights_of(tape: Tape, normalised: ir.Model) -> Iterator[TapeWeight]:
    """Weights of products, in the order of the graph; those that only Gather reads are left out."""
    floats = {n.name: n for n in normalised.graph}
    turned = {s.output: s.inputs[0] for s in tape.steps if s.node.op_type == "Transpose"}
    seen: set[str] = set()
    for step in tape.steps:
        twin = floats.get(step.node.name)
        if step.node.op_type not in ("Conv", "MatMul", "Gemm") or twin is None:
            continue
        leaf, value = turned.get(step.inputs[1], step.inputs[1]), weight_of(twin)
        if leaf not in tape.weights or leaf in seen or value is None or value.const_value is None:
            continue
        seen.add(leaf)
        real = np.asarray(value.const_value.numpy(), np.float32)
        yield TapeWeight(leaf, real, step.inputs[0], step.node)
