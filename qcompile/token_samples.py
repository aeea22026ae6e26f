# SPDX-License-Identifier: Apache-2.0
"""What inputs of products hold at token 0 and at the others, and the error that codes make of them.

Every other sample sets the ranges, the rest judge; a single sample does both.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

import qcompile.formats as formats
from qcompile.data import Data
from qcompile.division import Division
from qcompile.numerics.params import QuantParams, params_of_range
from qcompile.numerics.quantize import dequantize, quantize
from qcompile.observers import Observer, default_method, observer_of
from qcompile.plan import NodePlan
from qcompile.recipe import Recipe
from qcompile.rotation_error import ROWS, SAMPLES, Product, coded
from qcompile.spec import QuantSpec

FACTOR = 2.0  # one bit of the codes of the other tokens


@dataclass
class Part:
    """Token 0 or the others: the range of all values, and rows [num, K] that judge."""

    observer: Observer
    rows: list[NDArray[np.float32]] = field(default_factory=list)
    largest: float = 0.0

    def range(self, spec: QuantSpec) -> QuantParams:
        """Scale and zero point from what set the range."""
        return params_of_range(*self.observer.range(), spec.format)

    def held(self) -> NDArray[np.float32]:
        """The rows that judge."""
        return np.concatenate(self.rows)


@dataclass
class Seen:
    """An input: token 0, the others, and a range for both; tokens: of a sample, on average."""

    first: Part
    others: Part
    both: Part
    tokens: list[int] = field(default_factory=list)

    @property
    def factor(self) -> float:
        """The largest value of token 0 by the largest of the others."""
        return self.first.largest / max(self.others.largest, 1e-30)

    @property
    def is_far(self) -> bool:
        """Whether token 0 makes the scale far too wide for the others; there are rows of both."""
        is_known = all(p.rows and np.isfinite(p.held()).all() for p in (self.first, self.others))
        return is_known and self.others.largest > 0 and self.factor >= FACTOR


def collect(
    model: ir.Model,
    specs: dict[str, QuantSpec],
    data: Data,
    division: Division,
    recipe: Recipe,
) -> dict[str, Seen]:
    """What values [samples, ..., tokens, K] hold in the first samples; specs: of their codes."""
    few = data.first(SAMPLES)
    is_alone = few.num_samples < 2
    most = max(2 * ROWS // max(few.num_samples, 1), 1)
    seen: dict[str, Seen] = {}
    for name, spec in specs.items():
        first, others, both = (Part(_observer(s, recipe)) for s in (wide(spec), spec, spec))
        seen[name] = Seen(first, others, both)
    counts = dict.fromkeys(specs, 0)
    rng = np.random.default_rng(recipe.seed)
    for group, arrays in division.runs(model, {name: [name] for name in specs}, few):
        for name in group:
            for sample in np.asarray(arrays[name], np.float32):
                half = None if is_alone else counts[name] % 2
                _add(seen[name], sample, half, most, rng)
                counts[name] += 1
    return seen


def _add(
    seen: Seen, sample: NDArray[np.float32], half: int | None, most: int, rng: np.random.Generator
) -> None:
    """One sample [..., tokens, K]; half: 0 sets ranges, 1 judges, None does both."""
    x = sample.reshape(-1, *sample.shape[-2:])
    if x.shape[1] < 2 or not x.size:
        return
    seen.tokens.append(x.shape[1])
    for part, found in ((seen.first, x[:, :1]), (seen.others, x[:, 1:])):
        rows = found.reshape(-1, found.shape[-1])
        if half != 1 and np.isfinite(rows).all():
            part.observer.update(rows)
            seen.both.observer.update(rows)
            part.largest = max(part.largest, float(np.abs(rows).max()))
        if half != 0:
            chosen = rng.choice(len(rows), min(most, len(rows)), replace=False)
            part.rows.append(rows[np.sort(chosen)])


def _observer(spec: QuantSpec, recipe: Recipe) -> Observer:
    method = recipe.calibration_method or default_method(spec.format)
    return observer_of(method, recipe.calibration_percentile, spec.format)


def wide(spec: QuantSpec) -> QuantSpec:
    """The spec of token 0: 8 bits, which a single row can afford."""
    return replace(spec, format=formats.get("uint8"))


def decibels(error: float) -> float:
    """Of noise ÷ signal.

    >>> decibels(0.001)
    30.0
    """
    return -10 * float(np.log10(error)) if error > 0 else float("inf")


def token_error(
    node: ir.Node,
    plan: NodePlan,
    rows: list[NDArray[np.float32]],
    pair: Iterable[QuantParams],
    tokens: float,
    recipe: Recipe,
) -> float:
    """Noise ÷ signal of the outputs, on average over the tokens: rows of token 0, and others.

    By token, because what follows normalises or reads each by itself; all signals together would
    be those of the large token.
    """
    total = 0.0
    for x, params, share in zip(rows, pair, (1 / tokens, 1 - 1 / tokens), strict=True):
        product = Product.of(node, None, x, plan)
        codes = coded(product.weight, plan, recipe).astype(np.float64)
        wanted = x.astype(np.float64) @ product.weight.astype(np.float64).T
        given = _rounded(x, params).astype(np.float64) @ codes.T
        signal = float((wanted**2).sum())
        total += share * float(((given - wanted) ** 2).sum()) / signal if signal else 0.0
    return total


def _rounded(x: NDArray[np.float32], params: QuantParams) -> NDArray[np.float32]:
    codes = quantize(x, params.scale, params.zero_point, params.format, symmetric=False)
    return dequantize(codes, np.float32(params.scale), params.zero_point, params.format)
