# SPDX-License-Identifier: Apache-2.0
"""Measuring speed: two sessions on the same input, interleaved, so that noise hits both."""

import time

import numpy as np
import onnxruntime as ort

from qcompile.data import Feed

SECONDS = 1.0  # of measuring, at least 5 runs


def measure_speed(
    float_session: ort.InferenceSession,
    session: ort.InferenceSession,
    feed: Feed,
    seconds: float | None = None,
) -> dict[str, float]:
    """Median milliseconds of both on one sample (or one fixed batch); ratio = float ÷ compiled."""
    one = _smallest(float_session, feed)
    for each in (float_session, session):
        each.run(None, one)
    times: tuple[list[float], list[float]] = ([], [])
    end = time.perf_counter() + (SECONDS if seconds is None else seconds)
    while time.perf_counter() < end or len(times[0]) < 5:
        for each, row in zip((float_session, session), times, strict=True):
            start = time.perf_counter()
            each.run(None, one)
            row.append(time.perf_counter() - start)
    before, after = (float(np.median(row)) * 1000 for row in times)
    return {
        "float_ms": before,
        "compiled_ms": after,
        "ratio": before / after,
        "runs": len(times[0]),
    }


def _smallest(session: ort.InferenceSession, feed: Feed) -> Feed:
    free = {i.name for i in session.get_inputs() if i.shape and not isinstance(i.shape[0], int)}
    return {k: v[:1] if k in free else v for k, v in feed.items()}
