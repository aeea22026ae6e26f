# SPDX-License-Identifier: Apache-2.0
"""The chain that stands for LogNP gives what its numerics say, to the code."""

from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest

from qcompile.numerics.lognp import LogNP
from qcompile.passes.transform.insert_polish import InsertPolish
from qcompile.passes.transform.stats import Stats, Work
from qcompile.plan import Plan
from qcompile.recipe import Recipe
from qcompile.session import open_model, session_options
from tests.passes.graphs import parse

TEXT = """f (uint8[256] c) => (uint8[256] y)
<float s = {0.03125}, uint8 z = {POINT}>
{ x = DequantizeLinear (c, s, z)   y = QuantizeLinear (x, s, z) }"""


@pytest.mark.parametrize(("low", "point"), [(0, 0), (-7, 128), (-3, 60)])
def test_codes_are_those_of_the_levels(low: int, point: int) -> None:
    model = parse(TEXT.replace("POINT", str(point)))
    next(n for n in model.graph if n.op_type == "QuantizeLinear").name = "n/quantize"
    high = 15 if low == 0 else -low
    polish = LogNP(0.7, 0.15, low, high)
    work = Work(Plan("", "", {}), replace(Stats(), polish={"n": polish}), Recipe())
    changed = InsertPolish(work)(model).model
    assert ("Sign" in [n.op_type for n in changed.graph]) == (low < 0)
    codes = np.arange(256, dtype=np.uint8)
    found = open_model(changed, session_options()).run(None, {"c": codes})[0]
    real = (codes.astype(np.float64) - point) / 32
    wanted = polish.rounded(real) * 32 + point
    exact = np.clip(np.rint(wanted), 0, 255)
    # float32 logarithms: a tie of levels or of codes may fall to the other side.
    is_tie = np.abs(wanted - np.floor(wanted) - 0.5) < 2.0**-12
    share = np.abs(polish.phi(real)) / polish.step
    is_tie |= np.abs(share - np.floor(share) - 0.5) < 2.0**-12
    assert is_tie.mean() < 0.02
    assert np.array_equal(found[~is_tie], exact[~is_tie])
    assert len(np.unique(found)) <= high - low + 1
    other = np.clip(np.rint(LogNP(1.4, 0.15, low, high).rounded(real) * 32 + point), 0, 255)
    assert not np.array_equal(found[~is_tie], other[~is_tie])


def test_other_quantizers_stay() -> None:
    model = parse(TEXT.replace("POINT", "0"))
    result = InsertPolish(Work(Plan("", "", {}), Stats(), Recipe()))(model)
    assert not result.modified
    assert isinstance(result.model, ir.Model)
