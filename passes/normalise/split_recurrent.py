# SPDX-License-Identifier: Apache-2.0
"""Split GRU, RNN and LSTM into one product of all inputs and a Scan over the steps.

Before:
    f (float[2,1,1] x) => (float[2,1,1,1] y) <float[1,1,1] w = {2}, float[1,1,1] r = {3}>
    { [n] y = RNN <hidden_size = 1, activations = ["Relu"]> (x, w, r) }
After:
    f (float[2,1,1] x) => (float[2,1,1,1] y)
    <float[1,1] "n/input_weight" = {2}, float[1,1] "n/h_0_zeros" = {0}, int64[1] "n/y_axis" = {1}>
    { "n/input_turned" = Transpose <perm = [1, 0]> ("n/input_weight")
      "n/input" = MatMul (x, "n/input_turned")
      "n/scan/h", "n/scan/y" = Scan <num_scan_inputs = 1,
        body = step (float[1,1] "n/scan/body/h", float[1,1] "n/scan/body/x")
          => (float[1,1] "n/scan/body/h_new", float[1,1] "n/scan/body/y")
        <float[1,1] "n/scan/body/product_weight" = {3}>
        { "n/scan/body/product_turned" = Transpose <perm = [1, 0]> ("n/scan/body/product_weight")
          "n/scan/body/product" = MatMul ("n/scan/body/h", "n/scan/body/product_turned")
          "n/scan/body/sum" = Add ("n/scan/body/product", "n/scan/body/x")
          "n/scan/body/h_new" = Relu ("n/scan/body/sum")
          "n/scan/body/y" = Identity ("n/scan/body/h_new") }> ("n/h_0_zeros", "n/input")
      y = Unsqueeze ("n/scan/y", "n/y_axis") }
Refuses: weights or biases that are no float32 constants; layout 1; activations with parameters;
what `is_wanted` leaves whole.

Both products are then weighted nodes like any other. With both directions the product of the input
is still one, and each direction has a Scan. Steps that a sequence is too short for keep the state
and give 0. Unrolling the Scan was measured and is no faster (docs/normalise.md).
"""

from collections.abc import Callable

import onnx_ir as ir

from qcompile.graph import (
    attribute,
    input_of,
    is_constant,
    replace,
    static_shape,
)
from qcompile.passes.normalise.recurrent_cells import (
    ACTIVATIONS,
    GATES,
)
from qcompile.passes.normalise.recurrent_scans import B, P, R, Scans, W
from qcompile.passes.rewrite import NodePass


class SplitRecurrent(NodePass):
    """Nodes that `is_wanted` names; by default all."""

    stage = "normalise"
    op_types = tuple(GATES)

    def __init__(self, is_wanted: Callable[[ir.Node], bool] = lambda _: True) -> None:
        super().__init__()
        self.is_wanted = is_wanted

    def match(self, node: ir.Node) -> str | bool | None:
        """True, or the reason."""
        if not self.is_wanted(node):
            return None
        return why_not_split(node) or True

    def rewrite(self, node: ir.Node, found: bool) -> None:
        """Nodes in place of the recurrent one."""
        graph = node.graph
        assert isinstance(graph, ir.Graph)
        outside = Scans(node, graph)
        directions = [outside.direction(d, s) for d, s in enumerate(outside.summed())]
        for index, output in enumerate(node.outputs):
            if output.uses() or output.is_graph_output():
                replace(output, outside.joined([each[index] for each in directions], index))
        graph.insert_before(node, outside.nodes)
        graph.remove(node, safe=True)


def why_not_split(node: ir.Node) -> str:
    """What of the node itself is in the way, or nothing."""
    for index, what in ((W, "weight"), (R, "recurrence weight"), (B, "bias"), (P, "peepholes")):
        value = input_of(node, index)
        if value is None and index in (B, P):
            continue
        if value is None or not is_constant(value) or value.dtype != ir.DataType.FLOAT:
            return f"its {what} is no float32 constant"
        dims = static_shape(value)
        if dims is None or len(dims) != (3 if index in (W, R) else 2) or 0 in dims:
            return f"its {what} has the shape {value.shape}"
    if attribute(node, "layout", 0) != 0:
        return "layout 1 has no kernel in ONNX Runtime"
    named = attribute(node, "activations", ())
    odd = [a for a in named if a not in ACTIVATIONS]
    if odd or attribute(node, "activation_alpha") or attribute(node, "activation_beta"):
        return f"its activations {', '.join(odd) or 'with parameters'} are not split"
    return ""
