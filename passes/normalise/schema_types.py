# SPDX-License-Identifier: Apache-2.0
"""Types of values by ONNX Runtime's own schemas, for what follows its com.microsoft ops.

ONNX's inference does not know these ops and stops there. Only types come from here, no shapes.
"""

from functools import cache
from typing import Any

import onnx_ir as ir
from onnxruntime.capi import onnxruntime_pybind11_state as runtime

_TYPES = {f"tensor({t.name.lower()})": t for t in ir.DataType}


def infer_types(model: ir.Model) -> bool:
    """Give a tensor type to each untyped output whose type is that of an input, or always one."""
    modified = False
    for node in model.graph.all_nodes():
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


@cache
def _schemas() -> dict[tuple[str, str], Any]:
    """(domain, op) → its newest schema."""
    found = sorted(runtime.get_all_operator_schema(), key=lambda s: int(s.since_version))
    return {("" if s.domain == "ai.onnx" else s.domain, s.name): s for s in found}
