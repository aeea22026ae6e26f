# SPDX-License-Identifier: Apache-2.0
"""Timing candidates in one loop, and what may be said about them in spite of the noise."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnxruntime as ort

from qcompile.measure import median_interval
from qcompile.session import session_options

FEWEST_ROUNDS = 16  # the interval is then that from the 5th to the 12th of them


@dataclass(frozen=True)
class Candidate:
    """Runs that are rotated through; a time counts `scale` fold (probes do other amounts)."""

    name: str
    runs: Sequence[Callable[[], object]]
    scale: float = 1.0


@dataclass(frozen=True)
class Ratio:
    """A median, and where it lies with 95 % confidence."""

    median: float
    low: float
    high: float

    @staticmethod
    def of(values: np.ndarray) -> "Ratio":
        """Of a sample, by its order alone.

        >>> Ratio.of(np.array([3.0, 1.0, 2.0, 5.0, 4.0]))
        Ratio(median=3.0, low=1.0, high=5.0)
        """
        ordered = np.sort(values)
        low, high = median_interval(len(ordered))
        return Ratio(float(np.median(ordered)), float(ordered[low]), float(ordered[high]))

    def verdict(self, threshold: float) -> str:
        """Whether the median is at most the threshold, where the spread lets one say so.

        >>> [Ratio(1.0, 0.9, 1.1).verdict(t) for t in (1.2, 1.05, 0.8)]
        ['reached', 'too noisy', 'missed']
        """
        if self.high <= threshold:
            return "reached"
        return "missed" if self.low > threshold else "too noisy"


def idle_options(threads: int) -> ort.SessionOptions:
    """qcompile's options, but threads wait after a run: they take no time from what runs next."""
    options = session_options(threads)
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return options


def measure(
    candidates: Sequence[Candidate], rounds: int, seconds: float = math.inf
) -> dict[str, np.ndarray]:
    """Seconds of every round by name; each round runs all, in an order that alternates.

    First everything runs once, for a session's first run is slower. After `seconds` the rounds
    end where there are FEWEST_ROUNDS.
    """
    for run in (run for each in candidates for run in each.runs):
        run()
    times: dict[str, list[float]] = {each.name: [] for each in candidates}
    end = time.perf_counter() + seconds
    for turn in range(rounds):
        if turn >= FEWEST_ROUNDS and time.perf_counter() > end:
            break
        for each in candidates if turn % 2 else reversed(candidates):
            run = each.runs[turn % len(each.runs)]
            start = time.perf_counter()
            run()
            times[each.name].append((time.perf_counter() - start) * each.scale)
    return {name: np.array(row) for name, row in times.items()}
