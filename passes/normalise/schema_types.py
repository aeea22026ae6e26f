# SPDX-License-Identifier: Apache-2.0
"""Types of values by ONNX Runtime's own schemas, for what follows its com.microsoft ops.

ONNX's inference does not know these ops and stops there. Shapes come only with ops that give one
of the shape of their first input.
"""

from functools import cache
from typing import Any

import onnx_ir as ir
from onnxruntime.capi import onnxruntime_pybind11_state as runtime

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
        if schema is None or all(v.type is not None for v in node.outputs):
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
