# SPDX-License-Identifier: Apache-2.0
"""Insert the low-rank parts of products: two small products, added to that of the codes.

Before:
    { y = MatMul (x, w) }
After:
    { y_codes_alone = MatMul (x, w)
      y_inner = MatMul (x, w_inner)   y_outer = MatMul (y_inner, w_outer)
      y = Add (y_codes_alone, y_outer) }
Refuses: products without such a part (low_rank.py). A bias that is added first stays first.
"""

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from qcompile.graph import add_initializer, new_node, replace
from qcompile.passes.rewrite import NodePass
from qcompile.passes.transform.saliency_rank import LowRank
from qcompile.passes.transform.stats import Work
from qcompile.products import end_of_bias

PARTS = ("inner", "outer")


class InsertLowRank(NodePass):
    """Products with a part in the statistics."""

    stage = "transform"
    op_types = ("MatMul",)

    def __init__(self, work: Work) -> None:
        super().__init__()
        self.work = work

    def match(self, node: ir.Node) -> LowRank | None:
        """The part."""
        return self.work.stats.low_rank.get(node.name or "")

    def rewrite(self, node: ir.Node, found: LowRank) -> None:
        """The readers of the product, or of its bias's sum, read the sum with the part."""
        source = node.inputs[0]
        assert source is not None
        end = end_of_bias(node.outputs[0]) or node.outputs[0]
        last, name = end.producer(), node.name or ""
        assert last is not None and isinstance(last.graph, ir.Graph)
        inner = _product(last.graph, source, found.inner, f"{name}/inner")
        outer = _product(last.graph, inner[-1].outputs[0], found.outer, f"{name}/outer")
        outer[-1].outputs[0].shape = end.shape
        made = new_node(
            "Add",
            [end, outer[-1].outputs[0]],
            f"{name}/add_low_rank",
            f"{end.name}_with_low_rank",
            shape=end.shape,
        )
        last.graph.insert_after(last, [*inner, *outer, made])
        replace(end, made.outputs[0])
        made.replace_input_with(0, end)


def _product(
    graph: ir.Graph, source: ir.Value, weight: NDArray[np.float32], name: str
) -> list[ir.Node]:
    """x · weightᵀ of a weight [N, K], as normalise has products."""
    value = add_initializer(graph, weight_name(name), weight)
    turned = new_node(
        "Transpose",
        [value],
        f"{name}/transpose",
        f"{value.name}_t",
        shape=ir.Shape(weight.shape[::-1]),
        perm=[1, 0],
    )
    dims = None if source.shape is None else ir.Shape([*source.shape[:-1], len(weight)])
    product = new_node("MatMul", [source, turned.outputs[0]], name, f"{name}_y", shape=dims)
    return [turned, product]


def weight_name(product: str) -> str:
    """Of the weight of a part, by its product's name."""
    return f"{product}_w"
