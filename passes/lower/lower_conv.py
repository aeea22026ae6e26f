# SPDX-License-Identifier: Apache-2.0
"""Lower a quantized 2-D Conv, with bias, Relu or Clip and requantization, to an NHWC QConv.

Before:
    { y = Conv (DequantizeLinear (x_codes), w_dequantized, b_dequantized)
      r = Relu (y)   r_codes = QuantizeLinear (r) }
After:
    { x_nhwc = Transpose (x_codes)
      r_nhwc = com.qcompile.QConv (x_nhwc, w_codes, b_codes, multiplier)
      r_codes = Transpose (r_nhwc) }
Refuses: a static Conv with a float bias.

A static Conv whose output does not become codes gives floats. A dynamic Conv takes and gives
floats and quantizes each sample inside.
"""

from typing import Any

import onnx_ir as ir

from qcompile.graph import (
    FLOAT,
    LAYOUT,
    NHWC,
    input_of,
    is_op,
    only_consumer,
    remove_dead,
    replace,
    static_shape,
)
from qcompile.passes.lower.lowered import (
    TO_NCHW,
    TO_NHWC,
    block_scales,
    clip_attributes,
    matrix_codes,
    op,
    output_multiplier,
    permuted,
    remember,
    static_attributes,
    static_bias,
    transpose,
    weight_attributes,
    window_attributes,
)
from qcompile.passes.lower.qdq import (
    Dynamic,
    End,
    Static,
    Weight,
    bounds_of,
    dynamic_of,
    end_of,
    static_of,
    weight_codes_of,
)
from qcompile.passes.rewrite import NodePass
from qcompile.products import is_depthwise, is_relu


class LowerConv(NodePass):
    """Static and dynamic activations."""

    stage = "lower"
    op_types = ("Conv",)

    def match(self, node: ir.Node) -> tuple[Weight, Static | Dynamic, End | None] | str | None:
        """The weight, the activations, and where the output becomes codes."""
        weight = weight_codes_of(node.inputs[1])
        if weight is None:
            return None
        dynamic = dynamic_of(node.inputs[0])
        if dynamic is not None:
            return weight, dynamic, None
        has_own = is_depthwise(node, static_shape(weight.codes) or (0, 0))
        static, bias = (
            static_of(node.inputs[0], by_channel=has_own, by_step=True),
            input_of(node, 2),
        )
        if static is None:
            return "its activations are not quantized"
        if bias is not None and not is_op(bias.producer(), "DequantizeLinear"):
            return "its bias has no codes"
        return weight, static, end_of(node.outputs[0], by_channel=True, by_step=True)

    def rewrite(self, node: ir.Node, found: tuple[Weight, Static | Dynamic, End | None]) -> None:
        """QConv between two transposes."""
        weight, activation, end = found
        if isinstance(activation, Static):
            self._static(node, weight, activation, end)
        else:
            self._dynamic(node, weight, activation)

    def _static(self, node: ir.Node, weight: Weight, static: Static, end: End | None) -> None:
        graph = node.graph
        assert isinstance(graph, ir.Graph)
        codes, n, k = matrix_codes(graph, weight)
        name = node.outputs[0].name or ""
        inputs = [
            codes,
            static_bias(graph, name, input_of(node, 2), n),
            output_multiplier(graph, name, static, weight, end, n),
            None,
            block_scales(graph, weight, n)[1],
        ]
        attributes = weight_attributes(weight, n, k, has_scale=False)
        attributes |= static_attributes(static, end) | conv_attributes(node)
        out, passed = _clipped_output(node, attributes) if end is None else (end.codes, end.passed)
        self._place(node, static.codes, inputs, out, list(passed), attributes, end)

    def _dynamic(self, node: ir.Node, weight: Weight, dynamic: Dynamic) -> None:
        graph = node.graph
        assert isinstance(graph, ir.Graph)
        codes, n, k = matrix_codes(graph, weight)
        attributes = weight_attributes(weight, n, k, has_scale=True) | conv_attributes(node)
        attributes |= dynamic.attributes
        out, passed = _clipped_output(node, attributes)
        inputs = [codes, input_of(node, 2), None, *block_scales(graph, weight, n)]
        self._place(node, dynamic.source, inputs, out, list(passed), attributes, None)

    def _place(
        self,
        node: ir.Node,
        x: ir.Value,
        inputs: list[ir.Value | None],
        out: ir.Value,
        passed: list[ir.Node],
        attributes: dict[str, Any],
        end: End | None,
    ) -> None:
        graph = node.graph
        assert isinstance(graph, ir.Graph)
        before = transpose(x, TO_NHWC, f"{node.outputs[0].name}_x_nhwc")
        conv = op(
            "QConv",
            [before.outputs[0], *inputs],
            node.name or "",
            f"{out.name}_nhwc",
            out.dtype or ir.DataType.FLOAT,
            **attributes,
        )
        if end is not None:
            remember(conv, [x], end)
        else:
            conv.metadata_props[FLOAT] = out.name or ""
        conv.outputs[0].shape = permuted(node.outputs[0].shape, TO_NHWC)
        conv.outputs[0].metadata_props.update({**out.metadata_props, LAYOUT: NHWC})
        after = transpose(conv.outputs[0], TO_NCHW, f"{out.name}_nchw")
        graph.insert_after(passed[-1] if passed else node, [before, conv, after])
        name = out.name
        replace(out, after.outputs[0])
        remove_dead(graph, [node, *passed])
        after.outputs[0].name = name


def _clipped_output(
    node: ir.Node, attributes: dict[str, Any]
) -> tuple[ir.Value, tuple[ir.Node, ...]]:
    """The float output behind a Relu or Clip, whose bounds join the attributes."""
    follower = only_consumer(node.outputs[0])
    if follower is None or not is_relu(follower):
        return node.outputs[0], ()
    attributes |= clip_attributes(bounds_of(follower))
    return follower.outputs[0], (follower,)


def conv_attributes(node: ir.Node) -> dict[str, Any]:
    """The window and the groups."""
    dims = [int(d) for d in node.inputs[1].shape or ()]  # type: ignore[union-attr, arg-type]
    return {"kernel_shape": dims[2:]} | window_attributes(node)
