# SPDX-License-Identifier: Apache-2.0
"""Types of values by ONNX Runtime's own schemas, for what follows its com.microsoft ops.

ONNX's inference does not know these ops and stops there, nor those of a user's library, for which
ONNX Runtime is asked. Shapes come only with ops that give one of the shape of their first input.
"""

from functools import cache
from typing import Any

import onnx_ir as ir
from onnxruntime.capi import onnxruntime_pybind11_state as runtime

from qcompile.element_types import type_named
from qcompile.errors import InputError
from qcompile.op_libraries import used_op_libraries
from qcompile.session import open_model, session_options

_SAME_SHAPE = (
    *("SimplifiedLayerNormalization", "SkipLayerNormalization", "SkipSimplifiedLayerNormalization"),
    *("Gelu", "FastGelu", "QuickGelu", "BiasGelu", "BiasSoftmax", "RotaryEmbedding"),
)
_TYPES = {f"tensor({t.name.lower()})": t for t in ir.DataType}


def infer_types(model: ir.Model) -> bool:
    """Give a tensor type to each untyped output whose type is that of an input, or always one."""
    modified = False
    for node in model.graph.all_nodes():
        if node.op_type in _SAME_SHAPE and node.inputs[0] is not None:
            modified |= _take_shape(node.outputs[0], node.inputs[0].shape)
        schema = _schemas().get((node.domain, node.op_type))
        if all(v.type is not None for v in node.outputs):
            continue
        if schema is None:
            modified |= used_op_libraries() != () and _ask_types(node, model.graph.opset_imports)
            continue
        known = {
            formal.typeStr: value.dtype
            for formal, value in zip(schema.inputs, node.inputs, strict=False)
            if value is not None and isinstance(value.type, ir.TensorType)
        }
        for formal, value in zip(schema.outputs, node.outputs, strict=False):
            dtype = known.get(formal.typeStr, _TYPES.get(formal.typeStr))
            if value.type is None and dtype is not None:
                value.type, modified = ir.TensorType(dtype), True
    return modified


def _ask_types(node: ir.Node, imports: dict[str, int]) -> bool:
    """Those of a session of the node alone; False where the types of its inputs are not known."""
    given = {v: ir.Value(name=v.name, type=v.type) for v in node.inputs if v is not None}
    if not all(isinstance(v.type, ir.TensorType) for v in given):
        return False
    copy = ir.Node(
        node.domain,
        node.op_type,
        [None if v is None else given[v] for v in node.inputs],
        list(node.attributes.values()),
        outputs=[ir.Value(name=v.name) for v in node.outputs],
    )
    graph = ir.Graph(
        list(given.values()), copy.outputs, nodes=[copy], opset_imports=imports, name="g"
    )
    try:
        session = open_model(ir.Model(graph, ir_version=8), session_options(1, optimise=False))
    except InputError:
        return False
    for value, found in zip(node.outputs, session.get_outputs(), strict=True):
        value.type = value.type or type_named(found.type)
    return any(value.type is not None for value in node.outputs)


def _take_shape(value: ir.Value, shape: ir.Shape | None) -> bool:
    if value.shape is not None or shape is None:
        return False
    value.shape = ir.Shape(shape)
    return True


@cache
def _schemas() -> dict[tuple[str, str], Any]:
    """(domain, op) → its newest schema."""
    found = sorted(runtime.get_all_operator_schema(), key=lambda s: int(s.since_version))
    return {("" if s.domain == "ai.onnx" else s.domain, s.name): s for s in found}
