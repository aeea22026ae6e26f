# SPDX-License-Identifier: Apache-2.0
"""Scales of ternary weights: the optimum against every choice, the two statistics by hand."""

import numpy as np
import pytest

from qcompile.observers.ternary_scale import STATISTICS, ternary_scale
from qcompile.observers.weight_range import code_weight
from qcompile.spec import QuantSpec

TEXT = "ternary/block(axis=1,size=160)/sym/f32"


def test_the_optimum_is_that_of_all_choices() -> None:
    """Of every set of weights that are ±1: the mean of their magnitudes is its best scale."""
    rng = np.random.default_rng(0)
    for _ in range(50):
        sizes = np.abs(rng.standard_normal(7) ** 3)
        chosen = (np.arange(1, 2**7)[:, None] >> np.arange(7) & 1).astype(bool)
        gains = (chosen * sizes).sum(1) ** 2 / chosen.sum(1)
        best = chosen[np.argmax(gains)]
        found = ternary_scale(sizes[None, None].astype(np.float32), "mse").item()
        assert found == pytest.approx(sizes[best].mean(), rel=1e-6)


@pytest.mark.parametrize("method", ["mse", *STATISTICS])
def test_what_fills_a_block_up_and_zeros_count_for_nothing(method: str) -> None:
    part = np.array([[1, -3, 2, 0.5, 4]], np.float32)
    filled = np.concatenate([part, np.full((1, 3), np.nan, np.float32)], axis=1)
    assert ternary_scale(filled[None], method) == ternary_scale(part[None], method)
    assert ternary_scale(np.zeros((1, 1, 4), np.float32), method).item() == 1


def test_codes_of_both_papers() -> None:
    """BitNet b1.58 and its Reloaded: clip(round(w / s), −1, 1), s of every block."""
    weight = np.random.default_rng(1).standard_normal((6, 400)).astype(np.float32)
    for method, statistic in (("absmean", np.mean), ("absmedian", np.median)):
        coded = code_weight(weight, QuantSpec.parse(TEXT), method)
        for first in (0, 160, 320):
            part = weight[:, first : first + 160]
            scale = statistic(np.abs(part), axis=1, keepdims=True)
            codes = np.clip(np.rint(part / scale), -1, 1)
            assert np.array_equal(coded.codes[:, first : first + 160], codes)
            held = coded.scale[:, first // 160 : first // 160 + 1]
            np.testing.assert_allclose(held, scale, rtol=2e-7)


@pytest.mark.parametrize("method", STATISTICS)
def test_other_formats_are_searched_for(method: str) -> None:
    weight = np.random.default_rng(2).standard_normal((4, 64)).astype(np.float32)
    for text in ("int4/axis(axis=0)/sym/f32", "uint2/axis(axis=0)/asym/f32"):
        found, searched = (code_weight(weight, QuantSpec.parse(text), m) for m in (method, "mse"))
        assert np.array_equal(found.codes, searched.codes)


@pytest.mark.parametrize(("name", "largest"), [("int2", 1), ("int3", 3), ("ternary", 1)])
def test_ranges_far_below_the_extreme_are_searched(name: str, largest: int) -> None:
    """Of long rows: no worse than any range that is tried, and better than the near ones."""
    near, far = (1, 0.85, 0.7, 0.6, 0.5), (0.42, 0.35, 0.29, 0.24, 0.2, 0.165, 0.135)
    weight = np.random.default_rng(3).laplace(size=(8, 2048)).astype(np.float32)
    coded = code_weight(weight, QuantSpec.parse(f"{name}/axis(axis=0)/sym/f32"), "mse")
    lost = np.square(coded.decode() - weight.astype(np.float64)).sum(1)
    top = np.abs(weight).max(1, keepdims=True)

    def best(shares: tuple[float, ...]) -> np.ndarray:
        found = []
        for share in shares:
            scale = (top * np.float32(share) / np.float32(largest)).astype(np.float64)
            codes = np.clip(np.rint(weight / scale), -largest, largest)
            found.append(np.square(codes * scale - weight).sum(1))
        return np.min(found, axis=0)

    # The search compares float32 sums: of n squares each is off by at most (n + 3) units of 2^-24.
    rounding = 2 * (2048 + 3) * 2.0**-24 * best(far)
    assert (lost <= best(far) + rounding).all()
    assert (lost < best(near) - rounding).all()
