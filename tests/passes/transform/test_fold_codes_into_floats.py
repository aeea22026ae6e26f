# SPDX-License-Identifier: Apache-2.0
"""Codes that ONNX Runtime cannot decode become floats, others stay."""

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest

from qcompile.graph import constant
from qcompile.passes.transform.fold_codes_into_floats import FoldCodesIntoFloats
from tests.passes.graphs import parse


def net(codes: ir.TensorProtocol, opset: int) -> ir.Model:
    """y = x + w."""
    model = parse(
        f"""<ir_version: 11, opset_import: ["": {opset}]>
        f (float[3] x) => (float[3] y) <int8[3] w = {{1, 2, 3}}, float s = {{0.5}}>
        {{ d = DequantizeLinear (w, s)   y = Add (x, d) }}"""
    )
    value = model.graph.initializers["w"]
    value.const_value, value.dtype = codes, codes.dtype
    return model


@pytest.mark.parametrize(
    ("dtype", "opset"), [(ml_dtypes.float4_e2m1fn, 23), (ml_dtypes.float8_e4m3fn, 28)]
)
def test_floats(dtype: type, opset: int) -> None:
    held = np.array([0.5, -6, 3], dtype)
    model = net(ir.tensor(held, name="w"), opset)
    assert FoldCodesIntoFloats()(model).modified
    assert [n.op_type for n in model.graph] == ["Identity", "Add"]
    found = constant(model.graph.node(0).inputs[0])
    assert found is not None and found.tolist() == [0.25, -3, 1.5]


@pytest.mark.parametrize(("dtype", "opset"), [(np.int8, 28), (ml_dtypes.float8_e4m3fn, 26)])
def test_what_onnx_runtime_decodes_stays(dtype: type, opset: int) -> None:
    assert not FoldCodesIntoFloats()(net(ir.tensor(np.array([1, 2, 3], dtype)), opset)).modified
