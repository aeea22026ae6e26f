# SPDX-License-Identifier: Apache-2.0
"""Turn ConvTranspose into a convolution that makes all s · s phases of a pixel, and DepthToSpace.

Before:
    f (float[1,1,2,2] x) => (float[1,1,4,4] y)
    <float[1,1,2,2] w = {1, 2, 3, 4}>
    { y = ConvTranspose <strides = [2, 2]> (x, w) }
After:
    f (float[1,1,2,2] x) => (float[1,1,4,4] y)
    <float[4,1,1,1] w_phases = {1, 2, 3, 4}>
    { y_phases = Conv <kernel_shape = [1, 1], strides = [1, 1], pads = [0, 0, 0, 0], group = 1>
        (x, w_phases)
      y = DepthToSpace <blocksize = 2, mode = "CRD"> (y_phases) }
Refuses: a weight or bias that is not constant; dilations; output_shape; SAME; strides that differ
or 3-D; groups in 1-D.

Output o of an axis, counted from `crop` before the first one kept, is s · O + phase. It reads input
i = O + (phase + p − k) / s with tap k, where that is whole: a convolution over O whose taps are the
offsets i − O. The crop is chosen so that the window is least; what it adds is sliced off again.
"""

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from qcompile.graph import add_initializer, attribute, constant, input_of, is_constant
from qcompile.passes.normalise.rewiring import append, changed, dims, graph_of, integers, spatial
from qcompile.passes.rewrite import NodePass

_END = np.iinfo(np.int64).max


@dataclass(frozen=True)
class Axis:
    """One axis: where each (phase, tap) goes in the window, its pads, and what is sliced off."""

    taps: tuple[tuple[int, int, int], ...]  # phase, tap of the weight, place in the window
    width: int
    pads: tuple[int, int]
    crop: tuple[int, int]


def plan_axis(kernel: int, stride: int, pads: tuple[int, int], more: int) -> Axis:
    """The least window of an axis. `more` is output_padding.

    >>> plan_axis(kernel=4, stride=2, pads=(1, 1), more=0).width
    2
    """
    plans = [_plan_crop(kernel, stride, pads, more, crop) for crop in range(stride)]
    return min(plans, key=lambda p: (p.width, sum(p.crop)))


def _plan_crop(kernel: int, stride: int, pads: tuple[int, int], more: int, crop: int) -> Axis:
    places = [
        (phase, k, (phase + pads[0] - crop - k) // stride)
        for phase in range(stride)
        for k in range(kernel)
        if (phase + pads[0] - crop - k) % stride == 0
    ]
    first = min(0, *(offset for _, _, offset in places))
    width = max(offset for _, _, offset in places) - first + 1
    # The output has s · L + extra elements, and the convolution gives s · ⌈that / s⌉.
    extra = kernel - stride + more - sum(pads) + crop
    whole = -(-extra // stride)
    end = whole + first + width - 1
    tail = whole * stride - extra - stride * min(end, 0)
    taps = tuple((phase, k, offset - first) for phase, k, offset in places)
    return Axis(taps, width, (-first, max(end, 0)), (crop, tail))


class LowerConvTransposeIntoConv(NodePass):
    """1-D, and 2-D with one stride."""

    stage = "normalise"
    op_types = ("ConvTranspose",)

    def match(self, node: ir.Node) -> list[Axis] | str | None:
        """Both axes, or why there is no such convolution."""
        weight = node.inputs[1]
        if not is_constant(weight) or not all(map(is_constant, node.inputs[2:3])):
            return "its weight or bias is not constant"
        kernel = dims(weight)[2:]
        strides, dilations, pads, more = (
            spatial(node, name, len(kernel), default)
            for name, default in (
                *(("strides", 1), ("dilations", 1)),
                *(("pads", 0), ("output_padding", 0)),
            )
        )
        if any(d != 1 for d in dilations):
            return f"it has dilations {dilations}"
        if "output_shape" in node.attributes:
            return "it has an output_shape"
        mode = attribute(node, "auto_pad", "NOTSET")
        if mode not in ("NOTSET", "VALID"):
            return f"it has auto_pad {mode}"
        if len(kernel) > 2 or len(set(strides)) > 1:
            return f"it is {len(kernel)}-D with strides {strides}"
        if len(kernel) == 1 and int(attribute(node, "group", 1)) > 1 and strides[0] > 1:
            return "it is 1-D with groups"
        pairs = zip(pads[: len(kernel)], pads[len(kernel) :], strict=True)
        return [
            plan_axis(k, s, p, o) for k, s, p, o in zip(kernel, strides, pairs, more, strict=True)
        ]

    def rewrite(self, node: ir.Node, found: list[Axis]) -> None:
        """Convolution, phases to pixels, slice."""
        stride = spatial(node, "strides", len(found), 1)[0]
        weight, group = node.inputs[1], int(attribute(node, "group", 1))
        assert weight is not None
        num_outputs, is_image = dims(weight)[1] * group, len(found) == 2
        phases = stride ** len(found)
        size = (num_outputs * phases, dims(weight)[0] // group, *(a.width for a in found))
        made = changed(weight, size, lambda w: _phases(w, found, stride, group).reshape(size))
        graph = graph_of(node)
        node.replace_input_with(1, add_initializer(graph, f"{weight.name}_phases", made))
        bias = constant(input_of(node, 2))
        if bias is not None and phases > 1:
            wide = np.repeat(bias, phases) if is_image else np.tile(bias, phases)
            node.replace_input_with(2, add_initializer(graph, f"{node.outputs[0].name}_bias", wide))
        node.op_type = "Conv"
        node.attributes.clear()
        sides = [a.pads[side] for side in (0, 1) for a in found]
        for name, values in (
            ("kernel_shape", [a.width for a in found]),
            ("strides", [1] * len(found)),
            ("pads", sides),
        ):
            node.attributes[name] = ir.AttrInt64s(name, values)
        node.attributes["group"] = ir.AttrInt64("group", group)
        _slice(node, found)
        if phases > 1 and is_image:
            append(node, "DepthToSpace", suffix="phases", blocksize=stride, mode="CRD")
        elif phases > 1:
            _interleave(node, num_outputs)


def _phases(w: NDArray, axes: list[Axis], stride: int, group: int) -> NDArray:
    """[C, N/g, …] as [N, phases…, C/g, window…]; in 1-D [phases, N, C, window]."""
    c, n, *_ = w.shape
    w = w.reshape(group, c // group, n, *w.shape[2:]).swapaxes(1, 2)
    w = w.reshape(group * n, c // group, *w.shape[3:])
    if len(axes) == 1:
        out = np.zeros((stride, group * n, c // group, axes[0].width), w.dtype)
        for phase, k, at in axes[0].taps:
            out[phase, :, :, at] = w[:, :, k]
        return out
    size = (group * n, stride, stride, c // group, axes[0].width, axes[1].width)
    out = np.zeros(size, w.dtype)
    for phase, k, at in axes[0].taps:
        for other, m, beside in axes[1].taps:
            out[:, phase, other, :, at, beside] = w[:, :, k, m]
    return out


def _slice(node: ir.Node, axes: list[Axis]) -> None:
    """What the crop added goes."""
    if not any(any(a.crop) for a in axes):
        return
    starts = integers(node, "starts", [a.crop[0] for a in axes])
    ends = integers(node, "ends", [-a.crop[1] if a.crop[1] else _END for a in axes])
    axis = integers(node, "axes", range(2, 2 + len(axes)))
    append(node, "Slice", starts, ends, axis, suffix="whole")


def _interleave(node: ir.Node, num_outputs: int) -> None:
    """[B, s · N, L] to [B, N, s · L]: with the channels last that is a Reshape."""
    target = integers(node, "shape", [0, -1, num_outputs])
    append(node, "Transpose", suffix="pixels", perm=[0, 2, 1])
    append(node, "Reshape", target, suffix="rows")
    append(node, "Transpose", suffix="phases", perm=[0, 2, 1])
