# SPDX-License-Identifier: Apache-2.0
"""Ops on codes become plain ops between DequantizeLinear and QuantizeLinear."""

import numpy as np
import pytest

from qcompile.passes.normalise.split_qlinear_op_into_qdq import SplitQlinearOpIntoQdq
from tests.passes.graphs import assert_left_alone, parse, run

SCALES = "float s = {0.5}, uint8 z = {3}, float t = {2}, uint8 u = {5}"
M = "com.microsoft"


@pytest.mark.parametrize(
    ("op", "dims"),
    [
        (f"{M}.QLinearAdd (x, s, z, x, s, z, t, u)", "1,2,2,2"),
        (f"{M}.QLinearMul (x, s, z, x, s, z, t, u)", "1,2,2,2"),
        (f"{M}.QLinearSigmoid (x, s, z, t, u)", "1,2,2,2"),
        (f"{M}.QLinearLeakyRelu <alpha = 0.25> (x, s, z, t, u)", "1,2,2,2"),
        (f"{M}.QLinearGlobalAveragePool (x, s, z, t, u)", "1,2,1,1"),
        (f"{M}.QLinearAveragePool <kernel_shape = [2, 2]> (x, s, z, t, u)", "1,2,1,1"),
        (f"{M}.QLinearConcat <axis = 1> (t, u, x, s, z, x, s, z)", "1,4,2,2"),
        (f"{M}.QLinearSoftmax <axis = 1, opset = 13> (x, s, z, t, u)", "1,2,2,2"),
        ("QLinearMatMul (x, s, z, x, s, z, t, u)", "1,2,2,2"),
        ("QLinearConv <pads = [1, 1, 1, 1]> (x, s, z, w, ws, wz, t, u, b)", "1,1,2,2"),
    ],
)
def test_codes_stay(op: str, dims: str) -> None:
    constants = f"{SCALES}, uint8[1,2,3,3] w = {{{', '.join(map(str, range(18)))}}}"
    constants += ", float ws = {0.25}, uint8 wz = {8}, int32[1] b = {40}"
    text = f"f (uint8[1,2,2,2] x) => (uint8[{dims}] y) <{constants}> {{ y = {op} }}"
    before, after = parse(text), parse(text)
    assert SplitQlinearOpIntoQdq()(after).modified
    assert not [n for n in after.graph if n.op_type.startswith("QLinear")]
    for seed in range(3):
        x = np.random.default_rng(seed).integers(0, 256, (1, 2, 2, 2)).astype(np.uint8)
        wanted, found = run(before, {"x": x})[0], run(after, {"x": x})[0]
        assert np.abs(wanted.astype(int) - found).max() <= 1  # ties


def test_gemm_with_float_output() -> None:
    text = f"""f (uint8[1,2] x) => (float[1,2] y)
    <{SCALES}, uint8[2,2] w = {{1, 2, 3, 4}}, int32[2] b = {{4, -4}}>
    {{ y = {M}.QGemm <alpha = 1.0, transB = 1> (x, s, z, w, s, z, b) }}"""
    after = parse(text)
    assert SplitQlinearOpIntoQdq()(after).modified
    x = np.array([[7, 200]], np.uint8)
    assert np.array_equal(run(parse(text), {"x": x})[0], run(after, {"x": x})[0])


def test_scales_of_run_time() -> None:
    text = f"""f (uint8[1,2] x, float v) => (uint8[1,1] y) <{SCALES}, uint8[2,1] w = {{1, 2}}>
    {{ y = QLinearMatMul (x, v, z, w, s, z, t, u) }}"""
    assert_left_alone(SplitQlinearOpIntoQdq(), text, "a scale is computed at run time")
    text = f"""f (uint8[1,1,2,2] x, float v) => (uint8[1,1,2,2] y)
    <{SCALES}, uint8[1,1,1,1] w = {{1}}, int32[1] b = {{4}}>
    {{ y = QLinearConv (x, v, z, w, s, z, t, u, b) }}"""
    reason = "the scale of its bias is computed at run time"
    assert_left_alone(SplitQlinearOpIntoQdq(), text, reason)


def test_channels_last() -> None:
    text = f"""f (uint8[1,2,2,2] x) => (uint8[1,1,1,2] y) <{SCALES}>
    {{ y = {M}.QLinearGlobalAveragePool <channels_last = 1> (x, s, z, t, u) }}"""
    assert_left_alone(SplitQlinearOpIntoQdq(), text, "its channels are last")
