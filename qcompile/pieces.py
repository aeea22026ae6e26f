# SPDX-License-Identifier: Apache-2.0
"""Pieces of the QDQ graph: what one compiled node stands for, as a session of its own."""

from collections.abc import Iterable

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
from numpy.typing import NDArray

import qcompile.runtime_ops as runtime_ops
from qcompile.attention import ATTENTIONS, as_meant
from qcompile.graph import DOMAIN, FLOAT, LAYOUT, NHWC, is_op
from qcompile.passes.lower.lowered import TO_NCHW
from qcompile.session import open_own, session_options

OUTPUT = "qcompile.output"  # metadata of static nodes: the codes that they write


def float_name(node: ir.Node) -> str:
    """The value of the float model that the node's output stands for."""
    return node.metadata_props.get(FLOAT, "")


def source_names(node: ir.Node) -> list[str]:
    """The values of the QDQ graph that a lowered static node reads."""
    return node.metadata_props["qcompile.inputs"].split("\n")


def as_nchw(node: ir.Node, array: NDArray) -> NDArray:
    """What a compiled node reads or writes, in the layout of the QDQ graph.

    A node that writes NHWC reads it, too. The value that it reads does not tell: a transpose of the
    user's own, with which one of ours cancelled, leaves NHWC maps that the QDQ graph has as such.
    Of attention: what it writes.
    """
    if is_op(node, *ATTENTIONS, domain=DOMAIN):
        return as_meant(node, "y", array)
    is_nhwc = node.outputs[0].metadata_props.get(LAYOUT) == NHWC
    return np.ascontiguousarray(array.transpose(TO_NCHW)) if is_nhwc else array


def qdq_piece(
    quantized: ir.Model, node: ir.Node, *, optimise: bool = False
) -> ort.InferenceSession:
    """The QDQ nodes between the codes that a lowered node reads and those that it writes."""
    output = node.metadata_props[OUTPUT]
    return piece_between(quantized, source_names(node), output, optimise=optimise)


def piece_between(
    quantized: ir.Model,
    inputs_named: Iterable[str],
    output_name: str,
    *,
    optimise: bool = False,
    part: tuple[slice | NDArray[np.int64], int] | None = None,
) -> ort.InferenceSession:
    """The nodes between the named values. part: of N rows of a weight, just these.

    The time step that chooses scales becomes an input of its own name.
    """
    found = {v.name: v for n in quantized.graph for v in n.outputs}
    found |= {v.name: v for v in quantized.graph.inputs}
    inputs = {name: found[name] for name in dict.fromkeys(inputs_named)}
    wanted, todo = set(), [found[output_name]]
    while todo:
        value = todo.pop()
        producer = value.producer()
        if value.is_graph_input() and value.const_value is None:
            inputs.setdefault(value.name or "", value)
        if value.name in inputs or producer is None or producer in wanted:
            continue
        wanted.add(producer)
        todo += [v for v in producer.inputs if v is not None]
    kept = [n for n in quantized.graph if n in wanted]
    used = {v.name for n in kept for v in n.inputs if v is not None}
    piece = ir.GraphView(
        list(inputs.values()),
        [found[output_name]],
        nodes=kept,
        initializers=[v for n, v in quantized.graph.initializers.items() if n in used],
        opset_imports=quantized.graph.opset_imports,
        name="piece",
    ).clone()
    for value in piece.inputs:
        value.shape = None  # recorded runs may have another batch
    if part is not None:
        _keep_rows(piece, *part)
    options = session_options(1, optimise=optimise)
    if any(n.domain == DOMAIN for n in kept):
        runtime_ops.register(options)
    model = ir.Model(piece, ir_version=quantized.ir_version)
    return open_own(model, f'the nodes that make "{output_name}"', options, lean=True)


def _keep_rows(piece: ir.Graph, rows: slice | NDArray[np.int64], n: int) -> None:
    """Rows of codes, scales, zero points and bias, whose first dimension counts the N outputs."""
    for value in piece.initializers.values():
        tensor = value.const_value
        if tensor is None or not len(tensor.shape) or tensor.shape[0] != n:
            continue
        kept = ir.tensor(np.ascontiguousarray(tensor.numpy()[rows]), name=value.name)
        value.const_value, value.shape = kept, ir.Shape(kept.shape.numpy())
    for value in (v for node in piece for v in node.outputs):
        value.shape = None
