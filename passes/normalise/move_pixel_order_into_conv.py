# SPDX-License-Identifier: Apache-2.0
"""Let a convolution give its channels in the order in which DepthToSpace moves whole pixels.

Before:
    f (float[1,1,2,2] x) => (float[1,1,4,4] y)
    <float[4,1,1,1] w = {1, 2, 3, 4}>
    { c = Conv (x, w)   y = DepthToSpace <blocksize = 2, mode = "CRD"> (c) }
After:
    f (float[1,1,2,2] x) => (float[1,1,4,4] y)
    <float[4,1,1,1] w_pixels_2 = {1, 2, 3, 4}>
    { c_pixels = Conv (x, w_pixels_2)
      y = DepthToSpace <blocksize = 2, mode = "DCR"> (c_pixels) }
Refuses: groups; a weight or bias that is not constant; other readers of the convolution.

torch's PixelShuffle and our own form of ConvTranspose say CRD: [N, b, b] in channels. In DCR,
[b, b, N], the channels of a pixel lie together in NHWC (`lower/move_pixels.py`).
"""

from collections.abc import Callable

import onnx_ir as ir
from numpy.typing import NDArray

from qcompile.graph import attribute, is_constant, unique_name
from qcompile.passes.normalise.channel_statistics import keep, statistics_of
from qcompile.passes.normalise.rewiring import derived, dims, graph_of, sole_source
from qcompile.passes.rewrite import NodePass


class MovePixelOrderIntoConv(NodePass):
    """Rows of the weight and of the bias change places, which is exact."""

    stage = "normalise"
    op_types = ("DepthToSpace",)

    def match(self, node: ir.Node) -> ir.Node | str | None:
        """The convolution."""
        if attribute(node, "mode", "DCR") != "CRD":
            return None
        conv = sole_source(node.inputs[0], "Conv")
        if conv is None:
            return None
        if int(attribute(conv, "group", 1)) != 1:
            return "its convolution has groups"
        if not all(is_constant(v) for v in conv.inputs[1:] if v is not None):
            return "its convolution's weight or bias is not constant"
        return conv

    def rewrite(self, node: ir.Node, found: ir.Node) -> None:
        """Both in the other order."""
        b = int(attribute(node, "blocksize", 1))
        for index, value in enumerate(found.inputs[1:], 1):
            if value is not None:
                size, order = dims(value), _pixels_first(b)
                found.replace_input_with(index, derived(found, value, f"_pixels_{b}", size, order))
        node.attributes["mode"] = ir.AttrString("mode", "DCR")
        out, known = found.outputs[0], statistics_of(found.outputs[0])
        if known is not None:
            order = _pixels_first(b)
            keep(out, order(known.mean), order(known.deviation))
        out.name = unique_name(graph_of(found), f"{out.name}_pixels")


def _pixels_first(b: int) -> Callable[[NDArray], NDArray]:
    """Rows [N, b, b] as [b, b, N]."""

    def change(rows: NDArray) -> NDArray:
        parts = rows.reshape(-1, b * b, *rows.shape[1:])
        return parts.swapaxes(0, 1).reshape(rows.shape)

    return change
