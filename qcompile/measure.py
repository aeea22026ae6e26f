# SPDX-License-Identifier: Apache-2.0
"""Measuring speed: two sessions on the same input, interleaved, so that noise hits both."""

import time
from typing import Any

import numpy as np
import onnxruntime as ort

from qcompile.data import Feed

SECONDS = 1.0  # of measuring, at least 5 runs
# Where no time is asked for, so many runs are enough: the ratio's interval is then that between
# the 228th and the 271st of them.
ENOUGH_RUNS, ENOUGH_SECONDS = 500, 0.25


def measure_speed(
    float_session: ort.InferenceSession,
    session: ort.InferenceSession,
    feed: Feed,
    seconds: float | None = None,
    *,
    whole: bool = False,
) -> dict[str, Any]:
    """Median milliseconds of both on one sample (`whole`: on the whole feed).

    ratio: the median of float ÷ compiled over pairs of runs that follow each other; ratio_interval:
    where the true median lies with 95 % confidence, from the pairs' order (no shape is assumed).
    """
    one = feed if whole else _smallest(float_session, feed)
    sessions = (float_session, session)
    for each in sessions:
        each.run(None, one)
    times: tuple[list[float], list[float]] = ([], [])
    began = time.perf_counter()
    while not _is_enough(time.perf_counter() - began, len(times[0]), seconds):
        first = len(times[0]) % 2  # neither always follows the other
        for which in (first, 1 - first):
            start = time.perf_counter()
            sessions[which].run(None, one)
            times[which].append(time.perf_counter() - start)
    before, after = (float(np.median(row)) * 1000 for row in times)
    ratios = np.sort(np.divide(*times))
    return {
        "float_ms": before,
        "compiled_ms": after,
        "ratio": float(np.median(ratios)),
        "ratio_interval": [float(ratios[i]) for i in median_interval(len(ratios))],
        "runs": len(ratios),
    }


def _is_enough(elapsed: float, count: int, seconds: float | None) -> bool:
    if seconds is None and count >= ENOUGH_RUNS and elapsed >= ENOUGH_SECONDS:
        return True
    return count >= 5 and elapsed >= (SECONDS if seconds is None else seconds)


def median_interval(count: int) -> tuple[int, int]:
    """Places in a sorted sample between which the median lies with 95 % confidence.

    The number of values below the median is binomial (count, 1/2), whose deviation is √count / 2.

    >>> median_interval(100), median_interval(5)
    ((40, 59), (0, 4))
    """
    low = max(int(np.floor(count / 2 - 1.96 * np.sqrt(count) / 2)), 0)
    return low, count - 1 - low


def _smallest(session: ort.InferenceSession, feed: Feed) -> Feed:
    free = {i.name for i in session.get_inputs() if i.shape and not isinstance(i.shape[0], int)}
    return {k: v[:1] if k in free else v for k, v in feed.items()}
