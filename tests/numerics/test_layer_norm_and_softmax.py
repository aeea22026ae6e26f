# SPDX-License-Identifier: Apache-2.0
"""Normalised rows and Softmax of codes: N28, N29, against loops and against the real numbers."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from qcompile.numerics.layer_norm import qlayer_norm
from qcompile.numerics.softmax import ONE, exp_table, qsoftmax
from tests.numerics import loops

ROWS = [(1, 1), (3, 2), (2, 65), (1, 4097), (2, 3, 17), (0, 5)]
UNIT = 2.0**-24  # the rounding of an f32


def codes_of(shape: tuple[int, ...], kind: str) -> NDArray[np.uint8]:
    rng = np.random.default_rng(len(kind))
    if kind == "extreme":
        return rng.choice(np.uint8([0, 255]), shape)
    return (
        np.full(shape, 77, np.uint8) if kind == "equal" else rng.integers(0, 256, shape, np.uint8)
    )


KINDS = pytest.mark.parametrize("kind", ["random", "extreme", "equal"])


@KINDS
@pytest.mark.parametrize("shape", ROWS)
@pytest.mark.parametrize("is_centred", [True, False])
def test_layer_norm_by_loops(shape: tuple[int, ...], kind: str, is_centred: bool) -> None:  # N28
    rng, k = np.random.default_rng(3), shape[-1]
    x = codes_of(shape, kind)
    gamma, beta = (rng.normal(0, 40, k).astype(np.float32) for _ in range(2))
    found = qlayer_norm(x, gamma, beta, 1e-3, 9, 120, 3, 250, is_centred=is_centred)
    epsilon = float(np.float32(1e-3)) * k * k
    for row, codes in zip(x.reshape(-1, k).tolist(), found.reshape(-1, k).tolist(), strict=True):
        centre = sum(row) if is_centred else 9 * k
        spread = k * sum(c * c for c in row) - sum(row) ** 2
        spread = spread if is_centred else k * sum((c - 9) ** 2 for c in row)
        inverse = np.float32(1 / math.sqrt(spread + epsilon))
        for i, code in enumerate(codes):
            normal = np.float32(k * row[i] - centre) * inverse
            value = np.float32(normal * gamma[i]) + beta[i]
            expected = loops.round_half_even(float(value)) + 120
            assert code == min(max(expected, 3), 250)


@KINDS
@pytest.mark.parametrize("is_centred", [True, False])
def test_layer_norm_is_the_nearest_code(kind: str, is_centred: bool) -> None:  # N28
    """Five f32 roundings from the real number: of K·c − C, the root, two products and the sum."""
    rng, k, scale, y_scale = np.random.default_rng(5), 193, 0.031, 0.02
    x = codes_of((40, k), kind)
    gamma, beta = rng.normal(1, 0.2, k), rng.normal(0, 0.2, k)
    real = (x.astype(np.float64) - 100) * scale
    centred = real - real.mean(-1, keepdims=True) if is_centred else real
    wanted = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * gamma + beta
    stored = [(v / y_scale).astype(np.float32) for v in (gamma, beta)]
    found = qlayer_norm(x, *stored, 1e-5 / scale**2, 100, 128, is_centred=is_centred)
    terms = np.abs(wanted - beta) + np.abs(beta)
    bound = 0.5 + 8 * UNIT * terms / y_scale  # and of epsilon, gamma and beta, once each
    ideal = np.clip(wanted / y_scale + 128, 0, 255)
    assert (np.abs(found - ideal) <= bound).all()
    assert (np.abs(found + 1.0 - ideal) > bound).any()


def test_a_row_without_spread_is_beta() -> None:  # N28
    one = np.ones(4, np.float32)
    x = np.full((2, 4), 9, np.uint8)
    assert (qlayer_norm(x, one, 7 * one, 0.0, 9, 100, is_centred=True) == 107).all()
    assert (qlayer_norm(x, one, 7 * one, 0.0, 9, 100, is_centred=False) == 107).all()


@KINDS
@pytest.mark.parametrize("shape", ROWS)
@pytest.mark.parametrize("scale", [1e-4, 0.037, 3.0])
def test_softmax_by_loops(shape: tuple[int, ...], kind: str, scale: float) -> None:  # N29
    x, table = codes_of(shape, kind), exp_table(scale)
    found = qsoftmax(x, table, 255.0, 2, 1, 250)
    for row, codes in zip(
        x.reshape(-1, shape[-1]).tolist(), found.reshape(-1, shape[-1]).tolist(), strict=True
    ):
        exps = [int(table[max(row) - c]) for c in row]
        each = np.float32(255.0 / sum(exps))
        for value, code in zip(exps, codes, strict=True):
            expected = loops.round_half_even(float(np.float32(value) * each)) + 2
            assert code == min(max(expected, 1), 250)


@KINDS
@pytest.mark.parametrize("scale", [1e-4, 0.037, 3.0])
def test_softmax_is_the_nearest_code(kind: str, scale: float) -> None:  # N29
    """Half a unit of 2^-24 an entry of the table, and two f32 roundings."""
    k = 301
    x = codes_of((20, k), kind)
    exps = np.exp((x.astype(np.float64) - x.max(-1, keepdims=True)) * scale)
    wanted = exps / exps.sum(-1, keepdims=True) * 255
    found = qsoftmax(x, exp_table(scale), 255.0, 0)
    bound = 0.5 + 255 * UNIT / 2 + wanted * (k * UNIT / 2 + 3 * UNIT)
    assert (np.abs(found - wanted) <= bound).all()
    assert (np.abs(found + 1.0 - wanted) > bound).any()


@pytest.mark.parametrize("scale", [1e-30, 0.01, 1.0, 1e30])
def test_table_of_exponentials(scale: float) -> None:  # N29
    table = exp_table(scale)
    assert table[0] == ONE
    assert (np.diff(table) <= 0).all()
    expected = [loops.round_half_even(ONE * math.exp(max(-scale * d, -700))) for d in range(256)]
    assert np.abs(table - np.array(expected, np.float64)).max() <= 1  # libm may round another way
