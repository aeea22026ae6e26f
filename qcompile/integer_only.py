# SPDX-License-Identifier: Apache-2.0
"""Integer-only artifacts: no float between the input's quantizer and the output, no sum overflows.

HAWQ-V3 (Yao et al. 2021). The proof of the sums is interval arithmetic on the actual weights: every
activation may take any code that its producer can write.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from qcompile.errors import InputError
from qcompile.graph import DOMAIN, attribute, constant, input_of, is_constant, is_op
from qcompile.int8_ops import MOVES_DATA
from qcompile.numerics.dyadic import INT32
from qcompile.pack import weight_parts
from qcompile.passes.lower.lower_requantize_into_dyadic import PRODUCTS
from qcompile.passes.lower.lowered import BIAS
from qcompile.plan import Plan
from qcompile.recipe import Preset, Recipe
from qcompile.targets.target import Target
from qcompile.verdict import Check

QUIET = ("Shape", "Size", "Constant", "ConstantOfShape", "Range")  # they read no element
FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE)
CURE = (
    "give their outputs to the application (end the model before them), replace them by ops that "
    "`qcompile passes` lowers, or compile without --integer-only"
)


@dataclass(frozen=True)
class Culprit:
    """A node that computes floats between codes and the output."""

    node: str
    op_type: str
    reason: str


def problems_of(recipe: Recipe, preset: Preset | None, target: Target) -> list[str]:
    """What the recipe asks that cannot be integer-only."""
    found = []
    if recipe.batch is not None and target.compiler is None:
        found.append(f"--batch: an artifact of target {target.name} takes any batch: leave it out")
    if not recipe.integer_only:
        return found
    if preset is None:
        found.append(
            "--integer-only: the model's own codes are kept as they are: give --preset too"
        )
    if target.lower_integer is None:
        found.append(f"--integer-only: target {target.name} has no such form: use --target cpu")
    if preset is not None and preset.activation != "static":
        found.append(
            f"--integer-only: preset {preset.name} has {preset.activation} activations, static "
            f"ones are needed: give --calibration-data and use w{preset.weight_bits}a8"
        )
    return found


def plan_culprits(plan: Plan) -> list[Culprit]:
    """Every op of an integer-only plan that has no integer form."""
    if not plan.is_integer_only:
        return []
    found = [Culprit(p.node, p.op_type, p.reason) for p in plan.counted() if not p.is_quantized]
    found += [
        Culprit(p.node, p.op_type, f"its activations are {p.activation or 'float'}")
        for p in plan.nodes.values()
        if p.is_quantized and (p.activation is None or p.activation.is_dynamic)
    ]
    return found + [Culprit(name, "", reason) for name, reason in plan.reasons.items()]


def check_integer_only(lowered: ir.Model, plan: Plan) -> None:
    """InputError that names every node which keeps the lowered graph from being integer-only."""
    found = list(culprits(lowered.graph))
    if found:
        known = plan.reasons | {p.node: p.reason for p in plan.nodes.values() if p.reason}
        raise InputError(
            message_of([Culprit(c.node, c.op_type, known.get(c.node, c.reason)) for c in found])
        )


def message_of(
    found: list[Culprit],
    what: str = "--integer-only: {} without an integer form",
    cure: str = CURE,
) -> str:
    """All of them, and the cure; `what` has {} for their number."""
    lines = [f"  {' '.join(w for w in (c.op_type, c.node) if w)}: {c.reason}" for c in found]
    count = f"{len(found)} node{'s' * (len(found) > 1)}"
    return what.format(count) + "\n" + "\n".join(lines) + f"\n{cure}"


def culprits(graph: ir.Graph) -> Iterator[Culprit]:
    """The nodes that compute floats behind the first codes, and outputs that codes never reach.

    A DequantizeLinear may end the integers; behind it data may move, and nothing else.
    """
    results: set[ir.Value] = set()  # floats that stand for codes
    for node in graph:
        data = [v for v in node.inputs if v is not None and not is_constant(v)]
        if is_op(node, *QUIET):
            continue
        if is_op(node, "DequantizeLinear") and not any(v in results for v in data):
            results.update(node.outputs)
        elif any(v in results for v in data):
            if is_op(node, *MOVES_DATA) and not is_op(node, "Resize"):
                results.update(node.outputs)
            else:
                yield Culprit(node.name or "", node.op_type, "it reads floats of codes")
        elif node.domain == DOMAIN and not _is_integer(node):
            yield Culprit(node.name or "", node.op_type, "it computes in float inside")
        elif node.domain != DOMAIN and _mixes(node, data):
            yield Culprit(node.name or "", node.op_type, "it has no integer form")
    for output in graph.outputs:
        if output.dtype in FLOATS and output not in results:
            producer = output.producer()
            name = output.name or "" if producer is None else producer.name or ""
            op_type = "output" if producer is None else producer.op_type
            yield Culprit(name, op_type, "no quantized op stands between the input and this output")


def _is_integer(node: ir.Node) -> bool:
    is_moved = node.op_type == "QLut" or attribute(node, "mode") == "max"
    return is_moved or attribute(node, "requantize") == "dyadic"


def _mixes(node: ir.Node, data: list[ir.Value]) -> bool:
    """Whether a standard op takes codes and gives floats."""
    codes = any(v.dtype in (ir.DataType.UINT8, ir.DataType.INT8, ir.DataType.INT32) for v in data)
    return codes and any(v.dtype in FLOATS for v in node.outputs)


def check_sums(packed: ir.Model) -> Check:
    """integer: no accumulator of the packed model can leave int32, whatever the input.

    measured: the largest |Σ (x − x_zero_point) · w + bias| that any codes can make.
    """
    largest, where, count = 0, "", 0
    bounds = _code_bounds(packed.graph)
    for node in packed.graph:
        if node.domain != DOMAIN or node.op_type not in PRODUCTS:
            continue
        found = largest_sum(node, bounds.get(node.inputs[0], (0, 255)))
        count += 1
        if found > largest:
            largest, where = found, node.name or ""
    source = "the largest sum that any input can make, of int32 (interval arithmetic)"
    return Check("integer: sums", largest, INT32[1], source, where, count)


def largest_sum(node: ir.Node, codes: tuple[int, int]) -> int:
    """The largest |acc + bias| of a product of activation codes in [low, high]."""
    point, bias = int(attribute(node, "x_zero_point")), constant(input_of(node, BIAS))
    low, high = min(codes[0] - point, 0), max(codes[1] - point, 0)  # 0: padding
    worst = 0
    for rows, weight in weight_parts(node):
        values = weight.values().astype(np.int64)
        added = np.zeros(len(values), np.int64)
        if bias is not None and bias.size:
            added = bias[rows].astype(np.int64)
        most = np.maximum(values * low, values * high).sum(1) + added
        least = np.minimum(values * low, values * high).sum(1) + added
        worst = max(worst, int(np.abs([most, least]).max(initial=0)))
    return worst


def _code_bounds(graph: ir.Graph) -> dict[ir.Value | None, tuple[int, int]]:
    """The codes that each value can take, where its producer says."""
    found: dict[ir.Value | None, tuple[int, int]] = {}
    for node in graph:
        source = node.inputs[0] if node.inputs else None
        if node.domain == DOMAIN and "y_min" in node.attributes:
            bounds = int(attribute(node, "y_min")), int(attribute(node, "y_max"))
            found.update(dict.fromkeys(node.outputs, bounds))
        elif is_op(node, "Transpose", "Reshape", "Flatten", "Squeeze") and source in found:
            found[node.outputs[0]] = found[source]
    return found


def raw_outputs(packed: ir.Model) -> dict[str, dict[str, float]]:
    """Output name → the scale of its integers, for the manifest."""
    found = {}
    for output in packed.graph.outputs:
        value: ir.Value | None = output
        node = value.producer() if value is not None else None
        while node is not None and is_op(node, *MOVES_DATA):
            node = node.inputs[0].producer() if node.inputs[0] is not None else None
        if node is not None and is_op(node, "DequantizeLinear"):
            scale, point = constant(node.inputs[1]), constant(input_of(node, 2))
            if scale is not None and scale.size == 1:
                zero_point = 0 if point is None else int(point)
                found[output.name or ""] = {"scale": float(scale), "zero_point": zero_point}
    return found
