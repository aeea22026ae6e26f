# SPDX-License-Identifier: Apache-2.0
"""Whether a parsed model holds together: outputs are made, sizes fit, tensors are whole."""

from collections.abc import Iterator

import onnx_ir as ir

from qcompile.graph import attribute, static_shape

_LARGEST_INPUT = 1 << 34  # elements of one input: 64 GiB of floats


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
            if node.op_type == "Conv" and node.domain == "" and len(node.inputs) > 1:
                yield from _group_problems(node)
    for value in model.graph.inputs:
        sizes = [d for d in value.shape or () if isinstance(d, int)]
        if any(d < 0 for d in sizes):
            yield f'input "{value.name}" has the shape {value.shape}; sizes are 0 or more'
        elif _product(sizes) > _LARGEST_INPUT:
            yield f'input "{value.name}" has the shape {value.shape}, which is too large'


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
