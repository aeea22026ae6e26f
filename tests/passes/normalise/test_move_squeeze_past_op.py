# SPDX-License-Identifier: Apache-2.0
"""A Squeeze of the height moves down to the next Unsqueeze, and both go."""

import pytest

from qcompile.passes.normalise.move_squeeze_past_op import MoveSqueezePastOp
from tests.passes.graphs import (
    assert_equal_outputs,
    assert_left_alone,
    assert_rewritten,
    parse,
)

HEIGHT = "int64[1] h = {2}"


def between(text: str, constants: str, output: str) -> str:
    """x, its Squeeze s, the text, and the Unsqueeze of r."""
    return f"""f (float[1,2,1,4] x) => ({output}) <{HEIGHT}{constants}>
    {{ s = Squeeze (x, h)   {text}   y = Unsqueeze (r, h) }}"""


@pytest.mark.parametrize(
    ("text", "constants"),
    [
        ("r = Relu (s)", ""),
        ("r = Clip (s, a)", ", float a = {0}"),
        ("r = Add (s, s)", ""),
        ("r = Mul (s, a)", ", float a = {2}"),
        ("r = Sub (a, s)", ", float[4] a = {1, 2, 3, 4}"),
        ("r = Add (s, a)", ", float[2,1] a = {1, 2}"),
        ("r = Add (s, a)", ", float[1,2,4] a = {1, 2, 3, 4, 5, 6, 7, 8}"),
        ("t = Neg (s)   r = Max (s, t)", ""),
        ("t = Neg (s)   c = Concat <axis = 1> (s, t)   r = Relu (c)", ""),
        ("t = Neg (s)   c = Concat <axis = -2> (s, t)   r = Abs (c)", ""),
    ],
)
def test_ops(text: str, constants: str) -> None:
    whole = between(text, constants, "float[1,c,1,4] y")
    model = parse(whole)
    assert MoveSqueezePastOp()(model).modified
    used = [n for n in model.graph if n.op_type == "Squeeze" and n.outputs[0].uses()]
    assert not used and "Unsqueeze" not in [n.op_type for n in model.graph]
    assert_equal_outputs(parse(whole), model)


def test_names_stay() -> None:
    assert_rewritten(
        MoveSqueezePastOp(),
        f"""f (float[1,2,1,4] x) => (float[1,2,4] y) <{HEIGHT}>
        {{ s = Squeeze (x, h)   y = Relu (s) }}""",
        """f (float[1,2,1,4] x) => (float[1,2,4] y) <int64[1] y_height = {2}>
        { y_high = Relu (x)   y = Squeeze (y_high, y_height) }""",
    )


def test_a_graph_output_of_the_squeezed_value() -> None:
    text = f"""f (float[1,2,1,4] x) => (float[1,2,1,4] c, float[1,2,1,4] y) <{HEIGHT}>
    {{ c = Relu (x)   s = Squeeze (c, h)   y = Unsqueeze (s, h) }}"""
    model = parse(text)
    MoveSqueezePastOp()(model)
    assert [v.name for v in model.graph.outputs] == ["c", "y"]
    assert_equal_outputs(parse(text), model)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            f"""f (float[1,2,1,4] x, float[1,2,4] z) => (float[1,2,4] y) <{HEIGHT}>
            {{ s = Squeeze (x, h)   y = Add (s, z) }}""",
            "z has no Squeeze",
        ),
        (
            f"""f (float[1,2,1,4] x) => (float[1,2,8] y) <{HEIGHT}>
            {{ s = Squeeze (x, h)   y = Concat <axis = 2> (s, s) }}""",
            "it joins another axis than the channels",
        ),
        (
            f"""f (float[1,2,1,4] x) => (float[5,1,2,4] y) <{HEIGHT},
            float[5,1,1,1] a = {{1, 2, 3, 4, 5}}> {{ s = Squeeze (x, h)   y = Add (s, a) }}""",
            "a has more than 3 dimensions",
        ),
        (
            """f (float[1,1,2,4] x) => (float[1,2,4] y) <int64[1] h = {1}>
            { s = Squeeze (x, h)   y = Relu (s) }""",
            None,
        ),
        (
            f"""f (float[1,2,1,4] x) => (float[1,2,4,1] y) <{HEIGHT}, int64[1] e = {{3}}>
            {{ s = Squeeze (x, h)   y = Unsqueeze (s, e) }}""",
            None,
        ),
        (
            f"""f (float[1,2,1,4] x) => (float[1,2,4] y) <{HEIGHT}>
            {{ s = Squeeze (x, h)   y = Softmax <axis = 1> (s) }}""",
            None,
        ),
    ],
)
def test_left_alone(text: str, reason: str | None) -> None:
    assert_left_alone(MoveSqueezePastOp(), text, reason)
