# SPDX-License-Identifier: Apache-2.0
"""Insert LogNP between the 8-bit codes of an activation and those that narrow products read.

Before:
    { x = DequantizeLinear (x_codes)   n_codes = QuantizeLinear (x) }
After:
    { x = DequantizeLinear (x_codes)   d = Div (x, alpha)   a = Abs (d)   b = Add (a, one)
      l = Log (b)   m = Div (l, step)   r = Round (m)   c = Clip (r, zero, high)
      p = Mul (c, step)   e = Exp (p)   f = Sub (e, one)   g = Mul (f, alpha)
      s = Sign (x)   y = Mul (g, s)   n_codes = QuantizeLinear (y) }
Refuses: copies that polish.py did not choose. Targets make one table of it all (N25).
"""

import numpy as np
import onnx_ir as ir

from qcompile.graph import add_initializer, new_node
from qcompile.numerics.lognp import LogNP
from qcompile.passes.rewrite import NodePass
from qcompile.passes.transform.stats import Work


class InsertPolish(NodePass):
    """Quantizers of copies with a polish in the statistics."""

    stage = "transform"
    op_types = ("QuantizeLinear",)

    def __init__(self, work: Work) -> None:
        super().__init__()
        self.work = work

    def match(self, node: ir.Node) -> LogNP | None:
        """The polish."""
        return self.work.stats.polish.get((node.name or "").removesuffix("/quantize"))

    def rewrite(self, node: ir.Node, found: LogNP) -> None:
        """The quantizer reads the polished value."""
        graph, x = node.graph, node.inputs[0]
        assert isinstance(graph, ir.Graph) and x is not None
        name = (node.name or "").removesuffix("/quantize")

        def number(word: str, value: float) -> ir.Value:
            return add_initializer(graph, f"{name}_{word}", np.array(value, np.float32))

        alpha, step = number("alpha", found.alpha), number("step", found.step)
        one, zero, high = number("one", 1), number("zero", 0), number("high", found.high)
        made: list[ir.Node] = []

        def do(op: str, *inputs: ir.Value) -> ir.Value:
            place = f"{name}/polish_{len(made)}_{op.lower()}"
            made.append(new_node(op, inputs, place, place, shape=x.shape))
            return made[-1].outputs[0]

        size = do("Abs", do("Div", x, alpha))
        code = do("Round", do("Div", do("Log", do("Add", size, one)), step))
        power = do("Exp", do("Mul", do("Clip", code, zero, high), step))
        back = do("Mul", do("Sub", power, one), alpha)
        result = back if found.low == 0 else do("Mul", back, do("Sign", x))
        graph.insert_before(node, made)
        node.replace_input_with(0, result)
