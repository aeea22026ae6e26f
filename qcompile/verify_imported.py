# SPDX-License-Identifier: Apache-2.0
"""Verify models that come in codes: the normalised model code by code, and the weights kept.

Codes amplify rounding: a sum that differs in its last bit may give the next code, and that another
one. So the normalised model is cut at every code that the user's model makes, and each part is fed
with the user's own codes.
"""

from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from qcompile.data import Data
from qcompile.graph import constant, input_of, is_op, values
from qcompile.imported import (
    ACTIVATION,
    ImportedWeight,
    imported_weight,
    is_nbits,
)
from qcompile.numerics.quantize import dequantize
from qcompile.pieces import piece_between
from qcompile.plan import Plan
from qcompile.session import exact_options, open_model, run_float, session_options, with_outputs
from qcompile.spec import QuantSpec
from qcompile.verdict import Check
from qcompile.verify_normalised import UNIT, largest_gap, reduction

SHARE = 0.001  # ties that an op on codes rounds to the other side than a float op
GIVEN = "/given"


def makes_codes(model: ir.Model) -> bool:
    """Whether the normalised model quantizes activations itself."""
    return any(is_op(n, "QuantizeLinear") or ACTIVATION in n.metadata_props for n in model.graph)


@dataclass(frozen=True)
class _Parts:
    """Where the normalised model is cut, and what else is compared.

    codes: what QuantizeLinear gives. dynamic: outputs of products whose activations the user's
    model quantizes at run time. floats: the other outputs of the graph. products: for the bound.
    """

    codes: list[ir.Value]
    dynamic: dict[ir.Value, ir.Node]
    floats: list[ir.Value]
    products: list[ir.Node]

    @property
    def cut(self) -> list[str]:
        return [v.name or "" for v in (*self.codes, *self.dynamic)]


@dataclass
class _Found:
    """The largest differences, and where."""

    far: int = 0
    apart: int = 0
    num_codes: int = 0
    gap: float = 0.0
    bound: float = 0.0
    ratio: float = 0.0
    where: dict[str, str] = field(default_factory=dict)


def check_codes(source: ir.Model, normalised: ir.Model, data: Data) -> list[Check]:
    """normalise: each part of the model between codes, against the user's model.

    Codes may differ by one where a float op rounds a tie to the other side. A product whose
    activations the user's model quantizes at run time gives floats here: |difference| is at most
    x_scale · Σ |w|, half a step of every x and half a step of its zero point.
    """
    parts, found = _parts(source, normalised), _Found()
    made = {v.name for v in values(source.graph) if v.producer() is not None}
    ends = [v.name or "" for v in parts.floats]
    read = [n.inputs[0].name or "" for n in parts.dynamic.values() if n.inputs[0] is not None]
    wanted = list(dict.fromkeys([*parts.cut, *ends, *(r for r in read if r in made)]))
    sums = [n.outputs[0].name or "" for n in parts.products]
    shown = list(dict.fromkeys([*parts.cut, *ends, *sums]))
    expecting = open_model(with_outputs(source, wanted), exact_options(source))
    session = open_model(_cut(normalised, parts.cut, shown), session_options(optimise=False))
    unsigned = {v.name for v in parts.codes if v.dtype == ir.DataType.UINT8}
    for feed in data:
        expected = dict(zip(wanted, run_float(expecting, wanted, feed), strict=True))
        for name in parts.cut:
            expected[name] = _moved(expected[name], is_unsigned=name in unsigned)
        given = {name + GIVEN: expected[name] for name in parts.cut}
        actual = dict(zip(shown, session.run(shown, feed | given), strict=True))
        _compare(parts, feed | expected, actual, found)
    return _checks(parts, found)


def _parts(source: ir.Model, normalised: ir.Model) -> _Parts:
    known = {v.name for v in values(source.graph) if v.producer() is not None}
    quantizers = [n for n in normalised.graph if is_op(n, "QuantizeLinear")]
    codes = [n.outputs[0] for n in quantizers if n.outputs[0].name in known]
    dynamic = {_end(n, known): n for n in normalised.graph if ACTIVATION in n.metadata_props}
    floats = [v for v in normalised.graph.outputs if v not in codes and v not in dynamic]
    products = [n for n in normalised.graph if is_op(n, "Conv", "MatMul", "Gemm")]
    return _Parts(codes, dynamic, floats, products)


def _end(node: ir.Node, known: set[str | None]) -> ir.Value:
    """The product's output, or that of the Add of its bias, whichever the source has."""
    out = node.outputs[0]
    return out if out.name in known else next(iter(out.uses())).node.outputs[0]


def _cut(model: ir.Model, names: list[str], outputs: list[str]) -> ir.Model:
    """The model with new inputs in place of what the named values feed."""
    copy = model.clone()
    found = {v.name: v for n in copy.graph for v in n.outputs}
    for name in names:
        value = found[name]
        given = ir.Value(name=name + GIVEN, type=value.type, shape=None)
        for use in list(value.uses()):
            use.node.replace_input_with(use.idx, given)
        copy.graph.inputs.append(given)
    found |= {v.name: v for v in (*copy.graph.inputs, *copy.graph.initializers.values())}
    copy.graph.outputs[:] = [found[name] for name in outputs]
    return copy


def _moved(codes: NDArray, *, is_unsigned: bool) -> NDArray:
    """Codes of the source as those of the normalised model, where int8 became uint8."""
    if codes.dtype == np.int8 and is_unsigned:
        return (codes.astype(np.int16) + 128).astype(np.uint8)
    return codes


def _compare(
    parts: _Parts, expected: dict[str, NDArray], actual: dict[str, NDArray], found: _Found
) -> None:
    for name in (v.name or "" for v in parts.codes):
        steps = np.abs(expected[name].astype(np.int32) - actual[name].astype(np.int32))
        found.apart, found.num_codes = (
            found.apart + int((steps > 0).sum()),
            found.num_codes + steps.size,
        )
        if steps.max(initial=0) > found.far:
            found.far, found.where["codes"] = int(steps.max()), name
    for name in (v.name or "" for v in parts.floats):
        gap = largest_gap(expected[name], actual[name])
        if not gap <= found.gap:
            found.gap, found.where["floats"] = gap, name
    sums = [np.abs(actual[n.outputs[0].name or ""]).max(initial=0) for n in parts.products]
    depth = sum(reduction(n) for n in parts.products) + len(parts.products)
    found.bound = max(found.bound, UNIT * depth * float(max(sums, default=0)))
    for value, node in parts.dynamic.items():
        x, name = node.inputs[0], value.name or ""
        assert x is not None
        ratio = dynamic_ratio(node, expected[x.name or ""], expected[name], actual[name])
        if not ratio <= found.ratio:
            found.ratio, found.where["dynamic"] = ratio, name


def _checks(parts: _Parts, found: _Found) -> list[Check]:
    checks, count, where = [], found.num_codes, found.where
    if parts.codes:
        text, share = (
            "codes, against the user's model on its own codes",
            found.apart / max(count, 1),
        )
        checks = [
            Check("normalise: codes apart", found.far, 1, text, where.get("codes", ""), count),
            Check("normalise: share apart", share, SHARE, "of all codes", "", count),
        ]
    if parts.floats:
        text = "2^-23 · Σ K · largest product"
        at = where.get("floats", "")
        checks.append(
            Check("normalise: floats", found.gap, found.bound, text, at, len(parts.floats))
        )
    if parts.dynamic:
        text, at = "|difference| ÷ (x_scale · Σ |w|)", where.get("dynamic", "")
        checks.append(Check("normalise: dynamic", found.ratio, 1.0, text, at, len(parts.dynamic)))
    return checks


def dynamic_ratio(node: ir.Node, x: NDArray, expected: NDArray, actual: NDArray) -> float:
    """The largest |difference| ÷ its bound for one product of float x [..., K] or [B, C, H, W]."""
    weight = imported_weight(node)
    assert isinstance(weight, ImportedWeight)
    sums = np.abs(weight.read().decode()).sum(1, dtype=np.float64)
    if is_op(node, "Conv"):
        sums = sums.reshape(-1, 1, 1)
    low, high = min(float(x.min(initial=0)), 0.0), max(float(x.max(initial=0)), 0.0)
    k = int(np.prod(weight.dims[1:]))
    rounding = 2 * (k + 4) * UNIT * max(-low, high)
    bound = ((high - low) / 255 + rounding) * sums + UNIT * np.abs(expected) + 2.0**-126
    return float((np.abs(expected.astype(np.float64) - actual) / bound).max(initial=0))


def check_kept(normalised: ir.Model, quantized: ir.Model, plan: Plan) -> list[Check]:
    """transform: weights in codes mean the same numbers as ONNX Runtime reads in the model."""
    copy = normalised.clone()
    for node in copy.graph:
        if is_nbits(node):
            node.attributes["accuracy_level"] = ir.AttrInt64("accuracy_level", 0)
    kept = {n.name: n for n in quantized.graph}
    wrong, where, count = 0, "", 0
    for node in copy.graph:
        planned = plan.nodes.get(node.name or "")
        if planned is None or not planned.is_imported or not planned.is_quantized:
            continue
        expected, actual = _numbers(copy, node), _kept_numbers(kept[node.name])
        bad = int((expected.reshape(actual.shape) != actual).sum())
        count += actual.size
        if bad:
            wrong, where = wrong + bad, node.name or ""
    text = "weights that differ from the model's own"
    return [Check("transform: kept codes", wrong, 0, text, where, count)] if count else []


def _numbers(model: ir.Model, node: ir.Node) -> NDArray:
    """The weight [N, ...] as ONNX Runtime decodes it; MatMulNBits shows it by a product with 1."""
    if is_nbits(node):
        x, out = node.inputs[0], node.outputs[0]
        assert x is not None
        identity = np.eye(int(node.attributes["K"].value), dtype=np.float32)
        piece = piece_between(model, [x.name or ""], out.name or "")
        return np.asarray(piece.run(None, {x.name: identity})[0]).T
    value = node.inputs[0 if is_op(node, "Gather") else 1]
    assert value is not None
    found = np.asarray(piece_between(model, [], value.name or "").run(None, {})[0])
    is_kn = is_op(node, "MatMul") or (
        is_op(node, "Gemm")
        and not ("transB" in node.attributes and node.attributes["transB"].value)
    )
    return found.T if is_kn else found


def _kept_numbers(node: ir.Node) -> NDArray[np.float32]:
    """The weight [N, K] that the QDQ graph holds for the node, decoded by numerics (N1)."""
    value = node.inputs[0 if is_op(node, "Gather") else 1]
    back = value.producer() if value is not None else None
    if back is not None and is_op(back, "Transpose") and back.inputs[0] is not None:
        back = back.inputs[0].producer()
    assert back is not None
    spec = QuantSpec.parse(back.outputs[0].metadata_props["qcompile.spec"])
    codes, scale, point = (constant(input_of(back, i)) for i in range(3))
    assert codes is not None and scale is not None
    mask = 0xFF if spec.format.code_max > 127 else -1
    wide = codes.reshape(len(codes), -1).astype(np.int32) & mask
    points = np.zeros(scale.shape, np.int32) if point is None else point.astype(np.int32) & mask
    scales, points = (
        np.repeat(v, spec.block_size, axis=1)[:, : wide.shape[1]]
        if spec.granularity == "block"
        else v.reshape(-1, 1)
        for v in (scale, points)
    )
    return dequantize(wide, scales, points, spec.format)
