# SPDX-License-Identifier: Apache-2.0
"""Which rows of the calibration data the products of edges are measured on."""

from dataclasses import replace

import onnx_ir as ir

from qcompile.graph import attribute, static_shape
from qcompile.moments import Source
from qcompile.numerics.conv import Window
from qcompile.plan import Plan
from qcompile.products import weight_of, window_of
from qcompile.rotation_edge import Edge, Reader
from qcompile.rotation_rows import RotationRow


def sampled(rated: list[tuple[Edge, RotationRow]], plan: Plan) -> dict[str, Source]:
    """What readers read, or what the norm before them does → where its rows come from."""
    found: dict[str, Source] = {}
    for edge, row in rated:
        for reader in edge.readers:
            if not row.reason:
                found.setdefault(key_of(edge, reader), _source(edge, reader))
        for value in online_inputs(edge, plan):
            found.setdefault(name_of(value), Source(name_of(value), edge.width))
    return found


def key_of(edge: Edge, reader: Reader) -> str:
    """Of a reader's rows: patches of a window are those of one reader."""
    source = reader.node.inputs[0] if reader.norm is None else reader.norm.source
    return name_of(source) + (f" {reader.node.name}" if edge.is_equal else "")


def _source(edge: Edge, reader: Reader) -> Source:
    name = key_of(replace(edge, is_equal=False), reader)
    if edge.is_equal:
        weight = weight_of(reader.node)
        dims = None if weight is None else static_shape(weight)
        assert dims is not None  # equalisable.py asks for it
        window = window_of(reader.node, (dims[2], dims[3]))
        group = int(attribute(reader.node, "group", 1))
        return Source(name, dims[1] * dims[2] * dims[3], group, window)
    return Source(name, edge.width, window=Window((1, 1)) if edge.is_map else None)


def name_of(value: ir.Value | None) -> str:
    """Of a value, "" where there is none."""
    return "" if value is None else value.name or ""


def online_inputs(edge: Edge, plan: Plan) -> dict[ir.Value, list[ir.Node]]:
    """The inputs of an edge's products that are quantized row by row when the model runs."""
    found: dict[ir.Value, list[ir.Node]] = {}
    for reader in () if edge.is_map else edge.readers:
        planned, value = plan.nodes.get(reader.node.name or ""), reader.node.inputs[0]
        if planned is None or not planned.is_rounded or planned.activation is None:
            continue
        if planned.weight is not None and planned.weight.format.turns is not None:
            continue  # its own rotation comes (format_rotations.py)
        is_known = value is not None and value.shape is not None and edge.width > 1
        if planned.activation.is_dynamic and value is not None and is_known:
            found.setdefault(value, []).append(reader.node)
    return found
