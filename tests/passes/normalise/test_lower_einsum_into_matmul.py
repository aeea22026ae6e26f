# SPDX-License-Identifier: Apache-2.0
"""Einsum with a constant is MatMul between Reshapes and Transposes."""

import math

import pytest

from qcompile.passes.normalise.lower_einsum_into_matmul import LowerEinsumIntoMatmul
from tests.passes.graphs import assert_equal_outputs, assert_left_alone, parse

SIZES = {"b": 2, "s": 3, "d": 4, "h": 2, "k": 3, "n": 5}


def einsum(equation: str, *, is_constant_first: bool = False) -> str:
    """The equation with sizes by letter; one operand is an input, the other 1, 2, 3, …"""
    operands, _, result = equation.replace(" ", "").partition("->")
    left, right = operands.split(",")
    x, w = (right, left) if is_constant_first else (left, right)
    shapes = [",".join(str(SIZES[c]) for c in part) for part in (x, result, w)]
    numbers = ", ".join(map(str, range(1, math.prod(SIZES[c] for c in w) + 1)))
    inputs = "w, x" if is_constant_first else "x, w"
    output = f"float[{shapes[1]}]" if result else "float"
    return f"""f (float[{shapes[0]}] x) => ({output} y) <float[{shapes[2]}] w = {{{numbers}}}>
    {{ y = Einsum <equation = "{equation}"> ({inputs}) }}"""


@pytest.mark.parametrize(
    ("equation", "types"),
    [
        ("bsd,dn->bsn", ["MatMul"]),
        ("bsd, nd -> bsn", ["MatMul"]),
        ("bsd,dhk->bshk", ["MatMul", "Reshape"]),
        ("bshk,hkd->bsd", ["Reshape", "MatMul"]),
        ("bshk,khd->bsd", ["Transpose", "Reshape", "MatMul"]),
        ("bds,dn->bsn", ["Transpose", "MatMul"]),
        ("bsd,dn->nbs", ["MatMul", "Transpose"]),
        ("bsd,dhk->bhsk", ["MatMul", "Reshape", "Transpose"]),
        ("bsd,dn->sbn", ["Transpose", "MatMul"]),
        ("d,dn->n", ["MatMul"]),
        ("bsd,d->bs", ["MatMul", "Reshape"]),
        ("bd,bd->", ["Reshape", "MatMul", "Reshape"]),
    ],
)
def test_products(equation: str, types: list[str]) -> None:
    model = parse(einsum(equation))
    assert LowerEinsumIntoMatmul()(model).modified
    assert [n.op_type for n in model.graph] == types
    assert_equal_outputs(parse(einsum(equation)), model)


def test_the_constant_first() -> None:
    text = einsum("nd,bsd->bns", is_constant_first=True)
    model = parse(text)
    assert LowerEinsumIntoMatmul()(model).modified
    assert_equal_outputs(parse(text), model)


def test_a_result_that_is_not_written() -> None:
    text = einsum("bd,dn->bn").replace("->bn", "")
    model = parse(text)
    assert LowerEinsumIntoMatmul()(model).modified
    assert_equal_outputs(parse(text), model)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (einsum("bd,dn->bn").replace("bd,dn->bn", "...d,dn->...n"), "its equation has an ellipsis"),
        (einsum("bb,bn->n"), "a letter stands twice in one operand of its equation"),
        (
            einsum("bsd,bdn->bsn"),
            "its operands and its result share a letter: a product for each of its values",
        ),
        (einsum("bd,n->bdn"), "its operands share no letter"),
        (einsum("bsd,dn->bn"), "it sums over a letter of one operand"),
        ('f (float[2,2] x) => (float[2] y) { y = Einsum <equation = "ii->i"> (x) }', None),
        (
            "f (float[2,2] x, float[2,2] w) => (float[2,2] y) "
            '{ y = Einsum <equation = "bd,dn->bn"> (x, w) }',
            None,
        ),
    ],
)
def test_left_alone(text: str, reason: str | None) -> None:
    assert_left_alone(LowerEinsumIntoMatmul(), text, reason)
