# SPDX-License-Identifier: Apache-2.0
"""One zero point and a scale for every bucket of time steps (N3)."""

import numpy as np
import pytest

from qcompile.formats import get
from qcompile.numerics.params import params_of_range, params_of_steps
from qcompile.numerics.quantize import SMALLEST_SCALE

FORMATS = [get(name) for name in ("uint2", "uint4", "uint8")]


@pytest.mark.parametrize("form", FORMATS, ids=str)
def test_equal_ranges_have_the_params_of_one(form) -> None:  # type: ignore[no-untyped-def]
    rng = np.random.default_rng(0)
    for low, high in [*rng.standard_normal((200, 2)) * 10.0, (0, 0), (0, 3), (-2, 0), (-1e-45, 0)]:
        one = params_of_range(low, high, form)
        found = params_of_steps([(low, high)] * 3, form)
        assert (found.scale, found.zero_point) == (one.scale, one.zero_point)
        assert found.steps is not None and found.steps.tolist() == [np.float32(one.scale)] * 3


@pytest.mark.parametrize("form", FORMATS, ids=str)
def test_every_range_is_held_by_the_least_scale(form) -> None:  # type: ignore[no-untyped-def]
    """To half a code: that is what the zero point of a range is rounded by; and never by less."""
    rng = np.random.default_rng(1)
    for _ in range(200):
        ranges = np.sort(rng.standard_normal((5, 2)) * rng.lognormal(0, 2, (5, 1)), axis=1)
        found = params_of_steps([(float(a), float(b)) for a, b in ranges], form)
        assert found.steps is not None and found.steps.dtype == np.float32
        assert found.scale == found.steps.max()
        lows, highs = np.minimum(ranges[:, 0], 0), np.maximum(ranges[:, 1], 0)
        low_codes = lows / found.steps + found.zero_point
        high_codes = highs / found.steps + found.zero_point
        half = 0.5 + 1e-6 * form.code_max
        assert (low_codes >= -half).all() and (high_codes <= form.code_max + half).all()
        ideal = (highs - lows) / form.code_max
        assert (found.steps >= ideal * (1 - 1e-6)).all()
        ends = np.minimum(low_codes, form.code_max - high_codes)
        assert (ends <= half).all()  # a smaller scale would clip


@pytest.mark.parametrize("form", FORMATS, ids=str)
def test_no_other_zero_point_is_better(form) -> None:  # type: ignore[no-untyped-def]
    rng = np.random.default_rng(2)
    for _ in range(20):
        ranges = np.c_[-rng.lognormal(0, 1, 4), rng.lognormal(0, 1, 4)]
        found = params_of_steps([tuple(r) for r in ranges.tolist()], form)
        own = [params_of_range(a, b, form) for a, b in ranges.tolist()]
        ideal = np.array([p.scale for p in own])
        costs = []
        for point in range(form.code_max + 1):
            scales = []
            for (low, high), alone in zip(ranges, own, strict=True):
                below = -low / point if point else np.inf
                above = high / (form.code_max - point) if point < form.code_max else np.inf
                scales.append(alone.scale if point == alone.zero_point else max(below, above))
            costs.append(float(np.square(np.array(scales) / ideal).sum()))
        assert found.zero_point == int(np.argmin(costs))


def test_codes_of_one_sign_use_all_codes() -> None:
    found = params_of_steps([(0.0, 15.0), (0.0, 1.5), (0.5, 30.0)], get("uint4"))
    assert found.zero_point == 0 and found.steps is not None
    np.testing.assert_array_equal(found.steps, np.float32([1, 0.1, 2]))


def test_a_bucket_of_zeros_takes_no_part() -> None:
    found = params_of_steps([(0.0, 0.0), (-1.0, 14.0)], get("uint4"))
    assert found.zero_point == 1 and found.steps is not None
    assert found.steps.tolist() == [1.0, 1.0]
    tiny = params_of_steps([(-1e-44, 1e-44)], get("uint4"))
    assert tiny.steps is not None and tiny.steps[0] == SMALLEST_SCALE
