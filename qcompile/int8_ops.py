# SPDX-License-Identifier: Apache-2.0
"""The ops that run on static codes besides products, and what keeps one of them in float."""

import numpy as np
import onnx_ir as ir

from qcompile.graph import attribute, constant, input_of, is_constant, is_op, rank
from qcompile.numerics.resize import MODES

# The output keeps the scale of input 0.
MOVES_DATA = (
    *("Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Identity"),
    *("Slice", "Split", "Gather", "Expand", "Tile", "Pad", "DepthToSpace", "SpaceToDepth"),
    *("MaxPool", "GlobalMaxPool", "Resize"),
)
POOLS = ("AveragePool", "GlobalAveragePool", "ReduceMean")
ARITHMETIC = ("Add", "Sub", "Mul")
# Element by element, of one tensor and numbers: any chain of them is a table of 256 codes (N25).
FUNCTIONS = (
    *("Relu", "LeakyRelu", "PRelu", "Clip", "Elu", "Selu", "Celu", "ThresholdedRelu"),
    *("Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "Softplus", "Softsign", "Mish", "Gelu"),
    *("Erf", "Exp", "Neg", "Abs", "Sqrt", "Pow", "Add", "Sub", "Mul", "Div", "Min", "Max"),
    *("Log", "Reciprocal", "Sin", "Cos", "Tan", "Sinh", "Cosh", "Asin", "Acos", "Atan"),
    *("Asinh", "Acosh", "Atanh", "Sign", "Floor", "Ceil", "Round", "Shrink", "Swish"),
)
MICROSOFT_FUNCTIONS = ("Gelu", "FastGelu", "QuickGelu")  # with one input


def is_function(node: ir.Node) -> bool:
    """Whether the op is a function of each element of its tensors, with constants of one element.

    Two inputs that are functions of the same codes make one function again, x · sigmoid(x).
    """
    is_known = is_op(node, *FUNCTIONS) or is_op(node, *MICROSOFT_FUNCTIONS, domain="com.microsoft")
    if not is_known or node.outputs[0].dtype not in (None, ir.DataType.FLOAT):
        return False
    tensors = [v for v in node.inputs if v is not None and not is_constant(v)]
    ranks = [rank(v) for v in tensors]
    if not tensors or None in ranks or len({_shape(v) for v in tensors}) > 1:
        return False
    for value in node.inputs:
        found = constant(value)
        if found is not None and (
            found.size != 1 or found.ndim > min(r for r in ranks if r is not None)
        ):
            return False
    return True


def _shape(value: ir.Value) -> tuple[object, ...]:
    return tuple(str(d) for d in value.shape or ())


def why_not_moved(node: ir.Node) -> str | None:
    """None where the op moves codes as it moves numbers."""
    if is_op(node, "Pad"):
        value = input_of(node, 2)
        fill = constant(value)
        if value is not None and (fill is None or float(fill.ravel()[0]) != 0.0):
            return "Pad: pads with something other than 0"
    if is_op(node, "MaxPool", "GlobalMaxPool"):
        reason = why_not_pooled(node)
        if reason is not None:
            return reason
        if len(node.outputs) > 1 and node.outputs[1].uses():
            return "MaxPool: its indices are read"
    if is_op(node, "Resize"):
        if attribute(node, "mode", "nearest") != "nearest":
            return f"Resize: mode {attribute(node, 'mode')} has no int8 kernel"
        if attribute(node, "coordinate_transformation_mode", "") == "tf_crop_and_resize":
            return "Resize: tf_crop_and_resize extrapolates"
    return None


def softmax_axis(node: ir.Node) -> int | str:
    """The axis of a Softmax, the last one or the channels of maps; a str says why it is float."""
    size, given = rank(node.inputs[0]), int(attribute(node, "axis", -1))
    if size is None:
        return "Softmax: the rank of its input is not known"
    axis = given % size
    return axis if axis + 1 == size or (axis, size) == (1, 4) else f"Softmax: over axis {axis}"


def is_linear_resize(node: ir.Node) -> bool:
    """Whether QResize may run the op: it computes new values, with a scale of their own."""
    return is_op(node, "Resize") and attribute(node, "mode", "nearest") == "linear"


def why_not_resized(node: ir.Node) -> str | None:
    """None where QResize runs the linear Resize."""
    source = node.inputs[0]
    dims = source.shape if source is not None else None
    if dims is None or len(dims) != 4:
        return "Resize: only linear Resize of maps [B, C, H, W] runs on codes"
    mode = attribute(node, "coordinate_transformation_mode", "half_pixel")
    if mode not in MODES:
        return f"Resize: coordinate_transformation_mode {mode}"
    plain = {"antialias": 0, "exclude_outside": 0, "keep_aspect_ratio_policy": "stretch"}
    odd = [k for k, v in plain.items() if attribute(node, k, v) != v] + [
        k for k in ("axes",) if k in node.attributes
    ]
    if odd:
        return f"Resize: {', '.join(odd)}"
    scales, sizes = constant(input_of(node, 2)), constant(input_of(node, 3))
    if scales is not None and scales.size == 4:
        return None if (scales[:2] == 1).all() else "Resize: it scales batch or channels"
    if sizes is None or sizes.size != 4:
        return "Resize: its sizes are not constant"
    same = all(isinstance(d, int) and d == s for d, s in zip(dims[:2], sizes[:2], strict=True))
    return None if same else "Resize: its sizes fix the batch"


def why_not_pooled(node: ir.Node) -> str | None:
    """None where QPool runs the pool."""
    if rank(node.inputs[0]) != 4:
        return f"{node.op_type}: only pools of maps [B, C, H, W] run on codes"
    if is_op(node, "ReduceMean"):
        axes = reduced_axes(node)
        return None if axes == [2, 3] else f"ReduceMean: only over height and width, not {axes}"
    if attribute(node, "auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        return f"{node.op_type}: auto_pad {attribute(node, 'auto_pad')} depends on the input's size"
    if attribute(node, "ceil_mode", 0) and attribute(node, "count_include_pad", 0):
        return f"{node.op_type}: ceil_mode with count_include_pad"
    return None


def reduced_axes(node: ir.Node) -> list[int] | None:
    """The axes of a Reduce op counted from the front; None where they are not constant."""
    given = input_of(node, 1)
    found = constant(given) if given is not None else attribute(node, "axes")
    size = rank(node.inputs[0])
    if found is None or size is None:
        return None
    return sorted(int(a) % size for a in np.asarray(found).ravel())
