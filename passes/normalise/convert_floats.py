# SPDX-License-Identifier: Apache-2.0
"""Compute in float32 what the model computes in float16 or bfloat16; inputs and outputs keep types.

Before:
    f (float16[2] x) => (float16[2] y)
    <float16[2] w = {15360, 16384}>
    { a = Mul (x, w)   y = Relu (a) }
After:
    f (float16[2] x) => (float16[2] y)
    <float[2] w = {1, 2}>
    { x_wide = Cast <to = 1> (x)   a = Mul (x_wide, w)   y_wide = Relu (a)
      y = Cast <to = 10> (y_wide) }
Refuses: models with sequences or optionals of such a type, with BitCast, or with ops of a domain
other than ONNX's and com.microsoft.

float64 too, where a Conv, MatMul or Gemm multiplies by a float64 constant; elsewhere someone wanted
its precision. A Cast between floats inside meant only precision and goes. Weights are converted
when they are read.
"""

from collections.abc import Iterable

import numpy as np
import onnx_ir as ir

from qcompile.graph import attribute, is_constant, is_op, new_node, replace, unique_name

FLOAT = ir.DataType.FLOAT
HALVES = {ir.DataType.FLOAT16, ir.DataType.BFLOAT16}
_TYPE_ATTRIBUTES = ("to", "dtype", "output_dtype", "stash_type", "softmax_precision")
_DOMAINS = {"", "com.microsoft"}


class ConvertFloats(ir.passes.InPlacePass):
    """All graphs of the model at once."""

    stage = "normalise"
    name = "convert_floats"
    is_global = True  # all graphs at once

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """One type is converted everywhere or nowhere."""
        narrow = HALVES | ({ir.DataType.DOUBLE} if _multiplies_doubles(model) else set())
        values = list(_values(model))
        found = {v.dtype for v in values} & narrow
        if not found or not _is_convertible(model, values, found):
            return ir.passes.PassResult(model, False)
        graph = model.graph
        # What is an interface itself keeps its type; what reads it reads a Cast of it.
        kept = {*graph.inputs, *(v for v in graph.outputs if v.is_initializer())}
        dtypes = [None if v in kept or v.dtype not in found else v.dtype for v in graph.outputs]
        for value in values:
            if value.dtype in found and value not in kept:
                _widen(value)
        for node in graph.all_nodes():
            _widen_attributes(node, found)
        _cast_kept(graph, [v for v in values if v in kept and v.dtype in found])
        for node in list(graph.all_nodes()):
            _remove_cast(node)
        _cast_outputs(graph, dtypes)
        return ir.passes.PassResult(model, True)


def _values(model: ir.Model) -> Iterable[ir.Value]:
    for graph in model.graphs():
        yield from graph.inputs
        yield from graph.initializers.values()
        for node in graph:
            yield from node.outputs


def _multiplies_doubles(model: ir.Model) -> bool:
    products = (n for n in model.graph.all_nodes() if is_op(n, "Conv", "MatMul", "Gemm"))
    return any(
        v is not None and is_constant(v) and v.dtype == ir.DataType.DOUBLE
        for node in products
        for v in node.inputs
    )


def _is_convertible(model: ir.Model, values: list[ir.Value], found: set) -> bool:
    for node in model.graph.all_nodes():
        if node.domain not in _DOMAINS or is_op(node, "BitCast"):
            return False
    plain = (type(None), ir.TensorType)
    return not any(v.dtype in found and not isinstance(v.type, plain) for v in values)


def _widen(value: ir.Value) -> None:
    value.type = ir.TensorType(FLOAT)
    tensor = value.const_value
    if tensor is not None:
        value.const_value = _wide(tensor, value.name)


def _wide(tensor: ir.TensorProtocol, name: str | None) -> ir.TensorProtocol:
    def read() -> ir.TensorProtocol:
        return ir.tensor(tensor.numpy().astype(np.float32), name=name)

    return ir.LazyTensor(read, FLOAT, ir.Shape(tensor.shape.numpy()), name=name)


def _widen_attributes(node: ir.Node, found: set) -> None:
    """Tensors, and the attributes that name a type."""
    for name, held in list(node.attributes.items()):
        if held.type == ir.AttributeType.TENSOR and held.value.dtype in found:
            array = held.value.numpy().astype(np.float32)
            node.attributes[name] = ir.AttrTensor(name, ir.tensor(array))
        elif name in _TYPE_ATTRIBUTES and held.value in {int(t) for t in found}:
            node.attributes[name] = ir.AttrInt64(name, int(FLOAT))


def _cast_kept(graph: ir.Graph, kept: list[ir.Value]) -> None:
    first = next(iter(graph))
    for value in kept:
        uses = list(value.uses())
        if uses:
            cast = _cast(value, unique_name(graph, f"{value.name}_wide"), FLOAT)
            graph.insert_before(first, cast)
            for use in uses:
                use.node.replace_input_with(use.idx, cast.outputs[0])


def _cast_outputs(graph: ir.Graph, dtypes: list[ir.DataType | None]) -> None:
    """Each output that was converted becomes a Cast under its name."""
    made: dict[ir.Value, ir.Value] = {}
    for i, (value, dtype) in enumerate(zip(list(graph.outputs), dtypes, strict=True)):
        if dtype is None:
            continue
        if value not in made:
            name = value.name or ""
            value.name = unique_name(graph, f"{name}_wide")
            cast = _cast(value, name, dtype)
            graph.append(cast)
            made[value] = cast.outputs[0]
        graph.outputs[i] = made[value]


def _cast(value: ir.Value, name: str, dtype: ir.DataType) -> ir.Node:
    return new_node(
        "Cast", [value], f"{name}/Cast", name, shape=value.shape, dtype=dtype, to=int(dtype)
    )


def _remove_cast(node: ir.Node) -> None:
    """A Cast from float32 to float32, but for one that carries an outer value out of a subgraph."""
    if not is_op(node, "Cast") or attribute(node, "to") != FLOAT:
        return
    source, out, graph = node.inputs[0], node.outputs[0], node.graph
    if source is None or source.dtype != FLOAT or graph is None:
        return
    if out.is_graph_output():
        before = source.producer()
        if before is None or before.graph is not graph or source.is_graph_output():
            return
        replace(out, source)
    else:
        out.replace_all_uses_with(source)
    graph.remove(node, safe=True)
