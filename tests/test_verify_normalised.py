# SPDX-License-Identifier: Apache-2.0
"""The bound of the rung normalise: outputs may be larger than every product."""

import numpy as np
import onnx_ir as ir
import pytest

from qcompile.data import Batch, Data
from qcompile.normalise import normalise
from qcompile.verify_normalised import check_normalised
from tests.passes.graphs import parse

TEXT = """f (float[2,8] x) => (float[2,8] y, float[2,8] z)
<float[8,8] w = {W}, float[8] s = {8}, float[8] b = {8}>
{ m = MatMul (x, w)   z = Mul (m, s)   y = Add (x, b) }"""


def model(large: float, added: float = 0.0):
    """z is small, y is x + `large` + `added`."""
    numbers = ", ".join(["0.001"] * 64)
    shown = ", ".join([str(large + added)] * 8)
    text = TEXT.replace("{W}", f"{{{numbers}}}").replace("b = {8}", f"b = {{{shown}}}")
    return parse(text.replace("s = {8}", f"s = {{{', '.join(['2'] * 8)}}}"))


@pytest.mark.parametrize(("added", "passes"), [(0.0, True), (2.0**-15, True), (1.0, False)])
def test_an_output_is_judged_by_its_own_size(added: float, *, passes: bool) -> None:
    """2^-15 is one unit in the last place of 300: a rewrite may change it."""
    feed = {"x": np.random.default_rng(0).standard_normal((2, 8)).astype(np.float32)}
    found = check_normalised(
        model(300.0), normalise(model(300.0, added)), Data([feed], Batch({"x": 2}))
    )
    assert found.passed == passes


def test_nan_in_one_of_them_fails() -> None:
    """0 · s is NaN where s is infinite."""
    infinite, finite = (model(v) for v in (300.0, 1.0))
    infinite.graph.initializers["s"].const_value = ir.tensor(np.full(8, np.inf, np.float32))
    feed = {"x": np.zeros((2, 8), np.float32)}
    found = check_normalised(infinite, normalise(finite), Data([feed], Batch({"x": 2})))
    assert not found.passed and found.worst == "z"


@pytest.mark.parametrize(("added", "passes"), [(0.0, True), (1.0, False)])
def test_outputs_are_compared_by_place(added: float, *, passes: bool) -> None:
    """An If of a constant in a body becomes its branch, whose output has a name of its own."""
    other = normalise(model(300.0, added))
    for value in other.graph.outputs:
        value.name = f"branch/{value.name}"
    feed = {"x": np.random.default_rng(0).standard_normal((2, 8)).astype(np.float32)}
    found = check_normalised(model(300.0), other, Data([feed], Batch({"x": 2})))
    assert (found.passed, found.count) == (passes, 2)


BFLOAT16 = """<ir_version: 10, opset_import: ["": 21]>
f (float[2,8] x) => (bfloat16[2,8] y) <float[8] b = {8}>
{ a = Add (x, b)  y = Cast <to = 16> (a) }"""


@pytest.mark.parametrize(("added", "passes"), [(2.0**-15, True), (0.75, True), (1.5, False)])
def test_an_output_of_bfloat16_may_round_the_other_way(added: float, *, passes: bool) -> None:
    """Numbers between 128 and 256 lie 1 apart: one code is a rounding, two are an error.

    The bound takes the spacing at the top of a power of two, which is at most twice that below.
    """
    texts = [
        BFLOAT16.replace("{8}", f"{{{', '.join([str(v)] * 8)}}}") for v in (130.5, 130.5 + added)
    ]
    feed = {"x": np.zeros((2, 8), np.float32)}
    found = check_normalised(*map(parse, texts), Data([feed], Batch({"x": 2})))
    assert found.passed == passes
