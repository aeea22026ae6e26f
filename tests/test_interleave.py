# SPDX-License-Identifier: Apache-2.0
"""The noise guard of the benchmarks: no verdict where the spread holds the threshold."""

import numpy as np

from benchmarks.interleave import FEWEST_ROUNDS, Candidate, Ratio, measure
from qcompile.measure import median_interval


def test_a_verdict_needs_an_interval_on_one_side() -> None:
    ratio = Ratio.of(np.linspace(0.9, 1.1, 101))
    assert ratio.low < 1.0 < ratio.high
    assert [ratio.verdict(t) for t in (1.2, 1.0, 0.8)] == ["reached", "too noisy", "missed"]


def test_order_alternates_and_copies_rotate() -> None:
    seen: list[str] = []
    runs = [lambda: seen.append("a0"), lambda: seen.append("a1")]
    times = measure([Candidate("a", runs), Candidate("b", [lambda: seen.append("b")])], 3)
    first, rounds = seen[:3], seen[3:]
    assert first == ["a0", "a1", "b"]  # all once, not timed
    assert rounds == ["b", "a0", "a1", "b", "b", "a0"]
    assert {name: len(row) for name, row in times.items()} == {"a": 3, "b": 3}


def test_rounds_end_with_the_time_but_not_before_the_fewest() -> None:
    candidates = [Candidate("a", [lambda: None])]
    for rounds, seconds, expected in ((3, 0.0, 3), (99, 0.0, FEWEST_ROUNDS), (99, 60.0, 99)):
        assert len(measure(candidates, rounds, seconds)["a"]) == expected
    assert median_interval(FEWEST_ROUNDS) == (4, 11)
