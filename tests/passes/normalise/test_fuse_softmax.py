# SPDX-License-Identifier: Apache-2.0
"""Exponentials divided by their sum are a Softmax."""

import numpy as np
import pytest

from qcompile.graph import attribute
from qcompile.passes.normalise.fuse_reciprocal_into_div import FuseReciprocalIntoDiv
from qcompile.passes.normalise.fuse_softmax import FuseSoftmax
from qcompile.passes.normalise.remove_unused import RemoveUnused
from tests.passes.graphs import assert_left_alone, parse, run

HEAD = "f (float[2,3,4] x) => (float[2,3,4] y) <int64[1] last = {-1}, int64[2] two = {1, 2}>"
FORMS = {
    "with the maximum": """{ m = ReduceMax <axes = [-1]> (x)   d = Sub (x, m)   e = Exp (d)
    s = ReduceSum (e, last)   y = Div (e, s) }""",
    "without": "{ e = Exp (x)   s = ReduceSum (e, last)   y = Div (e, s) }",
    "by the reciprocal": """{ e = Exp (x)   s = ReduceSum (e, last)   r = Reciprocal (s)
    y = Mul (e, r) }""",
}


@pytest.mark.parametrize("body", FORMS.values(), ids=FORMS)
def test_forms(body: str) -> None:
    before, after = parse(HEAD + body), parse(HEAD + body)
    for each in (FuseReciprocalIntoDiv(), FuseSoftmax(), RemoveUnused()):
        each(after)
    assert [n.op_type for n in after.graph] == ["Softmax"]
    assert attribute(after.graph[0], "axis") == 2
    feed = {"x": np.random.default_rng(0).standard_normal((2, 3, 4)).astype(np.float32)}
    left, right = run(before, feed)[0], run(after, feed)[0]
    # Two exponentials within 4 units, a sum of 4 and a quotient, on both sides.
    limit = 2 * (4 + 4 + 1) * 2.0**-24 * left
    assert (np.abs(left - right) <= limit).all()
    assert (np.abs(left * (1 + 2.0**-18) - right) > limit).any()


def test_another_maximum_stays() -> None:
    """Over another axis it is no part of the Softmax, but may be in front of it."""
    text = HEAD + FORMS["with the maximum"].replace("[-1]> (x)", "[1]> (x)")
    model = parse(text)
    FuseSoftmax()(model)
    RemoveUnused()(model)
    assert [n.op_type for n in model.graph] == ["ReduceMax", "Sub", "Softmax"]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (
            "{ e = Exp (x)   s = ReduceSum (e, two)   y = Div (e, s) }",
            "its sum is over more axes than one, or over axes that are not known",
        ),
        (
            """{ t = Transpose <perm = [2, 1, 0]> (x)   e = Exp (t)
            s = ReduceSum <keepdims = 0> (e, last)   q = Div (e, s)
            y = Transpose <perm = [2, 1, 0]> (q) }""".replace("x)", "c)").replace(
                "{ t", "{ c = Slice (x, two, two, two)   t", 1
            ),
            "its sum has lost its axis",
        ),
        ("{ e = Exp (x)   s = ReduceSum (x, last)   y = Div (e, s) }", None),
        ("{ e = Sigmoid (x)   s = ReduceSum (e, last)   y = Div (e, s) }", None),
    ],
)
def test_left_alone(body: str, reason: str | None) -> None:
    assert_left_alone(FuseSoftmax(), HEAD + body, reason)
