# SPDX-License-Identifier: Apache-2.0
"""The rung normalise of verify for models that come in codes: the normalised model by codes.

Codes amplify rounding: a sum that differs in its last bit may give the next code, and that another
one. So the normalised model is cut at every code that the user's model makes, and each part is fed
with the user's own codes.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from qcompile.bodies import captured
from qcompile.data import Data, Feed
from qcompile.division import Division
from qcompile.graph import is_op, values
from qcompile.imported import ACTIVATION, ImportedWeight, imported_weight
from qcompile.session import exact_options, run_float, with_outputs
from qcompile.verdict import Check
from qcompile.verify_normalised import UNIT, largest_gap, reduction
from qcompile.verify_ties import ties

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
    def cut(self) -> dict[str, ir.Value]:
        return {v.name or "": v for v in (*self.codes, *self.dynamic)}

    @property
    def shown(self) -> dict[str, ir.Value]:
        sums = (n.outputs[0] for n in self.products)
        return self.cut | {v.name or "": v for v in (*self.floats, *sums)}


@dataclass
class _Found:
    """The largest differences and the largest product, and where."""

    far: int = 0
    apart: int = 0
    num_codes: int = 0
    gap: float = 0.0
    product: float = 0.0
    ratio: float = 0.0
    where: dict[str, str] = field(default_factory=dict)


def check_codes(
    source: ir.Model, normalised: ir.Model, data: Data, division: Division | None = None
) -> list[Check]:
    """normalise: each part of the model between codes, against the user's model.

    Codes may differ by one where a float op rounds a tie to the other side (verify_ties), and on
    the SHARE of all. What does not fit the memory comes in groups, a run each. A product whose
    activations the user's model quantizes at run time gives floats here: |difference| is at most
    x_scale · Σ |w|, half a step of every x and half a step of its zero point.
    """
    division = division or Division()
    parts, found = _parts(source, normalised), _Found()
    shown, cut = parts.shown, parts.cut
    between = {name: _between(value, cut) for name, value in shown.items()}
    sizes = {n: division.footprint.of_values([n, *between[n][1]]) for n in shown}
    runs, groups = division.split(sizes, data)
    for group in groups:
        given = list(dict.fromkeys(name for n in group for name in between[n][1]))
        compare = _Comparison(source, normalised, parts, division, group, given)
        for feed in runs:
            compare.run(feed, between, found)
    return _checks(parts, found)


def _between(value: ir.Value, cut: dict[str, ir.Value]) -> tuple[list[ir.Node], list[str]]:
    """The nodes that make the value from codes, last ones first, and those codes."""
    nodes: dict[ir.Node, None] = {}
    given: dict[str, None] = {}
    todo = [value]
    while todo:
        each = todo.pop()
        if each is not value and cut.get(each.name or "") is each:
            given[each.name or ""] = None
        elif (node := each.producer()) is not None and node not in nodes:
            nodes[node] = None
            held = (a.as_graph() for a in node.attributes.values() if a.type.name == "GRAPH")
            todo += [v for v in node.inputs if v is not None]
            todo += [v for graph in held for v in captured(graph)]
    return list(nodes), list(given)


@dataclass
class _Comparison:
    """Some of what is compared: sessions of the user's model and of ours, cut at the codes."""

    source: ir.Model
    normalised: ir.Model
    parts: _Parts
    division: Division
    group: list[str]
    given: list[str]

    def __post_init__(self) -> None:
        made = {v.name for v in values(self.source.graph) if v.producer() is not None}
        compared = {*self.parts.cut, *(v.name or "" for v in self.parts.floats)}
        inputs = (n.inputs[0] for v, n in self.parts.dynamic.items() if v.name in self.group)
        read = [v.name or "" for v in inputs if v is not None and v.name in made]
        ends = [n for n in self.group if n in compared]
        self.wanted = list(dict.fromkeys([*self.given, *ends, *read]))
        theirs = with_outputs(self.source, self.wanted)
        self.expecting = self.division.open(theirs, options=exact_options(self.source))
        ours = _cut(self.normalised, self.given, self.group)
        self.session = self.division.open(ours, optimise=False)
        self.unsigned = {v.name for v in self.parts.codes if v.dtype == ir.DataType.UINT8}

    def run(
        self, feed: Feed, between: dict[str, tuple[list[ir.Node], list[str]]], found: _Found
    ) -> None:
        """One run of both; what it finds is added."""
        wanted = self.wanted
        expected = {}
        if wanted:
            expected = dict(zip(wanted, run_float(self.expecting, wanted, feed), strict=True))
        for name in self.parts.cut.keys() & expected.keys():
            expected[name] = _moved(expected[name], is_unsigned=name in self.unsigned)
        given = {name + GIVEN: expected[name] for name in self.given}
        actual = dict(zip(self.group, self.session.run(self.group, feed | given), strict=True))

        def ties_of(name: str) -> NDArray[np.bool_]:
            nodes = between[name][0]
            names = [v.name or "" for n in nodes for v in n.outputs if v.name != name]
            cut = _cut(self.normalised, self.given, names)
            inside = self.division.open(cut, optimise=False).run(names, feed | given)
            return ties(nodes, feed | expected | dict(zip(names, inside, strict=True)))

        _compare(self.parts, feed | expected, actual, found, ties_of)


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
    parts: _Parts,
    expected: dict[str, NDArray],
    actual: dict[str, NDArray],
    found: _Found,
    ties_of: Callable[[str], NDArray[np.bool_]],
) -> None:
    """What is in `actual`; each tensor with more codes apart than SHARE is looked at for ties."""
    for name in (v.name or "" for v in parts.codes if v.name in actual):
        steps = np.abs(expected[name].astype(np.int32) - actual[name].astype(np.int32))
        apart = steps > 0
        if steps.max(initial=0) == 1 and apart.mean() > SHARE:
            apart &= ~ties_of(name)
        found.apart, found.num_codes = found.apart + int(apart.sum()), found.num_codes + steps.size
        if steps.max(initial=0) > found.far:
            found.far, found.where["codes"] = int(steps.max()), name
    for name in (v.name or "" for v in parts.floats if v.name in actual):
        gap = largest_gap(expected[name], actual[name])
        if not gap <= found.gap:
            found.gap, found.where["floats"] = gap, name
    for name in (n.outputs[0].name or "" for n in parts.products):
        if name in actual:
            found.product = max(found.product, float(np.abs(actual[name]).max(initial=0)))
    for value, node in parts.dynamic.items():
        x, name = node.inputs[0], value.name or ""
        if name not in actual:
            continue
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
        at, depth = where.get("floats", ""), sum(reduction(n) for n in parts.products)
        bound = UNIT * (depth + len(parts.products)) * found.product
        checks.append(Check("normalise: floats", found.gap, bound, text, at, len(parts.floats)))
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
