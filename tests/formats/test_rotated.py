# SPDX-License-Identifier: Apache-2.0
"""Formats of turned rows: Lloyd-Max's error, TurboQuant's bounds, ITQ3_S's norms."""

from math import erf, exp, pi, sqrt

import numpy as np
import pytest

from qcompile.format_rotations import rounds_of
from qcompile.formats import FORMATS, Format, get
from qcompile.formats.format import Turns
from qcompile.numerics.hadamard import Hadamard
from qcompile.observers.weight_range import code_weight
from qcompile.spec import QuantSpec

# Max 1960, table I; Zandieh et al. 2025, section 3.1: the squared error of the levels of N(0, 1).
ERRORS = {1: 0.36338, 2: 0.11748, 3: 0.03455, 4: 0.00950}
TURNED = [f for f in FORMATS.values() if f.turns is not None]
D = 128


def turbo(x: np.ndarray, format: Format, seed: int = 0, rounds: int = 2) -> float:
    """The squared error of rows, relative to their norms, of codes by the norm."""
    turned = x
    for rotation in rounds_of(format, x.shape[1], seed)[:rounds]:
        turned = rotation.times(turned)
    narrow = turned.astype(np.float32)
    spec = QuantSpec(format, "axis", 0)
    found = code_weight(narrow, spec, "norm").decode()
    return float((((found - narrow) ** 2).sum(1) / (x**2).sum(1)).mean())


def inputs(kind: str, rows: int = 200) -> np.ndarray:
    """Rows [rows, D] of TurboQuant's checks."""
    rng = np.random.default_rng(5)
    if kind == "one-hot":
        return np.eye(D)[rng.integers(0, D, rows)]
    x = rng.standard_normal((rows, D))
    if kind == "outlier":
        x[:, 7] *= 20
    return np.exp(x) if kind == "log-normal" else x


def gauss_error(levels: np.ndarray) -> float:
    """E[(z − nearest level)²] of z from N(0, 1), exactly."""
    total, sorted_levels = 0.0, np.sort(np.unique(levels))
    ends = np.r_[-40, (sorted_levels[1:] + sorted_levels[:-1]) / 2, 40]
    density = [exp(-e * e / 2) / sqrt(2 * pi) for e in ends]
    below = [(1 + erf(e / sqrt(2))) / 2 for e in ends]
    for i, v in enumerate(sorted_levels):
        p, mean = below[i + 1] - below[i], density[i] - density[i + 1]
        second = p - (ends[i + 1] * density[i + 1] - ends[i] * density[i])
        total += second - 2 * v * mean + v * v * p
    return total


@pytest.mark.parametrize("bits", ERRORS)
def test_the_levels_are_those_of_lloyd_and_max(bits: int) -> None:
    format = get(f"tq{bits}")
    found = gauss_error(format.values * format.table_scale)
    assert ERRORS[bits] * 0.9999 <= found <= ERRORS[bits] * 1.0013  # the docstring's 0.12 %
    moved = np.array(format.values) * format.table_scale
    moved[0] -= 3 * format.table_scale if bits > 1 else 0.1  # one level broken
    assert gauss_error(moved) > ERRORS[bits] * 1.0013


@pytest.mark.parametrize("bits", ERRORS)
def test_the_error_is_that_of_the_paper(bits: int) -> None:
    """d = 128, ten rotations, within 2 %."""
    found = np.mean([turbo(inputs("gauss"), get(f"tq{bits}"), seed) for seed in range(10)])
    # Coordinates of a row with its own norm are those of a sphere: about 1 / d less than N(0, 1).
    assert abs(found / ERRORS[bits] - 1) < 0.02


@pytest.mark.parametrize("kind", ["gauss", "one-hot", "outlier", "log-normal"])
@pytest.mark.parametrize("bits", ERRORS)
def test_the_distortion_is_between_the_bounds(bits: int, kind: str) -> None:
    """4^-b ≤ D ≤ √3 π / 2 · 4^-b (theorems 1 and 3), whatever the input."""
    found = np.mean([turbo(inputs(kind), get(f"tq{bits}"), seed) for seed in range(10)])
    assert 4.0**-bits <= found <= sqrt(3) * pi / 2 * 4.0**-bits


def test_one_round_leaves_a_vector_of_one_entry_above_the_bound() -> None:
    found = turbo(inputs("one-hot"), get("tq2"), rounds=1)
    assert found > sqrt(3) * pi / 2 / 16
    assert found == pytest.approx(0.2605, abs=0.0005)  # (1 − 3 · unit of 0.151)²


@pytest.mark.parametrize("format", TURNED, ids=str)
@pytest.mark.parametrize("size", [2, 3, 64, 172, 255, 256, 257, 512, 1000])
def test_turning_keeps_norms_and_errors(format: Format, size: int) -> None:
    """‖w − ŵ‖ = ‖u − û‖, since every rotation is orthogonal; any size has one."""
    rng = np.random.default_rng(size)
    w, gap = rng.standard_normal((2, 5, size))
    u, turned_gap = w, gap
    for rotation in rounds_of(format, size, 3):
        assert rotation.size == size and rotation.block <= size
        u, turned_gap = rotation.times(u), rotation.times(turned_gap)
    for before, after in ((w, u), (gap, turned_gap)):
        norms = np.linalg.norm(before, axis=1)
        assert np.abs(np.linalg.norm(after, axis=1) - norms).max() <= 1e-12 * norms.max()
    x = rng.standard_normal((4, size))
    y = x
    for rotation in rounds_of(format, size, 3):
        y = rotation.times(y)
    np.testing.assert_allclose(y @ u.T, x @ w.T, rtol=0, atol=1e-12 * size)


def test_blocks_and_rounds() -> None:
    assert get("itq3").turns == Turns(256, 1) and get("tq3").turns == Turns(0, 2)
    first, second = rounds_of(get("tq3"), 172, 4)
    assert first.seed != second.seed and first.block == second.block == 128
    assert rounds_of(get("itq3"), 700, 4) == [Hadamard(700, 256, 4)]


@pytest.mark.parametrize(
    ("kind", "plain", "turned"),
    [("student", 0.164, 0.034), ("outliers", 0.354, 0.034)],
)
def test_a_turned_block_has_the_error_of_normal_ones(
    kind: str, plain: float, turned: float
) -> None:
    """ITQ3_S: eight levels of 256 weights, their own rotation, against the same levels without."""
    rng = np.random.default_rng(1)
    w = rng.standard_t(3, (400, 256)) if kind == "student" else rng.standard_normal((400, 256))
    if kind == "outliers":
        w *= np.where(rng.random(w.shape) < 0.01, 15, 1)
    spec = QuantSpec(get("itq3"), "block", 1, 256, True, "f16")
    errors = []
    for x in (w, Hadamard(256, 256, 0).times(w)):
        narrow = x.astype(np.float32)
        found = code_weight(narrow, spec, "mse").decode()
        errors.append(float(((found - narrow) ** 2).sum() / (narrow**2).sum()))
    assert errors[1] < 0.05 and errors[1] < 0.6 * errors[0]
    assert errors[1] == pytest.approx(turned, rel=0.25) and errors[0] < plain
