# SPDX-License-Identifier: Apache-2.0
"""Write auto_pad of a convolution or a pool as pads.

Before:
    f (float[1,1,4,4] x) => (float[1,1,2,2] y)
    <float[1,1,3,3] w = {1, 1, 1, 1, 1, 1, 1, 1, 1}>
    { y = Conv <auto_pad = "SAME_UPPER", strides = [2, 2]> (x, w) }
After:
    f (float[1,1,4,4] x) => (float[1,1,2,2] y)
    <float[1,1,3,3] w = {1, 1, 1, 1, 1, 1, 1, 1, 1}>
    { y = Conv <strides = [2, 2], pads = [0, 0, 1, 1]> (x, w) }
Refuses: SAME with strides on a size that is not known; ceil_mode.

With stride 1 the padding is the kernel's size less one, whatever the input's size.
"""

import onnx_ir as ir

from qcompile.graph import attribute, is_constant
from qcompile.passes.normalise.rewiring import dims, spatial
from qcompile.passes.rewrite import NodePass


class FoldAutoPadIntoPads(NodePass):
    """SAME_UPPER, SAME_LOWER and VALID."""

    stage = "normalise"
    op_types = ("Conv", "MaxPool", "AveragePool")

    def match(self, node: ir.Node) -> list[int] | str | None:
        """The pads, or why they are not known."""
        mode, x = attribute(node, "auto_pad", "NOTSET"), node.inputs[0]
        if mode == "NOTSET" or x is None:
            return None
        if attribute(node, "ceil_mode", 0):
            return f"{mode} with ceil_mode"
        weight = node.inputs[1] if node.op_type == "Conv" else None
        kernel = list(attribute(node, "kernel_shape", None) or [])
        if not kernel and not is_constant(weight):
            return "the size of its kernel is not known"
        kernel = kernel or list(dims(weight)[2:])
        if mode == "VALID":
            return [0] * 2 * len(kernel)
        strides = spatial(node, "strides", len(kernel), 1)
        dilations = spatial(node, "dilations", len(kernel), 1)
        sizes = list(x.shape)[2:] if x.shape is not None else [None] * len(kernel)
        begins, ends = [], []
        for k, s, d, n in zip(kernel, strides, dilations, sizes, strict=True):
            if s != 1 and not isinstance(n, int):
                return f"{mode} depends on the size {n}, which is not known"
            steps = (-(-n // s) - 1) * s - n if isinstance(n, int) and s != 1 else -1
            total = max(steps + (k - 1) * d + 1, 0)
            small, large = total // 2, total - total // 2
            begins.append(small if mode == "SAME_UPPER" else large)
            ends.append(large if mode == "SAME_UPPER" else small)
        return begins + ends

    def rewrite(self, node: ir.Node, found: list[int]) -> None:
        """One attribute for the other; pads of 0 are the default."""
        node.attributes.pop("auto_pad")
        node.attributes.pop("pads", None)
        if any(found):
            node.attributes["pads"] = ir.AttrInt64s("pads", found)
