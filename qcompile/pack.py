# SPDX-License-Identifier: Apache-2.0
"""pack: plain codes become the target's byte layout; equal weights are packed once."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from qcompile.bodies import compiled_graphs
from qcompile.errors import InputError
from qcompile.formats import Format, get
from qcompile.formats.scales import with_unit
from qcompile.graph import DOMAIN, add_initializer, attribute, constant, input_of, table_of
from qcompile.layouts import LAYOUTS, Shape, n16k4q, n16k4s
from qcompile.layouts.kc import KC
from qcompile.layouts.n16k4 import N16K4
from qcompile.layouts.n16k4c import N16K4C
from qcompile.layouts.n16k4p import N16K4P
from qcompile.layouts.n16k4q import N16K4Q
from qcompile.layouts.n16k4s import N16K4S
from qcompile.layouts.rows import ROWS
from qcompile.memory import row_slices
from qcompile.numerics.weight import CodedWeight, coded_weight
from qcompile.passes.lower.lowered import CODES, PLAIN, SCALE, ZERO_POINT
from qcompile.targets.target import Target

PACKED_OPS = ("QConv", "QMatMul", "QGather")
PANELS = (N16K4.name, N16K4S.name, N16K4Q.name, N16K4P.name, N16K4C.name)  # layouts of products


def pack(lowered: ir.Model, target: Target) -> ir.Model:
    """A packed copy; each weight is packed when it is written.

    A target that does not pack gets the copy as it is.
    """
    model = lowered.clone()
    if not target.packs:
        return model
    for graph in compiled_graphs(model):
        _pack_graph(graph)
    return model


def _pack_graph(graph: ir.Graph) -> None:
    shared = _gathered_and_multiplied(graph)
    done: dict[tuple, ir.Value] = {}
    for node in list(graph):
        if node.domain == DOMAIN and node.op_type in PACKED_OPS:
            _pack_node(graph, node, layout_of(node, shared), done)
    for name, value in list(graph.initializers.items()):
        if not value.uses() and not value.is_graph_output():
            del graph.initializers[name]


def layout_of(node: ir.Node, shared: set[str]) -> str:
    """kc for depthwise, rows for tables that only Gather reads, n16k4 for the rest.

    Of these n16k4q for five levels, n16k4s where two of every four columns are 0, n16k4p where a
    code has special values, n16k4c where blocks have codebooks.
    """
    codes = node.inputs[CODES]
    if node.op_type == "QConv":
        group, n = int(attribute(node, "group", 1)), int(attribute(node, "N"))
        taps = int(np.prod(attribute(node, "kernel_shape")))
        if group > 1 and group == n and int(attribute(node, "K")) == taps:
            return KC.name
    if node.op_type == "QGather" and codes is not None and codes.name not in shared:
        return ROWS.name
    return _panels_of(node)


def _panels_of(node: ir.Node) -> str:
    shape = _shape_of(node, int(attribute(node, "N")) // int(attribute(node, "group", 1)))
    if shape.format.has_codebook:
        return N16K4C.name
    if shape.format.specials:
        return N16K4P.name
    if n16k4q.saves(shape):
        return N16K4Q.name
    if n16k4s.saves(shape) and all(n16k4s.holds(part) for _, part in weight_parts(node)):
        return N16K4S.name
    return N16K4.name


def _gathered_and_multiplied(graph: ir.Graph) -> set[str]:
    """Codes that a QGather and a QMatMul read with scales of one kind: one tensor serves both."""
    readers: dict[tuple[str, str], set[str]] = {}
    for node in graph:
        if node.domain == DOMAIN and node.op_type in PACKED_OPS:
            codes = node.inputs[CODES]
            key = (codes.name or "" if codes is not None else "", _scales(node))
            readers.setdefault(key, set()).add(node.op_type)
    return {name for (name, _), kinds in readers.items() if {"QGather", "QMatMul"} <= kinds}


def _scales(node: ir.Node) -> str:
    """How a node's scales are stored, as text with their unit."""
    return with_unit(attribute(node, "scale_format"), attribute(node, "tensor_scale", 1.0))


def _pack_node(graph: ir.Graph, node: ir.Node, layout: str, done: dict[tuple, ir.Value]) -> None:
    codes = node.inputs[CODES]
    assert codes is not None
    group = int(attribute(node, "group", 1)) if layout in PANELS else 1
    key = (codes.name, layout, _scales(node), group)
    if key not in done:
        done[key] = add_initializer(graph, f"{codes.name}_packed", _lazy(node, layout, group))
    node.replace_input_with(CODES, done[key])
    kept = min(len(node.inputs), SCALE)
    while kept > 2 and node.inputs[kept - 1] is None:
        kept -= 1
    node.resize_inputs(kept)
    node.attributes["layout"] = ir.AttrString("layout", layout)


def _lazy(node: ir.Node, layout: str, group: int) -> ir.LazyTensor:
    tensors = [
        None if v is None else v.const_value
        for v in (node.inputs[CODES], input_of(node, SCALE), input_of(node, ZERO_POINT))
    ]
    format, block_size = format_of(node), int(attribute(node, "block_size"))
    scale_format = _scales(node)
    n, k = int(attribute(node, "N")), int(attribute(node, "K"))
    shape = _shape_of(node, n // group)
    size = LAYOUTS[layout].num_bytes(shape) * group

    def packed() -> ir.TensorProtocol:
        codes, scale, zero_point = (None if t is None else t.numpy() for t in tensors)
        assert codes is not None
        out, at = np.empty(size, np.uint8), 0
        parts = _parts(layout, n, k) if group == 1 else row_groups(n, group)
        for rows in parts:
            weight = coded_weight(format, block_size, scale_format, codes, scale, zero_point, rows)
            data = LAYOUTS[layout].pack(weight)
            out[at : at + data.size] = data
            at += data.size
        return ir.tensor(out)

    return ir.LazyTensor(packed, ir.DataType.UINT8, ir.Shape([size]))


def _parts(layout: str, n: int, k: int) -> list[slice]:
    """Rows whose packed bytes follow one another."""
    return [slice(0, n)] if layout == KC.name else row_slices(n, k)


def row_groups(n: int, group: int) -> list[slice]:
    """The rows of every group of a Conv."""
    return [slice(i, i + n // group) for i in range(0, n, n // group)]


def format_of(node: ir.Node) -> Format:
    """The weight format that the node's attributes say."""
    name = attribute(node, "format")
    entries = table_of(node)
    try:
        known = get(name)
    except InputError:
        known = None
    has_codebook = bool(attribute(node, "has_codebook", 0))
    if known is not None and (known.table, known.has_codebook) == (entries, has_codebook):
        return known
    bits, signed = int(attribute(node, "bits")), bool(attribute(node, "is_signed"))
    made = Format(name, bits, signed, entries, has_own_table=entries is not None)
    made = replace(made, has_codebook=has_codebook)
    if not attribute(node, "has_special", 0):
        return made
    specials = tuple(attribute(node, "specials"))
    return replace(made, special_code=int(attribute(node, "special_code")), specials=specials)


def weight_of_packed(node: ir.Node) -> CodedWeight:
    """The weight of a lowered or packed node, as numerics takes it."""
    return _joined([part for _, part in weight_parts(node)])


def _joined(parts: list[CodedWeight]) -> CodedWeight:
    if len(parts) == 1:
        return parts[0]

    def whole(found: list[NDArray | None]) -> NDArray | None:
        held = [part for part in found if part is not None]
        return np.concatenate(held) if held else None

    return replace(
        parts[0],
        codes=np.concatenate([p.codes for p in parts]),
        scale=whole([p.scale for p in parts]),
        zero_point=whole([p.zero_point for p in parts]),
        levels=whole([p.levels for p in parts]),
    )


def weight_parts(node: ir.Node) -> Iterator[tuple[slice, CodedWeight]]:
    """(rows, weight) of a lowered or packed node, in parts so small that they cost no memory."""
    n, k = int(attribute(node, "N")), int(attribute(node, "K"))
    layout, group = attribute(node, "layout"), int(attribute(node, "group", 1))
    data = constant(node.inputs[CODES])
    assert data is not None
    if layout == PLAIN:
        scale, point = constant(input_of(node, SCALE)), constant(input_of(node, ZERO_POINT))
        kind = format_of(node), int(attribute(node, "block_size")), _scales(node)
        for rows in row_slices(n, k):
            yield rows, coded_weight(*kind, data, scale, point, rows)
        return
    grouped = layout in PANELS and group > 1
    at = 0
    for rows in row_groups(n, group) if grouped else _parts(layout, n, k):
        shape = _shape_of(node, rows.stop - rows.start)
        end = at + LAYOUTS[layout].num_bytes(shape)
        yield rows, LAYOUTS[layout].unpack(data[at:end], shape)
        at = end


def weight_rows(node: ir.Node, indices: NDArray[np.int64]) -> CodedWeight:
    """Some rows of a node's weight; indices [num] ascending, 0 … N−1."""
    data = constant(node.inputs[CODES])
    assert data is not None
    if attribute(node, "layout") == ROWS.name:
        table = data.reshape(int(attribute(node, "N")), -1)
        return ROWS.unpack(table[indices].ravel(), _shape_of(node, len(indices)))
    found = []
    for rows, part in weight_parts(node):
        here = indices[(indices >= rows.start) & (indices < rows.stop)] - rows.start
        found.append(part.rows(here))
    return _joined(found)


def _shape_of(node: ir.Node, n: int) -> Shape:
    """The shape of n rows of a packed node's weight."""
    return Shape(
        n,
        int(attribute(node, "K")),
        format_of(node),
        int(attribute(node, "block_size")),
        attribute(node, "scale_format"),
        bool(attribute(node, "has_zero_point")),
        float(attribute(node, "tensor_scale", 1.0)),
    )
