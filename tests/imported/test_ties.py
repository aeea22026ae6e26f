# SPDX-License-Identifier: Apache-2.0
"""Codes of the user's ops: a sum between two codes may go either way, nothing else may."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

import qcompile
from qcompile import verify_imported
from qcompile.data import Batch, Data
from qcompile.division import Division, Footprint
from qcompile.graph import constant
from qcompile.normalise import normalise
from qcompile.session import with_outputs
from qcompile.verdict import Check
from qcompile.verify_imported import SHARE, check_codes
from qcompile.verify_ties import errors, ties
from tests.imported.quantized import static
from tests.passes.graphs import parse
from tests.passes.stages import with_weights
from tests.pipeline.nets import cnn, samples
from tests.test_division import Small

# 0.3 · 0.1 ÷ 0.06 is one half, but not in float32: every odd sum is a tie that one side may miss.
PRODUCT = """f (uint8[b,4] a) => (uint8[b,3] y)
<float s = {0.3}, float t = {0.1}, float u = {0.06}, uint8 z = {0}, int8 v = {0},
 int8[4,3] w = {1, 3, 5, 1, 1, 1, 1, 1, 1, 1, 1, 1}>
{ y = QLinearMatMul (a, s, z, w, t, v, u, z) }"""
SUM = """f (uint8[b,4] a, uint8[b,4] c) => (uint8[b,4] y)
<float s = {0.3}, float u = {0.6}, uint8 z = {0}>
{ y = com.microsoft.QLinearAdd (a, s, z, c, s, z, u, z) }"""


def data(*names: str, rows: int = 40) -> Data:
    rng = np.random.default_rng(0)
    feed = {name: rng.integers(0, 16, (rows, 4)).astype(np.uint8) for name in names}
    return Data([feed], Batch(dict.fromkeys(names, 0)))


def shifted(model: ir.Model, change: float, element: int) -> ir.Model:
    """The normalised model, the real number of one element of each row moved before its code."""
    quantizer = next(n for n in model.graph if n.op_type == "QuantizeLinear")
    moved = np.zeros(int(quantizer.outputs[0].shape[1]), np.float32)
    moved[element] = change
    added = ir.Value(name="moved", const_value=ir.tensor(moved, name="moved"))
    model.graph.initializers["moved"] = added
    node = ir.node("Add", [quantizer.inputs[0], added])
    node.outputs[0].name = "moved_sum"
    model.graph.insert_before(quantizer, node)
    quantizer.replace_input_with(0, node.outputs[0])
    return model


def share(checks: list[Check]) -> Check:
    return next(c for c in checks if c.rung == "normalise: share apart")


CASES = {"product": (PRODUCT, ("a",)), "sum": (SUM, ("a", "c"))}


@pytest.mark.parametrize("case", CASES)
def test_a_tie_may_go_either_way(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """2^-23 of a code, to either side: more codes apart than the share, and all of them ties."""
    text, names = CASES[case]
    source, given = parse(text), data(*names)
    seen: list[NDArray[np.bool_]] = []
    found = []
    for change in (2.0**-22, -(2.0**-22)):
        ours = shifted(normalise(source), change, 0)
        monkeypatch.setattr(verify_imported, "ties", lambda *a: seen.append(ties(*a)) or seen[-1])
        found.append(share(check_codes(source, ours, given)))
        monkeypatch.setattr(verify_imported, "ties", lambda *_: np.zeros(1, np.bool_))
        refused = share(check_codes(source, ours, given))
        found[-1] = replace(found[-1], worst=f"{refused.measured > SHARE}")
    assert all(check.passed for check in found)
    assert "True" in [check.worst for check in found]  # without the rule one of them is refused
    assert seen and all(0 < mask.mean() < 1 for mask in seen)


@pytest.mark.parametrize("case", CASES)
def test_a_code_that_is_no_tie_is_counted(case: str) -> None:
    """The twin: a quarter of a code moves some sums that lie between a half and a quarter."""
    text, names = CASES[case]
    source, given = parse(text), data(*names)
    step = {"product": 0.06, "sum": 0.6}[case]
    checks = check_codes(source, shifted(normalise(source), 0.75 * step, 1), given)
    assert share(checks).measured > SHARE and not share(checks).passed


def test_an_op_without_a_rule_has_no_ties() -> None:
    """Exp may grow an error by any factor."""
    model = parse("""f (float[b,2] x) => (uint8[b,2] y) <float s = {1}, uint8 p = {0}>
    { e = Exp (x)   y = QuantizeLinear (e, s, p) }""")
    nodes = list(model.graph)[::-1]
    values = {"x": np.zeros((1, 2), np.float32), "e": np.array([[0.5, 1.5]], np.float32)}
    assert not ties(nodes, values).any()
    assert ties(nodes[:1], values).all()  # stored halves are exact


def test_the_bound_of_a_product_holds() -> None:
    """The error of float32 sums, one rounding a term, against float64: below the bound, near it."""
    rng = np.random.default_rng(1)
    text = "f (float[b,64] x, float w) => (float[b,8] y) { y = MatMul (x, w) }"
    model = with_weights(text, w=(64, 8))
    (product,) = model.graph
    w = np.asarray(constant(product.inputs[1]))
    x = rng.standard_normal((500, 64)).astype(np.float32)
    found = np.zeros((500, 8), np.float32)
    for k in range(64):
        found += x[:, k : k + 1] * w[k]
    gap = np.abs(found - x.astype(np.float64) @ w.astype(np.float64)).max()
    assert 0 < gap < errors([product], {"x": x, "y": found})[product.outputs[0]] < 1000 * gap


def test_divided_as_the_memory_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small limit makes several groups, with the same numbers."""
    net = cnn()
    source = ir.load(static(net, tmp_path, "operators", "u8", "u8", per_channel=False))
    ours, feed = normalise(source), samples(net)
    given = Data([feed], Batch.of(list(source.graph.inputs)))
    whole = check_codes(source, ours, given)
    footprint = Footprint.of(ours, given)
    opened: list[list[str]] = []

    def outputs(model: ir.Model, names: list[str]) -> ir.Model:
        opened.append(list(names))
        return with_outputs(model, names)

    monkeypatch.setattr(verify_imported, "with_outputs", outputs)
    footprint = replace(footprint, held_bytes=0)
    tight = Division(Small(footprint.live_bytes), footprint)
    divided = check_codes(source, ours, given, tight)
    assert len(opened) > 1
    for before, after in zip(whole, divided, strict=True):
        assert (before.rung, before.count) == (after.rung, after.count)
        assert after.passed and after.limit == pytest.approx(before.limit, rel=1e-6)


def test_a_tiny_product_compiles(tmp_path: Path) -> None:
    model = parse(PRODUCT)
    del model.graph.opset_imports["com.qcompile"]
    ir.save(model, tmp_path / "m.onnx")
    given = {"a": data("a").feeds[0]["a"]}
    made = qcompile.compile(tmp_path / "m.onnx", calibration_data=given)
    assert made.content["coverage"] == 1
