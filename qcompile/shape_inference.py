# SPDX-License-Identifier: Apache-2.0
"""Types and shapes by ONNX's own inference, without reading a weight.

Large initializers, those of subgraphs too, are shown to ONNX as data in another file, which it
does not open. What it cannot infer stays as it is, and so does the whole model where it fails.
"""

import onnx
import onnx_ir as ir
import onnx_ir.convenience as convenience

_SMALL_BYTES = 1024  # shapes, axes and other tensors whose elements matter to shapes


def infer_shapes(model: ir.Model) -> bool:
    """Write what ONNX infers to the model's values; whether anything is new."""
    outline = without_weights(model)
    try:
        proto = onnx.shape_inference.infer_shapes(ir.to_proto(outline), data_prop=True)
        inferred = ir.from_proto(proto)
    except Exception:  # onnx raises its own types; shapes are a help, not a need
        return False
    modified = False
    for graph, found in zip(model.graphs(), inferred.graphs(), strict=True):
        modified |= _take_over(graph, found)
    return modified


def without_weights(model: ir.Model) -> ir.Model:
    """A copy whose large initializers have a type and a shape, and no data."""
    outline = model.clone()
    for graph in outline.graphs():
        for value in graph.initializers.values():
            tensor = value.const_value
            if tensor is not None and tensor.nbytes > _SMALL_BYTES:
                value.const_value = _unread(tensor, value.name or "")
            elif isinstance(tensor, ir.ExternalTensor):
                value.const_value = ir.tensor(tensor.numpy(), name=value.name)
    return outline


def _unread(tensor: ir.TensorProtocol, name: str) -> ir.ExternalTensor:
    shape = ir.Shape(tensor.shape.numpy())
    return ir.ExternalTensor("unread", 0, tensor.nbytes, tensor.dtype, shape=shape, name=name)


def _take_over(graph: ir.Graph, inferred: ir.Graph) -> bool:
    """Unlike onnx_ir's pass this keeps sequences and optionals what they are."""
    found = convenience.create_value_mapping(inferred)
    modified = False
    for name, value in convenience.create_value_mapping(graph).items():
        other = found.get(name)
        if other is None or value.const_value is not None:
            continue
        if other.type is not None and value.type != other.type:
            value.type, modified = other.type, True
        if other.shape is not None and value.shape != other.shape:
            value.shape, modified = other.shape, True
    return modified
