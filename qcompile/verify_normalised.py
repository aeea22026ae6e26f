# SPDX-License-Identifier: Apache-2.0
"""The rung normalise of verify: the float outputs of the normalised model against the source's."""

from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from qcompile.bodies import all_bodies, closed
from qcompile.body_data import Recording
from qcompile.data import Data
from qcompile.division import Division
from qcompile.element_types import NARROW, is_float
from qcompile.graph import values
from qcompile.session import open_model, run_float, session_options, with_outputs
from qcompile.verdict import Check
from qcompile.verify_split import NUDGE, nudged

UNIT = 2.0**-23
TINY = float(np.finfo(np.float64).tiny)


def check_normalised(
    source: ir.Model,
    normalised: ir.Model,
    data: Data,
    inside: dict[str, Recording] | None = None,
    division: Division | None = None,
) -> Check:
    """normalise: float outputs against the source's.

    The bound: every product of K terms may differ by K·2^-23 of its magnitude, and the differences
    add over the depth; so 2^-23 · Σ K · (the largest |element| of a product or of the output
    itself, which may be large behind small products). Where no output is a float, all must be
    equal. The nodes of a body count once a step, its products with the sizes that they have there.
    Rounding grows over the steps of recurrent nodes that were split: where an output moves more
    than its own size times a relative change of the recurrent weights, it may move so here.
    An output of bfloat16 or less may lie one rounding of its type further off.
    """
    inside = inside or {}
    paths = [body.path for body in all_bodies(normalised.graph) if body.path in inside]
    names = [n.outputs[0].name or "" for n in _products(normalised.graph)]
    outputs = [v.name or "" for v in normalised.graph.outputs]
    # An If of a constant became its branch, whose values have other names than the If's in a body.
    theirs = dict(zip(outputs, (v.name or "" for v in source.graph.outputs), strict=True))
    depth = _depth(normalised.graph) + _depth_inside(normalised, inside)
    division = division or Division()
    wide = list(dict.fromkeys([*outputs, *names]))
    parts, groups = division.split({n: division.footprint.of_values([n]) for n in wide}, data)
    wanted = division.open(source, optimise=False)
    gaps, sizes = dict.fromkeys(outputs, 0.0), dict.fromkeys(wide, 0.0)
    are_float = dict.fromkeys(wide, False)
    for group in groups:
        found = division.open(with_outputs(normalised, group), optimise=False)
        ends = [n for n in group if n in gaps]
        for feed in parts:  # the source first: it refuses bad data
            expected = run_float(wanted, [theirs[n] for n in ends], feed) if ends else []
            actual = dict(zip(group, found.run(group, feed), strict=True))
            are_float |= {n: holds_floats(actual[n]) for n in group}
            for name in (n for n in group if are_float[n]):
                sizes[name] = max(sizes[name], largest_finite(actual[name]))
            for name, value in zip(ends, expected, strict=True):
                gap = largest_gap(value, actual[name])
                gaps[name] = max(gaps[name], float("inf") if np.isnan(gap) else gap)
    floats = [n for n in outputs if are_float[n]]
    rounding = {v.name or "": rounding_of(v) for v in normalised.graph.outputs}
    largest_product = max((sizes[n] for n in names), default=0.0)
    largest_product = max([largest_product, *(inside[p].largest_product for p in paths)])
    unit = unit_of(source) * depth
    grown = _grown(normalised, outputs, data) if inside else {}
    limits = {
        n: unit * max(largest_product, sizes[n], grown.get(n, 0)) + rounding[n] * sizes[n]
        for n in floats or outputs
    }
    worst = max(limits, key=lambda n: gaps[n] / (limits[n] or TINY), default="")
    text = f"2^{int(np.log2(unit_of(source)))} · Σ K · largest product or output (float outputs)"
    return Check(
        "normalise", gaps.get(worst, 0.0), limits.get(worst, 0.0), text, worst, len(outputs)
    )


def check_rotated(
    normalised: ir.Model,
    rotated: ir.Model,
    data: Data,
    inside: dict[str, Recording] | None = None,
    division: Division | None = None,
) -> Check:
    """rotate: the same of the rotated model against the one before; one part is like the other."""
    found = check_normalised(normalised, rotated, data, inside, division)
    return replace(found, rung="rotate")


def _products(graph: ir.Graph) -> list[ir.Node]:
    return [n for n in graph if n.op_type in ("Conv", "MatMul", "Gemm")]


def _depth(graph: ir.Graph) -> int:
    return sum(reduction(n) for n in _products(graph)) + len(graph)


def _depth_inside(model: ir.Model, inside: dict[str, Recording]) -> int:
    """Every body as often as one run of the model runs it at most."""
    depth = 0
    for body in all_bodies(model.graph):
        around = [r.most_steps for path, r in inside.items() if body.path.startswith(f"{path}/")]
        steps = inside[body.path].most_steps if body.path in inside else 0
        depth += _depth(body.graph) * steps * int(np.prod(around, dtype=np.int64))
    return depth


def _grown(model: ir.Model, outputs: list[str], data: Data) -> dict[str, float]:
    """How far each output moves ÷ how far the recurrent weights of split nodes were moved."""
    other = nudged(model)
    if other is None:
        return {}
    sessions = [open_model(each, session_options(optimise=False)) for each in (model, other)]
    moved = dict.fromkeys(outputs, 0.0)
    for feed in data:
        pairs = zip(*(s.run(outputs, feed) for s in sessions), strict=True)
        for name, (a, b) in zip(outputs, pairs, strict=True):
            if holds_floats(a):
                moved[name] = max(moved[name], largest_finite(np.subtract(a, b)) / NUDGE)
    return moved


def measure_products(model: ir.Model, inside: dict[str, Recording]) -> None:
    """Write the largest product of every body on its recorded inputs."""
    for path, recording in inside.items():
        body = closed(model, path)
        names = [n.outputs[0].name or "" for n in _products(body.graph)]
        if not names or not recording.feeds:
            continue
        session = open_model(with_outputs(body, names), session_options(optimise=False))
        for feed in recording.feeds:
            sizes = [largest_finite(y) for y in session.run(names, feed)]
            recording.largest_product = max(recording.largest_product, *sizes)


def largest_finite(array: NDArray[np.float32]) -> float:
    """The largest |element| that is finite.

    >>> largest_finite(np.array([1.5, np.nan, -np.inf], np.float32))
    1.5
    """
    wide = array.astype(np.float64)
    return float(np.abs(wide).max(where=np.isfinite(wide), initial=0))


def holds_floats(value: Any) -> bool:
    """Whether a result is an array of floats; others are sequences, optionals, integers."""
    return isinstance(value, np.ndarray) and is_float(value.dtype)


def unit_of(model: ir.Model) -> float:
    """float32's, or float16's where the model rounds to it after every op."""
    halves = (v for graph in model.graphs() for v in values(graph))
    return 2.0**-10 if any(v.dtype == ir.DataType.FLOAT16 for v in halves) else UNIT


def rounding_of(value: ir.Value) -> float:
    """Between two neighbours ÷ their size, of a type to which only outputs are rounded.

    Two sums that differ by next to nothing may lie on both sides of where it rounds.
    """
    dtype = NARROW.get(value.dtype) if value.dtype is not None else None
    if dtype is None or not is_float(dtype):
        return 0.0
    return float(ml_dtypes.finfo(dtype).eps)  # type: ignore[no-untyped-call]


def largest_gap(a: Any, b: Any) -> float:
    """The largest |a − b|; equal infinities and NaN in both are no gap. Other types: 0 or inf.

    Sequences are lists of arrays, and an empty optional is None.

    >>> largest_gap(np.array([np.nan, np.inf, 1.0]), np.array([np.nan, np.inf, 1.5]))
    0.5
    """
    if isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        return max((largest_gap(x, y) for x, y in zip(a, b, strict=True)), default=0.0)
    if not isinstance(a, np.ndarray) or not isinstance(b, np.ndarray) or a.shape != b.shape:
        return 0.0 if type(a) is type(b) and not isinstance(a, (list, np.ndarray)) else float("inf")
    if not is_float(a.dtype):
        return 0.0 if np.array_equal(a, b) else float("inf")
    a, b = a.astype(np.float64), b.astype(np.float64)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    x, y = (np.where(same, 0, v) for v in (a, b))
    return float(np.abs(x - y).max(initial=0))


def reduction(node: ir.Node) -> int:
    """K of a product, from the shape of its weight."""
    weight = node.inputs[1]
    dims = [d for d in (weight.shape or [1]) if isinstance(d, int)] if weight is not None else [1]
    return int(np.prod(dims[1:])) if node.op_type in ("Conv", "Gemm") else int(max(dims, default=1))
