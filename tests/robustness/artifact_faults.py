# SPDX-License-Identifier: Apache-2.0
"""Every fault of an artifact's model: each attribute, input and initializer in every wrong way."""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, TensorProto, helper, numpy_helper

from qcompile.graph import DOMAIN

Change = Callable[[onnx.ModelProto], Any]
INTEGERS = (0, 1, -1, 2, 3, 7, 31, 33, 255, 2**15, 2**31 - 1, 2**31, -(2**31), 2**40, 2**63 - 1)
FLOATS = (0.0, -1.0, 1e-45, 1e38, -1e38, float("inf"), float("-inf"), float("nan"))
WORDS = (
    *(
        "",
        "x",
        "\x00",
        "é" * 40,
        "n16k4/1",
        "n16k4s/1",
        "n16k4q/1",
        "n16k4p/1",
        "n16k4c/1",
        "kc/1",
        "rows/1",
        "n16k4/2",
        "none",
        "f16",
        "f32",
    ),
    *("static", "dynamic", "codes", "max", "average", "half_pixel", "asymmetric", "align_corners"),
    *("tensor", "axis", "block", "row", "sample"),
)
OTHERS = (1, 1.5, "x", [1], [1.5])  # of another type
DTYPES = (np.float32, np.float16, np.uint8, np.int8, np.int32, np.int64, np.bool_, np.float64)


def faults(model: onnx.ModelProto) -> list[tuple[str, Change]]:
    """Name and change of each."""
    nodes = [(i, n) for i, n in enumerate(model.graph.node) if n.domain == DOMAIN]
    found = [
        *(f for i, n in nodes for f in _attribute_faults(i, n)),
        *(f for i, n in nodes for f in _input_faults(i, n, model)),
        *(f for i, t in enumerate(model.graph.initializer) for f in _tensor_faults(i, t)),
    ]
    return found


def _attribute_faults(i: int, node: onnx.NodeProto) -> Iterator[tuple[str, Change]]:
    for j, held in enumerate(node.attribute):
        where = f"{node.op_type} {i} {held.name}"
        yield f"{where} is gone", lambda m, i=i, j=j: m.graph.node[i].attribute.pop(j)
        for value in _values(held):
            # an empty list has no type of its own
            kind = held.type if isinstance(value, list) and not value else None
            made = helper.make_attribute(held.name, value, attr_type=kind)
            yield (
                f"{where} = {value}",
                lambda m, i=i, j=j, a=made: m.graph.node[i].attribute[j].CopyFrom(a),
            )


def _values(held: AttributeProto) -> Iterator[Any]:
    if held.type == AttributeProto.INT:
        yield from (*INTEGERS, held.i - 1, held.i + 1)
    elif held.type == AttributeProto.FLOAT:
        yield from FLOATS
    elif held.type == AttributeProto.STRING:
        yield from WORDS
    elif held.type in (AttributeProto.INTS, AttributeProto.FLOATS):
        is_float = held.type == AttributeProto.FLOATS
        values = list(held.floats if is_float else held.ints)
        yield from ([], values[:-1], [*values, *values[:1]], values * 40)
        for k, v in itertools.product(range(len(values)), FLOATS if is_float else INTEGERS):
            yield [*values[:k], v, *values[k + 1 :]]
    yield from OTHERS


def _input_faults(
    i: int, node: onnx.NodeProto, model: onnx.ModelProto
) -> Iterator[tuple[str, Change]]:
    """Absent, cut off, one too many, or another value of the graph: one of each kind."""
    others = [model.graph.input[0].name, model.graph.node[0].output[0]]
    by_kind = {(t.data_type, len(t.dims)): t.name for t in model.graph.initializer}
    where = f"{node.op_type} {i} input"
    for j in range(len(node.input)):
        for name in ("", *others, *by_kind.values()):
            yield (
                f"{where} {j} = {name!r}",
                lambda m, i=i, j=j, name=name: m.graph.node[i].input.__setitem__(j, name),
            )
        yield (
            f"{where}s {j} …",
            lambda m, i=i, j=j: m.graph.node[i].input.__delitem__(slice(j, None)),
        )
    yield f"{where}s and one more", lambda m, i=i: m.graph.node[i].input.append(others[0])


def _tensor_faults(i: int, tensor: TensorProto) -> Iterator[tuple[str, Change]]:
    """Whole tensors of other sizes, shapes and types; sizes that the bytes do not have."""
    dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)
    dims, count = tuple(tensor.dims), int(np.prod(tensor.dims))
    sizes = {0, 1, 2, count - 1, count + 1, count // 2, 2 * count, count + 64, 64} - {-1}
    shapes = {(1, *dims), (*dims, 1), (count,), (1, count), (), *((n,) for n in sizes)}
    for shape in sorted(shapes):
        whole = numpy_helper.from_array(np.ones(shape, dtype), tensor.name)
        yield f"{tensor.name} {list(shape)}", _put(i, whole)
    for other in DTYPES:
        yield (
            f"{tensor.name} {np.dtype(other)}",
            _put(i, numpy_helper.from_array(np.ones(dims, other), tensor.name)),
        )
    for j, size in itertools.product(range(len(dims)), INTEGERS):
        yield (
            f"{tensor.name} dims[{j}] = {size}",
            lambda m, i=i, j=j, size=size: m.graph.initializer[i].dims.__setitem__(j, size),
        )
    for j, entry in enumerate(tensor.external_data):
        for value in (*map(str, INTEGERS), "", "x", "../model.onnx", "/etc/passwd"):
            yield (
                f"{tensor.name} {entry.key} = {value!r}",
                lambda m, i=i, j=j, v=value: setattr(
                    m.graph.initializer[i].external_data[j], "value", v
                ),
            )


def _put(i: int, tensor: TensorProto) -> Change:
    return lambda m: m.graph.initializer[i].CopyFrom(tensor)
