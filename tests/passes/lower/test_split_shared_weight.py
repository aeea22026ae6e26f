# SPDX-License-Identifier: Apache-2.0
"""Target ort: no two products read one int8 initializer."""

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

import qcompile
from qcompile import measure
from qcompile.graph import constant
from qcompile.passes import LOWER_ORT
from qcompile.passes.lower.split_shared_weight import SplitSharedWeight
from qcompile.session import PRECISION, open_model, session_options
from tests.passes.graphs import assert_rewritten, run
from tests.passes.stages import Feed, run_passes, staged, with_weights
from tests.pipeline.nets import Net, samples

SHARED = {
    "MatMul": "f (float[b,8] x, float w) => (float[b,8] y) { m = MatMul (x, w)  r = Relu (m) "
    "n = MatMul (r, w)  s = Relu (n)  y = MatMul (s, w) }",
    "Gemm": "f (float[b,8] x, float w) => (float[b,8] y) "
    "{ m = Gemm <transB = 1> (x, w)  r = Relu (m)  y = Gemm <transB = 1> (r, w) }",
    "Conv": "f (float[b,8,3,3] x, float w) => (float[b,8,3,3] y) "
    "{ m = Conv (x, w)  r = Relu (m)  y = Conv (r, w) }",
}
PRODUCTS = ("Conv", "Gemm", "MatMul", "MatMulInteger")


def codes_of(node):
    value = node.inputs[1]
    return value if value.const_value is not None else value.producer().inputs[0]


@pytest.mark.parametrize("preset", ["w8a8", "w8a8-dynamic"])
@pytest.mark.parametrize("op", ["MatMul", "Gemm"])
def test_each_product_has_its_own(op: str, preset: str) -> None:
    found = staged(with_weights(SHARED[op], w=(8, 8)), preset, "ort")
    assert_split(found.quantized, found.feed, SHARED[op].count(f"{op} "))


def test_conv() -> None:
    found = staged(with_weights(SHARED["Conv"], w=(8, 8, 1, 1)), "w8a8", "ort")
    assert_split(found.quantized, found.feed, 2)


def assert_split(quantized: ir.Model, feed: Feed, count: int) -> None:
    """Each product has codes under a name of its own; ONNX Runtime opens that, and no less."""
    without = [p for p in LOWER_ORT() if not isinstance(p, SplitSharedWeight)]
    shared, lowered = run_passes(quantized, *without), run_passes(quantized, *LOWER_ORT())
    held = [codes_of(n) for n in lowered.graph if n.op_type in PRODUCTS]
    assert len(held) == len({v.name for v in held}) == count
    for value in held[1:]:
        np.testing.assert_array_equal(constant(value), constant(held[0]))
    np.testing.assert_array_equal(run(lowered, feed)[0], run(shared, feed)[0])
    made = open_model(lowered, without_vnni()).run(None, feed)[0]
    assert made.shape == run(lowered, feed)[0].shape and np.isfinite(made).all()
    assert not SplitSharedWeight()(lowered).modified


def without_vnni() -> ort.SessionOptions:
    """As a processor without VNNI opens it."""
    options = session_options(1)
    options.add_session_config_entry(PRECISION, "1")
    return options


def test_what_is_shared_with_no_product_stays() -> None:
    text = """f (float[b,8] x, float w, float u) => (float[b,8] y)
    { m = MatMul (x, w)  r = Relu (m)  y = MatMul (r, u) }"""
    found = staged(with_weights(text, w=(8, 8), u=(8, 8)), "w8a8", "ort")
    each = SplitSharedWeight()
    assert not each(run_passes(found.quantized, *LOWER_ORT())).modified


def test_zero_points_are_copied_too() -> None:
    """ONNX Runtime's own initializer of a zero point is named after it, as well."""
    before = """f (float[3,2] x) => (float[3,2] z)
    <int8[2,2] c = {1, 2, 3, -4}, float s = {0.5}, int8 p = {1}>
    { w = DequantizeLinear (c, s, p)  y = MatMul (x, w)  z = MatMul (y, w) }"""
    after = """f (float[3,2] x) => (float[3,2] z)
    <int8[2,2] c = {1, 2, 3, -4}, float s = {0.5}, int8 p = {1},
     int8[2,2] c_1 = {1, 2, 3, -4}, int8 p_1 = {1}>
    { w_1 = DequantizeLinear (c_1, s, p_1)  w = DequantizeLinear (c, s, p)
      y = MatMul (x, w)  z = MatMul (y, w_1) }"""
    assert_rewritten(SplitSharedWeight(), before, after)


def test_the_file_does_not_grow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "SECONDS", 0.0)
    net = Net()
    x, w = net.input("x", ["b", 64]), net.weight("w", 64, 64)
    for i in range(4):
        x = net.node("Relu", [net.node("MatMul", [x, w], f"m{i}")], f"r{i}")
    net.output(x, ["b", 64])
    made = qcompile.compile(
        net.save(tmp_path / "m.onnx"), "ort", calibration_data=samples(net), output=tmp_path / "o"
    )
    assert made.measured["sqnr_db"] > 20
    data = onnx.load(made.folder / "model.onnx", load_external_data=False)
    places = [
        {e.key: e.value for e in t.external_data}
        for t in data.graph.initializer
        if tuple(t.dims) == (64, 64)
    ]
    assert len(places) == 4 and len({p["offset"] for p in places}) == 1
    assert (made.folder / "model.onnx.data").stat().st_size == 64 * 64
