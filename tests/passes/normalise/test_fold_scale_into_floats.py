# SPDX-License-Identifier: Apache-2.0
"""Scales of a byte become float32, without a change."""

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest

from qcompile.graph import constant
from qcompile.imported import UNIT
from qcompile.passes.normalise.fold_scale_into_floats import FoldScaleIntoFloats
from tests.passes.graphs import assert_left_alone, parse


def test_every_e8m0_is_its_power_of_two() -> None:
    model = parse(
        """<ir_version: 12, opset_import: ["": 24]>
        f (float[255] x) => (float[255] y) <int8[1] w = {1}, float[1] s = {1}>
        { d = DequantizeLinear <axis = 0, output_dtype = 1> (w, s)   y = Add (x, d) }"""
    )
    codes = np.arange(255, dtype=np.uint8)
    value = model.graph.initializers["s"]
    value.const_value = ir.tensor(codes.view(ml_dtypes.float8_e8m0fnu), name="s")
    value.dtype, value.shape = ir.DataType.FLOAT8E8M0, ir.Shape([255])
    weight = model.graph.initializers["w"]
    weight.const_value, weight.shape = ir.tensor(np.ones(255, np.int8)), ir.Shape([255])
    assert FoldScaleIntoFloats()(model).modified
    found = constant(model.graph.node(0).inputs[1])
    assert found is not None and found.dtype == np.float32
    assert np.array_equal(found.astype(np.float64), np.exp2(codes.astype(np.float64) - 127))


def test_the_unit_is_kept() -> None:
    model = parse(
        """f (float[2] x) => (float[2] y)
        <int8[2] w = {1, 2}, uint8[2] c = {3, 4}, float s = {0.5}>
        { t = DequantizeLinear (c, s)   d = DequantizeLinear <axis = 0> (w, t)   y = Add (x, d) }"""
    )
    FoldScaleIntoFloats()(model)
    scale = model.graph.node(0).inputs[1]
    assert scale is not None and scale.metadata_props[UNIT] == "0.5"


@pytest.mark.parametrize(
    ("scale", "reason"),
    [("float s", "its scale is computed at run time"), ("float s = {0.5}", None)],
)
def test_left_alone(scale: str, reason: str | None) -> None:
    given = f"float[2] x, {scale}" if "=" not in scale else "float[2] x"
    held = "<int8[2] w = {1, 2}>" if "=" not in scale else f"<int8[2] w = {{1, 2}}, {scale}>"
    text = f"f ({given}) => (float[2] y) {held} {{ d = DequantizeLinear (w, s)   y = Add (x, d) }}"
    assert_left_alone(FoldScaleIntoFloats(), text, reason)
