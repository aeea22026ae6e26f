# SPDX-License-Identifier: Apache-2.0
"""Products and sums by channel go into the next convolution; powers of two are exact."""

import numpy as np
import pytest

from qcompile.passes.normalise.fold_affine_into_next_conv import FoldAffineIntoNextConv
from tests.passes.graphs import assert_equal_outputs, assert_left_alone, feeds, parse, run

W = "float[2,2,2,2] w = {1, 2, 3, 4, 5, 6, 7, 8, -1, -2, -3, -4, 0, 1, 0, 1}"


def conv(text: str, constants: str, apply: str = "Conv (c, w)", more: str = "") -> str:
    return f"""f (float[1,2,4,4] x) => (float[1,2,p,q] y{more}) <{W}, {constants}>
    {{ {text}   y = {apply} }}"""


def folded(text: str) -> None:
    model = parse(text)
    assert FoldAffineIntoNextConv()(model).modified
    assert [n.op_type for n in model.graph] == ["Conv"]
    assert_equal_outputs(parse(text), model)


@pytest.mark.parametrize(
    "op", ["Mul (x, s)", "Div (x, s)", "Add (s, x)", "Sub (x, s)", "Sub (s, x)"]
)
@pytest.mark.parametrize("shape", ["", "[1]", "[2,1,1]", "[1,2,1,1]"])
def test_each_op(op: str, shape: str) -> None:
    numbers = "{2, -4}" if "2" in shape else "{2}"
    folded(conv(f"c = {op}", f"float{shape} s = {numbers}"))


def test_a_factor_before_padding() -> None:
    folded(conv("c = Mul (x, s)", "float[2,1,1] s = {2, 4}", "Conv <pads = [1, 1, 1, 1]> (c, w)"))


def test_a_normalised_image_with_a_bias() -> None:
    constants = (
        "float v = {4}, float[2,1,1] m = {1, 2}, float[2,1,1] s = {2, 4}, float[2] b = {1, 2}"
    )
    folded(conv("d = Div (x, v)   e = Sub (d, m)   c = Div (e, s)", constants, "Conv (c, w, b)"))


@pytest.mark.parametrize("outputs", [2, 4])
def test_groups(outputs: int) -> None:
    numbers = ", ".join(str(i) for i in range(1, outputs + 1))
    folded(
        f"""f (float[1,2,4,4] x) => (float[1,{outputs},4,4] y)
        <float[{outputs},1,1,1] w = {{{numbers}}}, float[2,1,1] s = {{2, 4}},
         float[2,1,1] m = {{1, 3}}>
        {{ d = Add (x, m)   c = Mul (d, s)   y = Conv <group = 2> (c, w) }}"""
    )


def test_a_wrong_bias_is_seen() -> None:
    before = parse(conv("c = Add (x, s)", "float s = {2}"))
    after = before.clone()
    FoldAffineIntoNextConv()(after)
    after.graph.initializers["y_bias"].const_value.numpy()[0] += 1
    feed = feeds(before, 0)
    assert not np.array_equal(run(before, feed)[0], run(after, feed)[0])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (conv("c = Add (x, s)", "float s = {2}", "Conv <pads = [1, 0, 0, 0]> (c, w)"),)
        + ("its sum is padded with zeros",),
        (conv("c = Add (x, s)", "float s = {2}", 'Conv <auto_pad = "SAME_UPPER"> (c, w)'),)
        + ("its sum is padded with zeros",),
        (conv("c = Mul (x, s)", "float[4] s = {1, 2, 3, 4}"),)
        + ("its constant is not one number or one a channel",),
        (conv("c = Div (s, x)", "float s = {2}"), "it divides a constant, or by 0"),
        (conv("c = Div (x, s)", "float s = {0}"), "it divides a constant, or by 0"),
        (conv("c = Mul (x, s)   z = Relu (c)", "float s = {2}", more=", float[1,2,4,4] z"),)
        + ("c has another reader",),
        (
            conv("c = Mul (x, s)   z = Conv (x, w)", "float s = {2}", more=", float[1,2,3,3] z"),
            "w has another reader",
        ),
        (
            """f (float[1,2,4,4] x, float[1,2,1,1] w) => (float[1,1,4,4] y) <float s = {2}>
            { c = Mul (x, s)   y = Conv (c, w) }""",
            "its weight or bias is not constant",
        ),
        (conv("c = Mul (x, x)", "float s = {0}"), None),
    ],
)
def test_left_alone(text: str, reason: str | None) -> None:
    assert_left_alone(FoldAffineIntoNextConv(), text, reason)
