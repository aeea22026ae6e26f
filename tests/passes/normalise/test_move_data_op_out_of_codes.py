# SPDX-License-Identifier: Apache-2.0
"""Ops that move codes move numbers instead, between a pair of the same scale."""

import pytest

from qcompile.passes.normalise.move_data_op_out_of_codes import MoveDataOpOutOfCodes
from tests.passes.graphs import assert_equal_outputs, assert_left_alone, parse

PARAMS = "float s = {0.5}, uint8 z = {3}"


@pytest.mark.parametrize(
    "text",
    [
        "t = MaxPool <kernel_shape = [2, 2]> (c)   y = DequantizeLinear (t, s, z)",
        "u = Flatten (c)   t = Transpose (u)   y = DequantizeLinear (t, s, z)",
    ],
)
def test_exact(text: str) -> None:
    text = f"f (uint8[1,2,2,2] c) => (float y) <{PARAMS}> {{ {text} }}"
    after = parse(text)
    assert MoveDataOpOutOfCodes()(after).modified
    assert_equal_outputs(parse(text), after)


def test_table_of_codes() -> None:
    table = f"uint8[9,2] c = {{{', '.join(map(str, range(18)))}}}"
    text = f"""f (int64[3] i) => (float[3,2] y) <{PARAMS}, {table}>
    {{ t = Gather (c, i)   y = DequantizeLinear (t, s, z) }}"""
    after = parse(text)
    assert MoveDataOpOutOfCodes()(after).modified
    assert [n.op_type for n in after.graph][:2] == ["DequantizeLinear", "Gather"]
    assert_equal_outputs(parse(text), after)


def test_unknown_scale() -> None:
    text = "f (uint8[2,1] c) => (uint8[1,2] y) { y = Transpose (c) }"
    assert_left_alone(MoveDataOpOutOfCodes(), text, "the scale of its codes is not known")


def test_other_types_are_no_codes() -> None:
    assert_left_alone(
        MoveDataOpOutOfCodes(), "f (int64[2,1] c) => (int64[1,2] y) { y = Transpose (c) }"
    )
