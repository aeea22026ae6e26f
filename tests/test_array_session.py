# SPDX-License-Identifier: Apache-2.0
"""Arrays of every element type go into a session and come out of it, bit for bit."""

import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from qcompile.array_session import ArraySession
from qcompile.element_types import NARROW, from_bytes, is_float, is_integer, limits, to_bytes

SHAPES = [(), (1,), (3,), (4, 5), (0, 2), (7, 1, 3)]
BELOW_A_BYTE = [t for t in NARROW if t.bitwidth < 8]


def codes_of(dtype: ir.DataType, shape: tuple[int, ...]) -> NDArray:
    """Any bits; those of a NaN too."""
    kind = NARROW[dtype]
    drawn = np.random.default_rng(1).integers(0, 1 << dtype.bitwidth, shape)
    if is_integer(kind):
        return (drawn + limits(kind)[0]).astype(kind)
    return np.asarray(drawn, np.uint16 if dtype.bitwidth == 16 else np.uint8).view(kind)


def session_of(dtype: ir.DataType, op: str, to: ir.DataType) -> ArraySession:
    x, y = ir.val("x", dtype), ir.val("y", to)
    attributes = {"to": int(to)} if op == "Cast" else {}
    node = ir.node(op, [x], attributes, outputs=[y])
    graph = ir.Graph([x], [y], nodes=[node], opset_imports={"": 25}, name="g")
    data = ir.to_proto(ir.Model(graph, ir_version=13)).SerializeToString()
    return ArraySession(data, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", NARROW)
def test_bytes(dtype: ir.DataType, shape: tuple[int, ...]) -> None:
    """Those that ONNX's own package writes."""
    codes = codes_of(dtype, shape)
    data = to_bytes(codes, dtype)
    size = -(-codes.size * dtype.bitwidth // 8)
    assert data[:size].tobytes() == ir.tensor(codes, dtype=dtype).tobytes()
    back = from_bytes(data[:size], dtype, shape)
    assert (back.dtype, back.shape, back.tobytes()) == (codes.dtype, shape, codes.tobytes())


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    "dtype", [t for t in NARROW if t.name.startswith(("BF", "FLOAT8E4", "FLOAT8E5"))]
)
def test_what_goes_in_comes_out(dtype: ir.DataType, shape: tuple[int, ...]) -> None:
    codes = codes_of(dtype, shape)
    (found,) = session_of(dtype, "Identity", dtype).run(None, {"x": codes})
    assert (found.dtype, found.shape, found.tobytes()) == (codes.dtype, shape, codes.tobytes())


@pytest.mark.parametrize("dtype", [ir.DataType.INT4, ir.DataType.UINT4])
def test_four_bits(dtype: ir.DataType) -> None:
    codes = codes_of(dtype, (3, 5))
    floats = codes.astype(np.float32)
    (found,) = session_of(dtype, "Cast", ir.DataType.FLOAT).run(["y"], {"x": codes})
    np.testing.assert_array_equal(found, floats)
    (back,) = session_of(ir.DataType.FLOAT, "Cast", dtype).run(None, {"x": floats})
    np.testing.assert_array_equal(back.astype(np.float32), floats)


def test_wider_arrays_are_rounded() -> None:
    x = np.array([1.0, 1 + 2.0**-9, -3.14], np.float32)
    dtype = ir.DataType.BFLOAT16
    (found,) = session_of(dtype, "Identity", dtype).run(None, {"x": x})
    np.testing.assert_array_equal(found, x.astype(NARROW[dtype]))


def test_kinds() -> None:
    assert all(is_float(d) != is_integer(d) for d in NARROW.values())
    assert limits(NARROW[ir.DataType.INT2]) == (-2, 1)
