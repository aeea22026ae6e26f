# SPDX-License-Identifier: Apache-2.0
"""Each op of ONNX Runtime's with a name of its own for an int8 weight that several of them read.

With session.x64quantprecision, which processors without VNNI need, ONNX Runtime 1.32 makes an
initializer NAME_s8_2_u8 of every weight and zero point that an op reads, and does not open a model
where two ops read one.
"""

import onnx_ir as ir

from qcompile.graph import DOMAIN, add_initializer, is_op, new_node, unique_name


def split_shared_weights(graph: ir.Graph) -> bool:
    """Copy int8 initializers, and DequantizeLinear of them, for each reader; whether any was."""
    before = len(graph.initializers)
    for node in list(graph):
        if is_op(node, "DequantizeLinear") and _is_int8(node.inputs[0]):
            for reader, index in _readers(node.outputs[0])[1:]:
                reader.replace_input_with(index, _dequantized_again(graph, node))
    for value in list(graph.initializers.values()):
        if not _is_int8(value):
            continue
        readers = _readers(value)
        kept = 1 if len(readers) == len(value.uses()) else 0
        for reader, index in readers[kept:]:
            reader.replace_input_with(index, _copied(graph, value))
    return len(graph.initializers) > before


def shares_weights(graph: ir.Graph) -> bool:
    """Whether split_shared_weights has something to do."""
    shared = [v for v in graph.initializers.values() if _is_int8(v)]
    shared += [
        n.outputs[0] for n in graph if is_op(n, "DequantizeLinear") and _is_int8(n.inputs[0])
    ]
    return any(len(v.uses()) > 1 and _readers(v) for v in shared)


def _is_int8(value: ir.Value | None) -> bool:
    return value is not None and value.const_value is not None and value.dtype == ir.DataType.INT8


def _readers(value: ir.Value) -> list[tuple[ir.Node, int]]:
    """Nodes and inputs, but for ops of ours and quantizers of activations, which may share."""
    return [
        (node, index)
        for node, index in value.uses()
        if node.domain != DOMAIN
        and not is_op(node, "QuantizeLinear")
        and (not is_op(node, "DequantizeLinear") or _is_int8(node.inputs[0]))
    ]


def _dequantized_again(graph: ir.Graph, back: ir.Node) -> ir.Value:
    """The output of a second such node, which reads the same initializers."""
    old = back.outputs[0]
    name = unique_name(graph, old.name or "")
    own = new_node("DequantizeLinear", list(back.inputs), f"{name}/dequantize", name)
    own.outputs[0].type, own.outputs[0].shape = old.type, old.shape
    own.attributes.update(back.attributes)
    own.outputs[0].metadata_props.update(old.metadata_props)
    graph.insert_before(back, own)
    return own.outputs[0]


def _copied(graph: ir.Graph, value: ir.Value) -> ir.Value:
    """An initializer of the same elements under a new name."""
    tensor = value.const_value
    assert tensor is not None
    same = ir.LazyTensor(
        lambda: ir.tensor(tensor.numpy()), tensor.dtype, ir.Shape(tensor.shape.numpy())
    )
    return add_initializer(graph, value.name or "", same)
