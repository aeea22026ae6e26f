# SPDX-License-Identifier: Apache-2.0
"""Fold a Pad with zeros into the convolution that alone reads it.

Before:
    f (float[1,1,2,2] x) => (float[1,1,3,3] y)
    <float[1,1,1,1] w = {2}, int64[8] p = {0, 0, 1, 0, 0, 0, 0, 1}>
    { a = Pad (x, p)   y = Conv (a, w) }
After:
    f (float[1,1,2,2] x) => (float[1,1,3,3] y)
    <float[1,1,1,1] w = {2}>
    { y = Conv <pads = [1, 0, 0, 1]> (x, w) }
Refuses: a mode other than constant; a value other than 0; pads that are computed, below 0, or of
the batch or the channels; other readers; a convolution with auto_pad.
"""

import onnx_ir as ir

from qcompile.graph import attribute, constant, input_of, only_consumer, rank
from qcompile.passes.normalise.rewiring import spatial
from qcompile.passes.rewrite import NodePass


class FoldPadIntoConv(NodePass):
    """Pads add up."""

    stage = "normalise"
    op_types = ("Conv",)

    def match(self, node: ir.Node) -> list[int] | str | None:
        """The sum of both pads, or why they cannot be one."""
        x = node.inputs[0]
        pad = x.producer() if x is not None else None
        if x is None or pad is None or pad.op_type != "Pad" or pad.domain not in ("", "ai.onnx"):
            return None
        problem = _problem(node, pad)
        if problem is not None:
            return problem
        pads, num_axes = pads_of(pad), rank(x)
        if pads is None or num_axes is None:
            return "its pads are not known"
        if min(pads) < 0:
            return "it takes away from the input"
        if any(pads[:2] + pads[num_axes : num_axes + 2]):
            return "it pads the batch or the channels"
        added = pads[2:num_axes] + pads[num_axes + 2 :]
        own = spatial(node, "pads", num_axes - 2, 0)
        return [a + b for a, b in zip(own, added, strict=True)]

    def rewrite(self, node: ir.Node, found: list[int]) -> None:
        """The convolution reads what was padded."""
        pad = node.inputs[0].producer() if node.inputs[0] is not None else None
        assert pad is not None and pad.graph is not None
        node.replace_input_with(0, pad.inputs[0])
        node.attributes["pads"] = ir.AttrInt64s("pads", found)
        pad.graph.remove(pad, safe=True)


def _problem(node: ir.Node, pad: ir.Node) -> str | None:
    value = input_of(pad, 2)
    fill = constant(value)
    if only_consumer(pad.outputs[0]) is None:
        return f"{pad.outputs[0].name} has another reader"
    if attribute(pad, "mode", "constant") != "constant":
        return f"it pads with {attribute(pad, 'mode')}"
    if value is not None and (fill is None or float(fill.ravel()[0]) != 0.0):
        return "it pads with something other than 0"
    if attribute(node, "auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        return f"its convolution has auto_pad {attribute(node, 'auto_pad')}"
    return None


def pads_of(pad: ir.Node) -> list[int] | None:
    """Pads of every axis, begins then ends; None where they are computed."""
    given, num_axes = constant(input_of(pad, 1)), rank(pad.outputs[0])
    axes_value = input_of(pad, 3)
    axes = constant(axes_value)
    if given is None or num_axes is None or (axes_value is not None and axes is None):
        return None
    numbers = [int(v) for v in given.ravel()]
    if axes is None:
        return numbers
    pads, half = [0] * 2 * num_axes, len(numbers) // 2
    for i, axis in enumerate(int(a) % num_axes for a in axes.ravel()):
        pads[axis], pads[axis + num_axes] = numbers[i], numbers[i + half]
    return pads
