# SPDX-License-Identifier: Apache-2.0
"""Writing the Lowered dialect: com.qcompile ops whose weights are plain codes (layout "plain").

Inputs of a weighted op: X (indices for QGather), codes int8 [N, K], bias, multiplier,
scale [N, num_blocks], zero_point; pack folds the last two into the second.
"""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from qcompile.formats import scale_format
from qcompile.graph import (
    DOMAIN,
    FLOAT,
    LAYOUT,
    NHWC,
    add_initializer,
    constant,
    derived_initializer,
    input_of,
    new_node,
    remove_dead,
    replace,
    table_attributes,
)
from qcompile.numerics.dyadic import as_float
from qcompile.numerics.requantize import multiplier
from qcompile.passes.lower.qdq import End, Static, Weight
from qcompile.step_tables import STEP, insert_row

ABI = 1
PLAIN = "plain"
TO_NHWC, TO_NCHW = (0, 2, 3, 1), (0, 3, 1, 2)
CODES, BIAS, MULTIPLIER, SCALE, ZERO_POINT = 1, 2, 3, 4, 5
GATHER_SCALE = BIAS  # float32 [N] of a QGather whose codes a static product reads, too


def weight_attributes(weight: Weight, n: int, k: int, *, has_scale: bool) -> dict[str, Any]:
    """The weight attributes of docs/ops.md."""
    spec = weight.spec
    attributes: dict[str, Any] = {
        "abi": ABI,
        "layout": PLAIN,
        "format": spec.format.name,
        "bits": spec.bits,
        "is_signed": int(spec.format.is_signed and not spec.format.is_table),
        "N": n,
        "K": k,
        "block_size": spec.block_size,
        "scale_format": "none",
        "has_zero_point": int(weight.zero_point is not None and not spec.format.specials),
    }
    if has_scale:
        stored = scale_format(spec.scale_format)
        attributes["scale_format"] = stored.stored_as
        if stored.unit != 1:
            attributes["tensor_scale"] = float(stored.unit)
    if spec.format.has_codebook:
        attributes["has_codebook"] = 1
    if spec.format.special_code is not None:
        attributes["has_special"] = 1
        attributes["special_code"] = spec.format.special_code
        attributes["specials"] = list(spec.format.specials)
    if spec.format.levels is not None:
        attributes["levels"] = spec.format.levels
    if spec.format.table is not None:
        attributes |= table_attributes(spec.format.table)
    return attributes


def matrix_codes(graph: ir.Graph, weight: Weight) -> tuple[ir.Value, int, int]:
    """The codes as an initializer [N, K], K = (kh, kw, c) for a Conv; all readers share it."""
    dims = [int(d) for d in weight.codes.shape or ()]  # type: ignore[arg-type]
    n, k = dims[0], int(np.prod(dims[1:]))
    if len(dims) == 2:
        return weight.codes, n, k
    tensor = weight.codes.const_value
    assert tensor is not None

    def reorder() -> ir.TensorProtocol:
        return ir.tensor(np.ascontiguousarray(tensor.numpy().transpose(0, 2, 3, 1)).reshape(n, k))

    lazy = ir.LazyTensor(reorder, tensor.dtype, ir.Shape([n, k]))
    return derived_initializer(graph, weight.codes, "_nk", lambda: lazy), n, k


def block_scales(graph: ir.Graph, weight: Weight, n: int) -> list[ir.Value | None]:
    """Scales and zero points [N, num_blocks], that of a tensor repeated; levels as they are."""
    if weight.spec.format.has_codebook:
        return [weight.scale, None]
    out: list[ir.Value | None] = []
    for value in (weight.scale, weight.zero_point):
        if value is None:
            out.append(None)
            continue
        if value.shape is not None and len(value.shape) == 2:
            out.append(value)
            continue
        lazy = _spread(value.const_value, n)
        out.append(derived_initializer(graph, value, "_blocks", lambda made=lazy: made))  # type: ignore[misc]
    return out


def row_scales(graph: ir.Graph, weight: Weight, n: int) -> ir.Value:
    """Scales as [N]."""
    spread = _spread(weight.scale.const_value, n)

    def flat() -> ir.TensorProtocol:
        return ir.tensor(spread.numpy().reshape(-1))

    lazy = ir.LazyTensor(flat, spread.dtype, ir.Shape([n]))
    return derived_initializer(graph, weight.scale, "_rows", lambda: lazy)


def _spread(tensor: ir.TensorProtocol | None, n: int) -> ir.LazyTensor:
    assert tensor is not None

    def spread() -> ir.TensorProtocol:
        return ir.tensor(
            np.ascontiguousarray(np.broadcast_to(tensor.numpy().reshape(-1, 1), (n, 1)))
        )

    return ir.LazyTensor(spread, tensor.dtype, ir.Shape([n, 1]))


def output_multiplier(
    graph: ir.Graph, name: str, static: Static, weight: Weight, end: End | None, n: int
) -> ir.Value:
    """The multiplier [N] of N11, or of N16 without an end, computed when it is read.

    Where the time step chooses a scale it is a row of a table [T, N].
    """
    tensor = weight.scale.const_value
    assert tensor is not None
    steps = static.steps or (None if end is None else end.steps)

    def compute() -> ir.TensorProtocol:
        scale: NDArray = np.broadcast_to(tensor.numpy().ravel(), (n,))
        x_scale = scale_of(static)
        return ir.tensor(multiplier(x_scale, scale, 1.0 if end is None else scale_of(end)))

    shape = ir.Shape([n] if steps is None else [len(steps.rows), n])
    lazy = ir.LazyTensor(compute, ir.DataType.FLOAT, shape, name=f"{name}_multiplier")
    if steps is None:
        return add_initializer(graph, f"{name}_multiplier", lazy)
    return insert_row(graph, steps.index, lazy, f"{name}_multiplier")


def real_multiplier(node: ir.Node) -> NDArray[np.floating] | None:
    """The multiplier [N] of a static product as numbers, whatever their form."""
    found = constant(input_of(node, MULTIPLIER))
    return as_float(found) if found is not None and found.dtype == np.int32 else found


def static_bias(graph: ir.Graph, name: str, bias: ir.Value | None, n: int) -> ir.Value | None:
    """The bias codes [N]; zeros without a bias.

    ONNX Runtime up to 1.23 crashes on a custom op with an absent input before a present one.
    """
    if bias is None:
        return add_initializer(graph, f"{name}_bias", np.zeros(n, np.int32))
    back = bias.producer()
    assert back is not None
    return back.inputs[0]


def static_attributes(static: Static, end: End | None) -> dict[str, Any]:
    """The attributes of a static product; without an end it gives floats."""
    if end is None:
        return {"activation": "static", "x_zero_point": static.zero_point, "output": "f32"}
    return {
        "activation": "static",
        "x_zero_point": static.zero_point,
        "y_zero_point": end.zero_point,
        "y_min": end.y_min,
        "y_max": end.y_max,
    }


# What the op library takes for granted.
WINDOW = {"strides": [1, 1], "pads": [0, 0, 0, 0], "dilations": [1, 1], "group": 1, "ceil_mode": 0}


def window_attributes(node: ir.Node) -> dict[str, Any]:
    """The attributes of a window of two dimensions, without those that are as usual."""
    found = {k: node.attributes[k].value for k in WINDOW if k in node.attributes}
    found = {k: v if isinstance(v, int) else list(v) for k, v in found.items()}
    return {k: v for k, v in found.items() if v != WINDOW[k]}


def clip_attributes(bounds: tuple[float, float]) -> dict[str, Any]:
    """clip_min and clip_max where they clamp at all."""
    low, high = bounds
    out: dict[str, Any] = {}
    if np.isfinite(low):
        out["clip_min"] = float(low)
    if np.isfinite(high):
        out["clip_max"] = float(high)
    return out


def op(
    op_type: str,
    inputs: list[ir.Value | None],
    name: str,
    output: str,
    dtype: ir.DataType,
    /,
    **attributes: Any,
) -> ir.Node:
    """A com.qcompile node; trailing absent inputs are left out."""
    while inputs and inputs[-1] is None:
        inputs.pop()
    return new_node(op_type, inputs, name, output, domain=DOMAIN, dtype=dtype, **attributes)


def scale_of(codes: Static | End) -> float | NDArray[np.float32]:
    """The scale of the codes, [N] where each channel has its own, [T, 1] by time step."""
    if codes.steps is not None:
        return codes.steps.rows[:, None]
    return codes.scale if codes.scales is None else codes.scales


def output_scale(node: ir.Node) -> NDArray[np.float64]:
    """The scale that `remember` noted: a number, or [N]; 1 of a node that gives floats (N16).

    [T, 1] where the time step chooses it.
    """
    return np.asarray(json.loads(node.metadata_props.get("qcompile.scale", "1")), np.float64)


def output_zero_point(node: ir.Node) -> int:
    """The zero point that `remember` noted."""
    return int(node.metadata_props["qcompile.zero_point"])


def remember(node: ir.Node, inputs: list[ir.Value], end: End) -> None:
    """Note for verify which codes of the QDQ graph a static node reads and writes."""
    node.metadata_props["qcompile.inputs"] = "\n".join(v.name or "" for v in inputs)
    node.metadata_props["qcompile.output"] = end.codes.name or ""
    node.metadata_props["qcompile.scale"] = json.dumps(np.asarray(scale_of(end), float).tolist())
    node.metadata_props["qcompile.zero_point"] = str(end.zero_point)
    if end.steps is not None:
        node.metadata_props[STEP] = end.steps.index.name or ""
    node.metadata_props[FLOAT] = end.codes.metadata_props.get(FLOAT, "")


def permuted(shape: ir.Shape | None, perm: tuple[int, ...]) -> ir.Shape | None:
    """The shape after a Transpose."""
    return None if shape is None or len(shape) != len(perm) else ir.Shape([shape[i] for i in perm])


def transpose(value: ir.Value, perm: tuple[int, ...], output: str) -> ir.Node:
    """A Transpose of the value."""
    node = new_node(
        "Transpose",
        [value],
        f"{output}/transpose",
        output,
        dtype=value.dtype or ir.DataType.FLOAT,
        shape=permuted(value.shape, perm),
        perm=list(perm),
    )
    kept = {k: v for k, v in value.metadata_props.items() if k != LAYOUT}
    node.outputs[0].metadata_props.update(kept)
    if perm == TO_NHWC:
        node.outputs[0].metadata_props[LAYOUT] = NHWC
    return node


def replace_row_op(
    made: ir.Node, static: Static, end: End, inside: Sequence[ir.Node], *, is_last: bool
) -> None:
    """Put an op of rows in place of the nodes `inside`; it gives the codes of `end`.

    Unless its axis is the last one, it is that of the channels of maps: the op stands between two
    transposes.
    """
    graph, out, result = end.passed[-1].graph, end.codes, made.outputs[0]
    assert isinstance(graph, ir.Graph)
    name, inserted = out.name or "", [made]
    remember(made, [static.codes], end)
    result.shape = out.shape
    result.metadata_props.update(out.metadata_props)
    if not is_last:
        before = transpose(static.codes, TO_NHWC, f"{name}_x_nhwc")
        made.replace_input_with(0, before.outputs[0])
        result.name, result.shape = f"{name}_nhwc", permuted(out.shape, TO_NHWC)
        result.metadata_props[LAYOUT] = NHWC
        inserted = [before, made, transpose(result, TO_NCHW, f"{name}_nchw")]
    graph.insert_after(end.passed[-1], inserted)
    fresh = inserted[-1].outputs[0]
    replace(out, fresh)
    remove_dead(graph, [*inside, *end.passed])
    fresh.name = name
