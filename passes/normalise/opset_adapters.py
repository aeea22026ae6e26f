# SPDX-License-Identifier: Apache-2.0
"""How a node of opset 7 … 12 is written in opset 17: one function per op whose form changed.

An op that is not in ADAPTERS means the same in all of them: its newer versions only take more types
or have new attributes whose defaults are the old meaning. Constants are put in as Constant nodes,
because the bodies of functions have no initializers.
"""

from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from qcompile.errors import InputError
from qcompile.graph import attribute, constant, input_of, rank, replace

Adapter = Callable[[ir.Node, int], None]  # (node, the opset that it is written in)


def insert_node(
    before: ir.Node, op_type: str, inputs: Sequence[ir.Value | None], **attributes: object
) -> ir.Value:
    """The only output of a new node in front of another."""
    node = ir.node(op_type, inputs, attributes)  # type: ignore[arg-type]
    graph = before.graph
    assert graph is not None
    graph.insert_before(before, node)
    return node.outputs[0]


def insert_constant(before: ir.Node, name: str, array: NDArray) -> ir.Value:
    """The output of a new Constant node, named after the node that reads it."""
    tensor = ir.tensor(array)
    value = insert_node(before, "Constant", [], value=tensor)
    value.name = f"{before.outputs[0].name}_{name}"
    value.const_value = tensor
    value.shape, value.type = ir.Shape(array.shape), ir.TensorType(tensor.dtype)
    return value


def set_input(node: ir.Node, index: int, value: ir.Value | None) -> None:
    """Input `index`, with absent ones before it where the node had fewer."""
    node.resize_inputs(max(index + 1, len(node.inputs)))
    node.replace_input_with(index, value)


def name_of(node: ir.Node) -> str:
    """What a message calls the node."""
    output = node.outputs[0].name if node.outputs else ""
    return f'{node.op_type} "{node.name or output}"'


def _integers(node: ir.Node, name: str, index: int) -> None:
    """An attribute of integers, or of one, becomes input `index`."""
    value = attribute(node, name)
    if value is not None:
        array = np.array(value, np.int64).reshape(-1)
        set_input(node, index, insert_constant(node, name, array))
        del node.attributes[name]


def _float(node: ir.Node, name: str, index: int) -> None:
    """A float attribute becomes a scalar input of the type of input 0."""
    value = attribute(node, name)
    node.attributes.pop(name, None)
    source = node.inputs[0]
    dtype = source.dtype if source is not None and source.dtype is not None else ir.DataType.FLOAT
    if value is not None:
        set_input(node, index, insert_constant(node, name, np.array(value, dtype.numpy())))


def _axes(node: ir.Node, opset: int) -> None:
    if opset < 13:
        _integers(node, "axes", 1)


def _split(node: ir.Node, opset: int) -> None:
    if opset < 13:
        _integers(node, "split", 1)


def _top_k(node: ir.Node, opset: int) -> None:
    if opset < 10:
        _integers(node, "k", 1)


def _slice(node: ir.Node, opset: int) -> None:
    if opset < 10:
        for index, name in enumerate(("starts", "ends", "axes"), 1):
            _integers(node, name, index)


def _clip(node: ir.Node, opset: int) -> None:
    """A bound that is absent stays absent: only an infinite element could tell the difference."""
    if opset < 11:
        _float(node, "min", 1)
        _float(node, "max", 2)


def _pad(node: ir.Node, opset: int) -> None:
    if opset < 11:
        _integers(node, "pads", 1)
        _float(node, "value", 2)


def _dropout(node: ir.Node, opset: int) -> None:
    """Inference ignores the ratio. Before opset 12 its mask was false, not true."""
    if opset >= 12:
        return
    if len(node.outputs) > 1 and _is_used(node.outputs[1]):
        raise InputError(
            f"{name_of(node)}: its mask is an output, which newer opsets define otherwise than "
            f"opset {opset}: export the model for inference"
        )
    node.attributes.pop("ratio", None)
    node.resize_outputs(1)


def _softmax(node: ir.Node, opset: int) -> None:
    """Before 13 the axes from `axis` on are one: flatten, apply, restore, but for the last axis."""
    if opset >= 13:
        return
    source, axis = node.inputs[0], int(attribute(node, "axis", 1))
    node.attributes["axis"] = ir.AttrInt64("axis", -1)
    if axis == -1 or axis + 1 == rank(source):
        return
    graph, out = node.graph, node.outputs[0]
    assert graph is not None
    shape = insert_node(node, "Shape", [source])
    node.replace_input_with(0, insert_node(node, "Flatten", [source], axis=axis))
    restored = ir.node("Reshape", [out, shape])
    graph.insert_after(node, restored)
    end = restored.outputs[0]
    end.shape, end.type = out.shape, out.type
    replace(out, end)
    restored.replace_input_with(0, out)
    out.shape = None


def _scatter(node: ir.Node, opset: int) -> None:
    node.op_type = "ScatterElements"


def _batch_norm(node: ir.Node, opset: int) -> None:
    if any(_is_used(v) for v in node.outputs[1:]) and opset < 14:
        raise InputError(f"{name_of(node)} is in training mode: export the model for inference")
    if attribute(node, "spatial", 1) != 1:
        raise InputError(
            f"{name_of(node)} has spatial = {attribute(node, 'spatial')}, which opsets from 9 on "
            "cannot say: export it with opset 9 or newer"
        )
    if opset < 14:
        node.attributes.pop("spatial", None)
        node.resize_outputs(1)


def _roi_align(node: ir.Node, opset: int) -> None:
    """Opset 16 changed the default."""
    if opset < 16:
        mode = "coordinate_transformation_mode"
        node.attributes[mode] = ir.AttrString(mode, "output_half_pixel")


def _scan(node: ir.Node, opset: int) -> None:
    if opset < 9:
        raise InputError(
            f"{name_of(node)} is Scan of opset {opset}, which has batches and newer ones do not: "
            "export it with opset 9 or newer"
        )


def _upsample(node: ir.Node, opset: int) -> None:
    """Upsample reads x / scale, rounded down."""
    scales = attribute(node, "scales")
    if scales is not None:
        array = np.array(scales, np.float32)
        set_input(node, 1, insert_constant(node, "scales", array))
        del node.attributes["scales"]
    node.op_type = "Resize"
    _asymmetric(node, input_of(node, 1), "floor")


def _resize(node: ir.Node, opset: int) -> None:
    """Resize of opset 10 reads x / scale, rounded up where it shrinks and down where it grows.

    From 11 on an empty `scales` beside `sizes` becomes an absent one.
    """
    if opset >= 11:
        if opset < 13 and input_of(node, 3) is not None:
            set_input(node, 2, None)
        return
    scales = input_of(node, 1)
    known = constant(scales)
    is_nearest = attribute(node, "mode", "nearest") == "nearest"
    if not is_nearest or (known is not None and (known >= 1).all()):
        _asymmetric(node, scales, "floor")
        return
    if known is not None and (known <= 1).all():
        _asymmetric(node, scales, "ceil")
        return
    one = insert_constant(node, "one", np.ones(1, np.float32))
    shrink = insert_node(node, "Min", [scales, one])
    grow = insert_node(node, "Max", [scales, one])
    smaller = insert_node(node, "Resize", [node.inputs[0], shrink], mode="nearest")
    producer = smaller.producer()
    assert producer is not None
    _asymmetric(producer, shrink, "ceil")
    node.replace_input_with(0, smaller)
    _asymmetric(node, grow, "floor")


def _asymmetric(node: ir.Node, scales: ir.Value | None, nearest_mode: str) -> None:
    """The attributes and inputs (x, no roi, scales) of Resize from opset 11 on."""
    mode = "coordinate_transformation_mode"
    node.attributes[mode] = ir.AttrString(mode, "asymmetric")
    if attribute(node, "mode", "nearest") == "nearest":
        node.attributes["nearest_mode"] = ir.AttrString("nearest_mode", nearest_mode)
    node.resize_inputs(3)
    node.replace_input_with(1, None)
    node.replace_input_with(2, scales)


def _is_used(value: ir.Value) -> bool:
    return bool(value.uses()) or value.is_graph_output()


ADAPTERS: dict[str, Adapter] = {
    "BatchNormalization": _batch_norm,
    "Clip": _clip,
    "Dropout": _dropout,
    "Hardmax": _softmax,
    "LogSoftmax": _softmax,
    "Pad": _pad,
    "ReduceSum": _axes,
    "Resize": _resize,
    "RoiAlign": _roi_align,
    "Scan": _scan,
    "Scatter": _scatter,
    "Slice": _slice,
    "Softmax": _softmax,
    "Split": _split,
    "Squeeze": _axes,
    "TopK": _top_k,
    "Unsqueeze": _axes,
    "Upsample": _upsample,
}
