# SPDX-License-Identifier: Apache-2.0
"""What does not depend on the inputs is computed once."""

import numpy as np
import pytest

from qcompile.graph import add_initializer
from qcompile.passes.normalise.fold_constants import FoldConstants
from tests.passes.graphs import assert_left_alone, assert_rewritten, parse


def test_a_chain_becomes_one_constant() -> None:
    assert_rewritten(
        FoldConstants(),
        """f (float[2] x) => (float[2] y) <float[2] a = {1, 2}, float[2] b = {3, 4}>
        { c = Add (a, b)   d = Neg (c)   y = Mul (x, d) }""",
        "f (float[2] x) => (float[2] y) <float[2] d = {-4, -6}> { y = Mul (x, d) }",
    )


def test_constant_nodes_become_initializers() -> None:
    assert_rewritten(
        FoldConstants(),
        """f (float[2] x) => (float[2] y)
        { c = Constant <value = float[2] {1, 2}> ()   y = Mul (x, c) }""",
        "f (float[2] x) => (float[2] y) <float[2] c = {1, 2}> { y = Mul (x, c) }",
    )


def test_scalars_of_every_attribute_form() -> None:
    assert_rewritten(
        FoldConstants(),
        """f (float[2,3] x) => (float[3,2] y)
        { c = Constant <value_ints = [3, 2]> () y = Reshape (x, c) }""",
        "f (float[2,3] x) => (float[3,2] y) <int64[2] c = {3, 2}> { y = Reshape (x, c) }",
    )


def test_a_shape_that_is_known_is_a_constant() -> None:
    assert_rewritten(
        FoldConstants(),
        "f (float[2,3] x, float[6] z) => (float[2,3] y) { s = Shape (x)  y = Reshape (z, s) }",
        """f (float[2,3] x, float[6] z) => (float[2,3] y)
        <int64[2] s = {2, 3}> { y = Reshape (z, s) }""",
    )


def test_a_cast_like_keeps_its_attributes() -> None:
    assert_rewritten(
        FoldConstants(),
        """<ir_version: 10, opset_import: ["": 19]>
        f (float[2] x, float8e4m3fn[1] z) => (float8e4m3fn[2] y)
        { y = CastLike <saturate = 0> (x, z) }""",
        """<ir_version: 10, opset_import: ["": 19]>
        f (float[2] x, float8e4m3fn[1] z) => (float8e4m3fn[2] y)
        { y = Cast <saturate = 0, to = 17> (x) }""",
    )


@pytest.mark.parametrize(
    "text",
    [
        "f (float[2] x) => (float[2] y) <float[2] a = {1, 2}> { y = Mul (x, a) }",
        """f (float[2] x) => (float[2] y)
        { r = RandomNormal <shape = [2], seed = 1.0> ()   y = Mul (x, r) }""",
        """f (float[2] x) => (float[2] y) <int8[2] q = {1, 2}, float s = {0.5}, int8 z = {0}>
        { w = DequantizeLinear (q, s, z)   y = Mul (x, w) }""",
        "f (float[n,3] x) => (int64[2] y) { y = Shape (x) }",
    ],
    ids=["nothing constant", "random", "codes", "free dimension"],
)
def test_left_alone(text: str) -> None:
    assert_left_alone(FoldConstants(), text)


@pytest.mark.parametrize(("limit", "folded"), [(1 << 18, True), ((1 << 18) - 1, False)])
def test_the_limit(monkeypatch: pytest.MonkeyPatch, limit: int, folded: bool) -> None:
    model = parse(
        "f (float[65536] x, float[65536] i) => (float[65536] y) { c = Neg (i)   y = Mul (x, c) }"
    )
    weight = add_initializer(model.graph, "w", np.ones(65536, np.float32))
    next(iter(model.graph)).replace_input_with(0, weight)
    monkeypatch.setattr("qcompile.passes.normalise.fold_constants._LIMIT_BYTES", limit)
    assert FoldConstants()(model).modified == folded
    assert [n.op_type for n in model.graph] == (["Mul"] if folded else ["Neg", "Mul"])


def test_an_initializer_that_is_an_input_becomes_a_constant() -> None:
    # Files of IR version 3 list every initializer among the inputs.
    assert_rewritten(
        FoldConstants(),
        "f (float[2] x, float[2] a) => (float[2] y) <float[2] a = {1, 2}> { y = Mul (x, a) }",
        "f (float[2] x) => (float[2] y) <float[2] a = {1, 2}> { y = Mul (x, a) }",
        is_runnable=False,
    )
