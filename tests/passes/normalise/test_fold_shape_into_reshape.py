# SPDX-License-Identifier: Apache-2.0
"""A shape that is read off the input becomes Reshape's 0."""

import numpy as np
import pytest

from qcompile.passes.normalise.fold_shape_into_reshape import FoldShapeIntoReshape
from tests.passes.graphs import (
    SEEDS,
    assert_equal_outputs,
    assert_left_alone,
    assert_rewritten,
    feeds,
    parse,
    run,
)

CONSTANTS = (
    "<int64 i0 = {0}, int64 i1 = {1}, int64[1] z = {0}, int64[1] one = {1}, int64[1] two = {2}, "
    "int64[1] six = {6}, int64[1] rest = {-1}>"
)
CASES = {
    "gather": "s = Shape (x) n = Gather (s, z) t = Concat <axis = 0> (n, six) y = Reshape (x, t)",
    "slice": "s = Shape (x) n = Slice (s, z, one) t = Concat <axis = 0> (n, rest) "
    "y = Reshape (x, t)",
    "cast": "s = Shape (x) c = Cast <to = 6> (s) d = Cast <to = 7> (c) n = Gather (d, z) "
    "t = Concat <axis = 0> (n, rest) y = Reshape (x, t)",
}


@pytest.mark.parametrize("body", CASES.values(), ids=CASES)
def test_a_free_batch(body: str) -> None:
    text = f"f (float[b,2,3] x) => (float[b,6] y) {CONSTANTS} {{ {body} }}"
    last = 6 if "six" in body else -1
    assert_rewritten(
        FoldShapeIntoReshape(),
        text,
        f"""f (float[b,2,3] x) => (float[b,6] y) <int64[2] y_shape = {{0, {last}}}>
        {{ y = Reshape (x, y_shape) }}""",
    )


def test_the_shape_of_another_value_with_the_same_sizes() -> None:
    text = f"""f (float[b,2,3] x, float[b,2] o) => (float[b,6] y) {CONSTANTS}
    {{ s = Shape (o)   n = Gather (s, z)   t = Concat <axis = 0> (n, six)   y = Reshape (x, t) }}"""
    model = parse(text)
    assert FoldShapeIntoReshape()(model).modified
    assert_equal_outputs(parse(text), model)


def test_batches_of_every_size_run() -> None:
    model = parse(f"f (float[b,2,3] x) => (float[b,6] y) {CONSTANTS} {{ {CASES['gather']} }}")
    FoldShapeIntoReshape()(model)
    for seed in SEEDS:
        feed = feeds(model, seed, {"b": seed + 1})
        assert np.array_equal(run(model, feed)[0], feed["x"].reshape(seed + 1, 6))


@pytest.mark.parametrize(
    ("head", "body", "reason"),
    [
        (
            "float[b,c,3] x) => (float[m,n] y)",
            "s = Shape (x) n = Gather (s, one) t = Concat <axis = 0> (n, rest) y = Reshape (x, t)",
            "size 0 is not the input's own size 0",
        ),
        (
            "float[b,2] x, float[c,2] o) => (float[m,n] y)",
            "s = Shape (o) n = Gather (s, z) t = Concat <axis = 0> (n, rest) y = Reshape (x, t)",
            "size 0 is not the input's own size 0",
        ),
        (
            "float[b,2,3] x, int64[2] t) => (float[m,n] y)",
            "y = Reshape (x, t)",
            "its shape is not computed from shapes",
        ),
        (
            "float[b,2,3] x) => (float[m,n] y)",
            "s = Shape (x) n = Gather (s, z) h = Mul (n, two) t = Concat <axis = 0> (h, rest) "
            "y = Reshape (x, t)",
            "its shape is not computed from shapes",
        ),
        (
            "float[b,2,3] x) => (float[m,n] y)",
            "s = Shape (x) n = Gather (s, z) t = Concat <axis = 0> (n, six) "
            "y = Reshape <allowzero = 1> (x, t)",
            "allowzero",
        ),
    ],
    ids=["another place", "another size", "an input", "arithmetic", "allowzero"],
)
def test_left_alone(head: str, body: str, reason: str) -> None:
    assert_left_alone(FoldShapeIntoReshape(), f"f ({head} {CONSTANTS} {{ {body} }}", reason)


def test_a_constant_shape_is_no_candidate() -> None:
    text = "f (float[b,2,3] x) => (float[b,6] y) <int64[2] t = {0, 6}> { y = Reshape (x, t) }"
    assert_left_alone(FoldShapeIntoReshape(), text)
