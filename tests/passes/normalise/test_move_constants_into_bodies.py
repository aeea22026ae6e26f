# SPDX-License-Identifier: Apache-2.0
"""Constants that bodies read from outside, or carry unchanged, become their initializers."""

import numpy as np
import pytest

from qcompile.bodies import all_bodies, captured
from qcompile.passes.normalise.insert_names import InsertNames
from qcompile.passes.normalise.move_constants_into_bodies import MoveConstantsIntoBodies
from qcompile.session import open_model
from tests.passes.graphs import parse

NESTED = """f (bool c, int64 t, float[2] x) => (float[2] y)
<float[2] w = {1, 2}, float[2] v = {3, 4}>
{ y = Loop (t, , x) <body = b (int64 i, bool q, float[2] s) => (bool r, float[2] z)
    { r = Identity (q)
      z = If (c) <then_branch = t1 () => (float[2] d) { e = Mul (s, w) d = Add (e, v) },
                  else_branch = e1 () => (float[2] k) { k = Mul (s, v) }> }> }"""
CARRIED = """f (int64 t, float[2] x) => (float[2] y) <float[2] w = {1, 2}, float[2] v = {3, 4}>
{ y, w2, v2 = Loop (t, , x, w, v) <body = b (int64 i, bool q, float[2] s, float[2] u, float[2] p)
    => (bool r, float[2] z, float[2] u2, float[2] p2)
    { r = Identity (q) m = Mul (s, u) z = Mul (m, p) u2 = Identity (u) p2 = Neg (p) }> }"""
CASES = {"nested": NESTED, "carried": CARRIED}
FEED = {"c": np.array(True), "t": np.array(3), "x": np.array([5, 7], np.float32)}


@pytest.mark.parametrize("name", CASES)
def test_outputs_stay_and_no_constant_is_captured(name: str) -> None:
    model = parse(CASES[name])
    InsertNames()(model)
    inputs = {v.name for v in model.graph.inputs}
    feed = {n: a for n, a in FEED.items() if n in inputs}
    before = open_model(model).run(None, feed)
    assert MoveConstantsIntoBodies()(model).modified
    for body in all_bodies(model.graph):
        assert not any(v.is_initializer() and v.graph is model.graph for v in captured(body.graph))
    after = open_model(model).run(None, feed)
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))
    assert not MoveConstantsIntoBodies()(model).modified


def test_what_steps_hand_on_is_a_constant_of_the_body_and_what_they_change_is_not() -> None:
    model = parse(CARRIED)
    InsertNames()(model)
    MoveConstantsIntoBodies()(model)
    body = next(iter(all_bodies(model.graph)))
    muls = [n for n in body.graph if n.op_type == "Mul"]
    assert [v.const_value is not None for v in (muls[0].inputs[1], muls[1].inputs[1])] == [
        True,
        False,
    ]
