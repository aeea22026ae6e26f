# SPDX-License-Identifier: Apache-2.0
"""Whether a parsed model holds together: outputs are made, sizes fit, tensors are whole."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import networkx as nx
import onnx
import onnx_ir as ir

from qcompile.graph import attribute, is_op, static_shape

_LARGEST_INPUT = 1 << 34  # elements of one input: 64 GiB of floats
_LARGEST_STEP = 1 << 20  # of a window: what the op library takes
_WINDOWED = ("Conv", "ConvTranspose", "MaxPool", "AveragePool", "LpPool")


def file_problems(proto: onnx.ModelProto) -> Iterator[str]:
    """What onnx_ir would not keep as it is: text that is none, names that are given twice."""
    yield from _text_problems(proto, "")
    yield from _name_problems(proto.graph)


def _text_problems(message: Any, place: str) -> Iterator[str]:
    """Protobuf gives bytes for text that is not UTF-8, which nothing can write again."""
    for field, value in message.ListFields():
        if field.type not in (field.TYPE_STRING, field.TYPE_MESSAGE):
            continue
        here = f"{place}.{field.name}".lstrip(".")
        if not field.is_repeated:
            found: list[tuple[str, Any]] = [(here, value)]
        else:
            found = [(f"{here}[{i}]", each) for i, each in enumerate(value)]
        for name, each in found:
            if field.type == field.TYPE_MESSAGE:
                yield from _text_problems(each, name)
            elif isinstance(each, bytes):
                yield f"{name} is no UTF-8 text: {each[:40]!r}"


def _name_problems(graph: onnx.GraphProto) -> Iterator[str]:
    """A value that two nodes make; ONNX Runtime refuses those of a whole file."""
    made = Counter(name for node in graph.node for name in node.output if name)
    made.update(value.name for value in graph.input)
    yield from (f'"{name}" is made {count} times' for name, count in made.items() if count > 1)
    for held in (a for node in graph.node for a in node.attribute):
        for inner in (held.g, *held.graphs):
            yield from _name_problems(inner)


def sort_nodes(model: ir.Model) -> Iterator[str]:
    """Put each node behind what it reads; the graphs in which that is impossible, a line each."""
    for graph in (model.graph, *(f.graph for f in model.functions.values())):
        try:
            graph.sort()
        except ValueError:
            edges = [(n, u.node) for n in graph.all_nodes() for v in n.outputs for u in v.uses()]
            circle = [
                f'"{n.name or n.outputs[0].name}"' for n, _ in nx.find_cycle(nx.DiGraph(edges))
            ]
            yield f"{', '.join(circle[:8])} read each other's outputs in a circle"


def problems(model: ir.Model) -> Iterator[str]:
    """What is wrong, a line each."""
    for graph in model.graphs():
        known = {*graph.inputs, *graph.initializers.values()}
        for name, value in graph.initializers.items():
            yield from _tensor_problems(name, value.const_value)
        for value in graph.outputs:
            if value.producer() is None and value not in known and graph is model.graph:
                yield f'output "{value.name}" is not produced by any node'
        for node in graph:
            if is_op(node, *_WINDOWED):
                yield from _window_problems(node)
            if node.op_type == "Conv" and node.domain == "" and len(node.inputs) > 1:
                yield from _group_problems(node)
    for value in (*model.graph.inputs, *model.graph.outputs):
        if value.dtype == ir.DataType.UNDEFINED or (value.type is None and value.is_graph_input()):
            kind = "input" if value.is_graph_input() else "output"
            yield f'{kind} "{value.name}" has no element type'
    recurrent = next((n for n in model.graph.all_nodes() if is_op(n, "LSTM", "GRU", "RNN")), None)
    for value in model.graph.inputs:
        sizes = [d for d in value.shape or () if isinstance(d, int)]
        if 0 in sizes and recurrent is not None:  # a thread of ORT ends the process (1.32)
            yield (
                f'input "{value.name}" has the shape {value.shape}, and ONNX Runtime\'s '
                f'{recurrent.op_type} ("{recurrent.name}") takes no batch of 0'
            )
        elif _product(sizes) > _LARGEST_INPUT:
            yield f'input "{value.name}" has the shape {value.shape}, which is too large'


def _window_problems(node: ir.Node) -> Iterator[str]:
    for name in ("kernel_shape", "strides", "pads", "dilations"):
        values = attribute(node, name, ())
        if isinstance(values, tuple) and any(v > _LARGEST_STEP for v in values):
            yield (
                f'{node.op_type} "{node.name}" has {name} {list(values)}; at most {_LARGEST_STEP} '
                "of each are possible"
            )


def _group_problems(node: ir.Node) -> Iterator[str]:
    weight, group = node.inputs[1], attribute(node, "group", 1)
    shape = static_shape(weight) if weight is not None else None
    if not isinstance(group, int) or group < 1 or (shape and shape[0] % group):
        yield f'Conv "{node.name}" has {group} groups and a weight of the shape {shape}'


def _tensor_problems(name: str, tensor: ir.TensorProtocol | None) -> Iterator[str]:
    """External data is checked against its file elsewhere."""
    if tensor is None:
        return
    if any(d < 0 for d in tensor.shape.numpy()):
        yield f'tensor "{name}" has the shape {tensor.shape}; sizes are 0 or more'
    elif not isinstance(tensor, ir.ExternalTensor) and tensor.dtype != ir.DataType.STRING:
        try:
            tensor.numpy()
        except Exception as error:  # onnx_ir and NumPy raise several types
            yield f'tensor "{name}" of shape {tensor.shape} is damaged: {error}'


def _product(sizes: list[int]) -> int:
    count = 1
    for size in sizes:
        count *= size
    return count
