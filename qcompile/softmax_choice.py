# SPDX-License-Identifier: Apache-2.0
"""plan_softmax and choose_softmax: which attentions weigh their keys by a format of N43, and how.

`--softmax-format log2_4` (target cpu, static activations): attention whose q, k, v and output are
static codes takes its weights in that format; others keep theirs, with the reason.

The ratio of the two steps of twin<b> is 2^shift. Each attention has the shift of least error
‖(P̂ − P) v‖² of its output on the calibration data, P being the float probabilities and P̂ those of
the format. PTQ4ViT (Yuan et al. 2022) searches the powers of two by the same error, with each
output weighted by the squared gradient of the loss ("Hessian guided metric"); that weight is left
out, for gradients of the float network are not at hand where the plan is made. Its search goes on
to 2^-19, here to where the largest weight fills a byte.
"""

import zlib
from dataclasses import replace

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from qcompile.attention import SOFTMAX_FORMAT, SOFTMAX_SHIFT, Attention, attention_at
from qcompile.data import Data
from qcompile.division import Division
from qcompile.dynamic_attention import is_static
from qcompile.errors import InputError
from qcompile.graph import is_op
from qcompile.numerics.attention import share_heads, weights_of
from qcompile.numerics.softmax_formats import UNIFORM, SoftmaxFormat
from qcompile.plan import Plan
from qcompile.recipe import Preset, Recipe
from qcompile.targets.target import Target

_SAMPLES, _ROWS = 32, 64  # of the data, of each head

NOT_HERE = {
    "ort": "its Softmax is a float op of ONNX Runtime",
    "t4": "it has no kernel for attention",
    "tvm-cpu": "it has no kernel for attention",
}
AT_RUN_TIME = "its codes are made at run time, and its weights are uint8 (N32)"
NOT_CODES = "its q, k, v and output are not all static codes"


def softmax_problems(recipe: Recipe, preset: Preset | None, target: Target) -> list[str]:
    """Why the recipe's softmax format is impossible, whatever the model."""
    if recipe.softmax_format in (None, UNIFORM):
        return []
    what, cure = f"softmax format {recipe.softmax_format}: ", "leave it out"
    if recipe.integer_only or target.name in NOT_HERE:
        why = NOT_HERE.get(target.name, "attention computes floats between its products")
        flag = " --integer-only" * recipe.integer_only
        return [f"{what}target {target.name}{flag} has none, {why}: {cure}"]
    if preset is None:
        return [f"{what}without a preset the model's own codes are kept: give one, or {cure}"]
    if preset.activation == "dynamic":
        return [
            f"{what}preset {preset.name} makes the codes of attention at run time, with weights of "
            f"uint8 (N32): take static activations (w8a8), or {cure}"
        ]
    if preset.activation == "float":
        return [f"{what}preset {preset.name} leaves attention in float: {cure}"]
    return []


def plan_softmax(graph: ir.Graph, plan: Plan, recipe: Recipe, *, has_data: bool) -> Plan:
    """The plan with the format of every attention that has it, and a note; or InputError."""
    name = recipe.softmax_format
    if name is None or name == UNIFORM:
        return plan
    softmax = SoftmaxFormat.parse(name)
    if softmax.is_twin and not has_data:
        raise InputError(
            f"softmax format {name}: the ratio of its two steps is chosen by the error on the "
            "calibration data: give --calibration-data, or take log2_4"
        )
    found: dict[str, SoftmaxFormat] = {}
    others: list[str] = []
    for node in graph:
        attention = attention_at(node)
        if isinstance(attention, Attention) and is_static(attention, plan):
            found[node.name or ""] = softmax
        elif attention is not None:
            others.append(f"{node.name}: {_why_not(node, plan)}")
    if not found:
        why = "; ".join(others) or "the model has none of MatMul, Softmax and MatMul"
        raise InputError(f"softmax format {name}: no attention of static codes has it ({why})")
    note = f"softmax format {name}: {len(found)} of {len(found) + len(others)} attentions have it"
    notes = (*plan.notes, "; ".join([note, *others]))
    return replace(plan, softmax=found, notes=notes)


def planned(plan: Plan) -> str:
    """What a dry run with data can say; "" where nothing is chosen."""
    if not any(found.is_twin for found in plan.softmax.values()):
        return ""
    return "softmax: each attention gets the ratio of steps with the least error on the data"


def choose_softmax(
    model: ir.Model, plan: Plan, recipe: Recipe, data: Data | None, division: Division
) -> Plan:
    """The plan with the shifts of its twin formats."""
    nodes = {n.name or "": n for n in model.graph}
    sites = {name: _values(nodes[name]) for name, found in plan.softmax.items() if found.is_twin}
    if data is None or not sites:
        return plan
    errors = {name: np.zeros(len(plan.softmax[name].shifts)) for name in sites}
    for group, arrays in division.runs(model, sites, data.first(_SAMPLES)):
        for name in group:
            rng = np.random.default_rng([recipe.seed, zlib.crc32(name.encode())])
            p, v = (np.asarray(arrays[value], np.float32) for value in sites[name])
            errors[name] += shift_errors(plan.softmax[name], p, v, rng)
    chosen = {
        name: plan.softmax[name].with_shift(plan.softmax[name].shifts[int(np.argmin(found))])
        for name, found in errors.items()
    }
    shifts = [found.shift for found in chosen.values()]
    ratios = " to ".join(dict.fromkeys(f"2^{shift}" for shift in (min(shifts), max(shifts))))
    note = f"softmax format {recipe.softmax_format}: the second step is {ratios} times the first, "
    note += "by the error of the outputs on the data"
    return replace(plan, softmax=plan.softmax | chosen, notes=(*plan.notes, note))


def shift_errors(
    softmax: SoftmaxFormat,
    probabilities: NDArray[np.float32],
    values: NDArray[np.float32],
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    """float64 [shifts]: ‖(P̂ − P) v‖² for each shift, on some rows of each head.

    probabilities [..., L, S], values [..., S, E].
    """
    length = probabilities.shape[-2]
    rows = np.sort(rng.permutation(length)[:_ROWS])
    p, v = share_heads(np.nan_to_num(probabilities[..., rows, :]), values)
    with np.errstate(divide="ignore"):
        scores = np.log(p)
    found = []
    for shift in softmax.shifts:
        weights = weights_of(scores, softmax.with_shift(shift)).astype(np.float64)
        shares = weights / np.maximum(weights.sum(-1, keepdims=True), 1)
        gap = ((shares - p) @ v.astype(np.float64)) ** 2
        found.append(float(gap.sum()) if np.isfinite(gap).all() else 0.0)
    return np.array(found)


def mark_softmax(model: ir.Model, plan: Plan) -> ir.Model:
    """The model, with the format on the nodes that have one, for the passes of lower."""
    for node in model.graph:
        found = plan.softmax.get(node.name or "")
        if found is not None:
            node.metadata_props[SOFTMAX_FORMAT] = found.name
            node.metadata_props[SOFTMAX_SHIFT] = str(found.shift)
    return model


def _values(node: ir.Node) -> list[str]:
    """The probabilities and the values of the attention that a MatMul ends."""
    attention = attention_at(node)
    assert isinstance(attention, Attention)
    (softmax,) = (n for n in attention.inside if is_op(n, "Softmax"))
    return [softmax.outputs[0].name or "", attention.v.name or ""]


def _why_not(node: ir.Node, plan: Plan) -> str:
    name = node.name or ""
    return AT_RUN_TIME if name in plan.attentions else plan.reasons.get(name, NOT_CODES)
