# SPDX-License-Identifier: Apache-2.0
"""BatchNormalization is a product and a sum; powers of two keep this exact."""

import numpy as np
import pytest

from qcompile.passes.normalise.split_batch_norm import SplitBatchNorm
from tests.passes.graphs import assert_left_alone, assert_rewritten, feeds, parse, run

NORM = "float[2] s = {4, 2}, float[2] b = {1, -1}, float[2] m = {3, -2}, float[2] v = {4, 16}"


@pytest.mark.parametrize(("lead", "ones"), [("", ""), (",4", ",1"), (",3,5", ",1,1")])
def test_ranks(lead: str, ones: str) -> None:
    assert_rewritten(
        SplitBatchNorm(),
        f"""f (float[3,2{lead}] x) => (float[3,2{lead}] y) <{NORM}>
        {{ y = BatchNormalization <epsilon = 0.0> (x, s, b, m, v) }}""",
        f"""f (float[3,2{lead}] x) => (float[3,2{lead}] y)
        <float[2{ones}] y_factor = {{2, 0.5}}, float[2{ones}] y_shift = {{-5, 0}}>
        {{ y_scaled = Mul (x, y_factor)   y = Add (y_scaled, y_shift) }}""",
    )


def test_a_wrong_factor_is_seen() -> None:
    before = parse(
        f"""f (float[3,2] x) => (float[3,2] y) <{NORM}>
        {{ y = BatchNormalization <epsilon = 0.0> (x, s, b, m, v) }}"""
    )
    after = before.clone()
    SplitBatchNorm()(after)
    after.graph.initializers["y_factor"].const_value.numpy()[0] += 2.0**-10
    feed = feeds(before, 0)
    assert not np.array_equal(run(before, feed)[0], run(after, feed)[0])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            f"""f (float[3,2] x) => (float[3,2] y) <{NORM}>
            {{ y, n, o = BatchNormalization <training_mode = 1> (x, s, b, m, v) }}""",
            "training mode",
        ),
        (
            """f (float[3,2] x, float[2] s) => (float[3,2] y)
            { y = BatchNormalization (x, s, s, s, s) }""",
            "a statistic is not constant",
        ),
        (
            f"""f (float[n] x, int64[k] t) => (float z) <{NORM}>
            {{ r = Reshape (x, t)   y = BatchNormalization (r, s, b, m, v)
               z = ReduceSum <keepdims = 0> (y) }}""",
            "the rank of its input is not known",
        ),
    ],
)
def test_left_alone(text: str, reason: str) -> None:
    assert_left_alone(SplitBatchNorm(), text, reason)
