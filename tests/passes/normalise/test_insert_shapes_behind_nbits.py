# SPDX-License-Identifier: Apache-2.0
"""What lies behind MatMulNBits has the types and shapes that a MatMul would give it."""

import onnx_ir as ir
import pytest

from qcompile.passes.normalise.insert_shapes_behind_nbits import InsertShapesBehindNbits
from tests.passes.graphs import HEADER, assert_left_alone

NBITS = "com.microsoft.MatMulNBits <K = 32, N = 8, bits = 4, block_size = 32>"


@pytest.mark.parametrize(
    ("x", "y", "z"),
    [("M,32", ["M", 8], [8, "M"]), ("4,32", [4, 8], [8, 4])],
)
def test_shapes(x: str, y: list, z: list) -> None:
    text = f"""f (float[{x}] x, uint8[8,1,16] w, float[8] s) => (float[p,q] out)
    {{ y = {NBITS} (x, w, s)   z = Transpose <perm = [1, 0]> (y)   out = Neg (z) }}"""
    model = ir.from_onnx_text(HEADER + text)
    assert InsertShapesBehindNbits()(model).modified
    found = {v.name: v for n in model.graph for v in n.outputs}
    for name, dims in (("y", y), ("z", z)):
        assert found[name].dtype == ir.DataType.FLOAT
        assert [str(d) for d in found[name].shape] == [str(d) for d in dims]
    assert [n.op_type for n in model.graph] == ["MatMulNBits", "Transpose", "Neg"]
    assert not InsertShapesBehindNbits()(model).modified


def test_left_alone() -> None:
    text = "f (float[2,3] x) => (float[2,3] y) { y = Neg (x) }"
    assert_left_alone(InsertShapesBehindNbits(), text)
