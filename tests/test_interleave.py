# SPDX-License-Identifier: Apache-2.0
"""The noise guard of the benchmarks: no verdict where the spread holds the threshold."""

import numpy as np

from benchmarks.interleave import Candidate, Ratio, measure


def test_a_verdict_needs_an_interval_on_one_side() -> None:
    ratio = Ratio.of(np.linspace(0.9, 1.1, 101))
    assert ratio.low < 1.0 < ratio.high
    assert [ratio.verdict(t) for t in (1.2, 1.0, 0.8)] == ["reached", "too noisy", "missed"]


def test_order_alternates_and_copies_rotate() -> None:
    seen: list[str] = []
    runs = [lambda: seen.append("a0"), lambda: seen.append("a1")]
    times = measure([Candidate("a", runs), Candidate("b", [lambda: seen.append("b")])], 2)
    assert seen == ["b", "a0", "a1", "b", "b", "a0", "a1", "b"]
    assert {name: len(row) for name, row in times.items()} == {"a": 2, "b": 2}
