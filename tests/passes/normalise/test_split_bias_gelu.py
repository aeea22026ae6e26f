# SPDX-License-Identifier: Apache-2.0
"""The bias of a fused activation goes to the product before it."""

import pytest

from qcompile.passes.normalise.split_bias_gelu import SplitBiasGelu
from tests.passes.graphs import assert_left_alone, assert_rewritten

HEAD = "f (float[2,2] x) => (float[2,2] y) <float[2] b = {1, 2}>"


def test_fast_gelu() -> None:
    assert_rewritten(
        SplitBiasGelu(),
        f"{HEAD} {{ y = com.microsoft.FastGelu (x, b) }}",
        f"{HEAD} {{ y_sum = Add (x, b)   y = com.microsoft.FastGelu (y_sum) }}",
    )


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (f"{HEAD} {{ y = com.microsoft.FastGelu (x) }}", None),
        (
            """f (float[2,2] x, float[2] c) => (float[2,2] y)
            { y = com.microsoft.BiasGelu (x, c) }""",
            "its bias is not constant",
        ),
    ],
)
def test_left_alone(text: str, reason: str | None) -> None:
    assert_left_alone(SplitBiasGelu(), text, reason)
