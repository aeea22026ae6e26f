# SPDX-License-Identifier: Apache-2.0
"""Write a model of opset 7 … 12, and its functions, in opset 17; one of 27 or 28 in opset 26.

Before:
    <ir_version: 3, opset_import: ["" : 10]>
    f (float[2,3] x) => (float[1,2,3] y)
    { a = Clip <min = 0.0, max = 6.0> (x)   y = Unsqueeze <axes = [0]> (a) }
After:
    f (float[2,3] x) => (float[1,2,3] y)
    { a_min = Constant <value = float {0}> ()   a_max = Constant <value = float {6}> ()
      a = Clip (x, a_min, a_max)
      y_axes = Constant <value = int64[1] {0}> ()   y = Unsqueeze (a, y_axes) }
Refuses: with an InputError Scan of opset 8, BatchNormalization in training mode or with spatial = 0
and a mask of Dropout that is read, which newer opsets cannot say; a function in another opset
than the model that has an op which differs between the two.

Opsets 27 and 28 bring new ops, and types to old ones: for some ONNX Runtime 1.32 has no kernels
(DequantizeLinear-28). A model with an op that opset 26 lacks keeps its own.

Weights are not touched, be they large or in another file. The model of the user is what the result
is compared with in every compilation, so a conversion is checked on the data.
"""

from collections.abc import Iterable

import onnx
import onnx_ir as ir
import onnx_ir.passes.common as common

from qcompile.errors import InputError
from qcompile.graph import attribute
from qcompile.passes.normalise.opset_adapters import ADAPTERS
from qcompile.shape_inference import infer_shapes

OLDEST_KEPT = 13  # per-axis QuantizeLinear; older models are converted
CONVERTED = 17
NEWEST_KEPT = 26
# The attributes that ops got later: Range sums in float32 as before; what SpaceToDepth may say.
LATER = {"Range": ("stash_type", None), "SpaceToDepth": ("mode", "DCR")}
FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE, ir.DataType.BFLOAT16)
IR_VERSION = 8  # of opset 17; from 4 on an initializer need not be an input


class ConvertOpset(ir.passes.InPlacePass):
    """Node by node, subgraphs and functions too."""

    stage = "normalise"
    name = "convert_opset"
    is_global = True  # all graphs at once

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Nothing changes from opset 13 to 26 but the functions that have another one."""
        opset = model.graph.opset_imports[""]
        modified = False
        for function in model.functions.values():
            modified |= _agree(function, opset)
        holders: list[ir.Graph | ir.Function] = [model.graph, *model.functions.values()]
        if opset > NEWEST_KEPT and not any(_is_newer(n) for h in holders for n in h.all_nodes()):
            for holder in holders:
                _lower(holder)
            modified = True
        if opset < OLDEST_KEPT:
            infer_shapes(model)
            for holder in holders:
                _adapt(holder.all_nodes(), opset)
                holder.opset_imports[""] = CONVERTED
            common.NameFixPass()(model)
            modified = True
        model.ir_version = max(model.ir_version, IR_VERSION)
        return ir.passes.PassResult(model, modified)


def _agree(function: ir.Function, wanted: int) -> bool:
    """The function in the model's opset; InputError where an op differs, as ONNX Runtime asks."""
    found = function.opset_imports.get("", wanted)
    for node in function.all_nodes():
        if node.domain == "" and _version(node, found) != _version(node, wanted):
            raise InputError(
                f"function {function.name} has opset {found} and the model {wanted}, and "
                f"{node.op_type} differs between them: export both with one opset"
            )
    function.opset_imports[""] = wanted
    return found != wanted


def _adapt(nodes: Iterable[ir.Node], opset: int) -> None:
    for node in list(nodes):
        if node.domain == "" and node.op_type in ADAPTERS:
            ADAPTERS[node.op_type](node, opset)
        node.version = None


def _is_newer(node: ir.Node) -> bool:
    """Whether opset 26 cannot say what the node does."""
    name, only = LATER.get(node.op_type, ("", None))
    other = only is not None and attribute(node, name, only) != only
    return node.domain == "" and (
        other or not _version(node, NEWEST_KEPT) or _has_newer_types(node)
    )


def _has_newer_types(node: ir.Node) -> bool:
    """Whether 26 does not take an input's type: BitShift of int16, Mod of floats as Python's."""
    first = node.inputs[0] if node.inputs else None
    if node.op_type == "Mod" and first is not None and first.dtype in FLOATS:
        return not attribute(node, "fmod", 0)
    schema = onnx.defs.get_schema(node.op_type, NEWEST_KEPT)
    types = {c.type_param_str: c.allowed_type_strs for c in schema.type_constraints}
    for value, formal in zip(node.inputs, schema.inputs, strict=False):
        dtype = value.dtype if value is not None else None
        if dtype is not None and formal.type_str in types:
            is_plain = isinstance(value.type, ir.TensorType)  # type: ignore[union-attr]
            if is_plain and f"tensor({dtype.name.lower()})" not in types[formal.type_str]:
                return True
    return False


def _lower(holder: ir.Graph | ir.Function) -> None:
    for node in holder.all_nodes():
        node.version = None
        if node.domain == "" and node.op_type in LATER:
            node.attributes.pop(LATER[node.op_type][0], None)
    holder.opset_imports[""] = NEWEST_KEPT


def _version(node: ir.Node, opset: int) -> int:
    """The version of the op that an opset has; 0 where it has none."""
    if not onnx.defs.has(node.op_type):
        return 0
    try:
        return onnx.defs.get_schema(node.op_type, opset).since_version
    except onnx.defs.SchemaError:
        return 0
