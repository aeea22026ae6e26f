# SPDX-License-Identifier: Apache-2.0
"""Codes and scales in ONNX's own types, and models of them."""

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx import TensorProto, helper

K, N, BLOCK = 96, 24, 32
# type → opset, numpy's type
TYPES = {
    "INT4": (21, ml_dtypes.int4),
    "UINT4": (21, ml_dtypes.uint4),
    "INT2": (25, ml_dtypes.int2),
    "UINT2": (25, ml_dtypes.uint2),
    "FLOAT4E2M1": (23, ml_dtypes.float4_e2m1fn),
    "FLOAT6E2M3": (28, ml_dtypes.float6_e2m3fn),
    "FLOAT6E3M2": (28, ml_dtypes.float6_e3m2fn),
    "FLOAT8E4M3FN": (21, ml_dtypes.float8_e4m3fn),
    "FLOAT8E5M2": (21, ml_dtypes.float8_e5m2),
}
SCALES = {
    "FLOAT": np.float32,
    "FLOAT16": np.float16,
    "BFLOAT16": ml_dtypes.bfloat16,
    "FLOAT8E8M0": ml_dtypes.float8_e8m0fnu,
}


def codes_of(kind: str, seed: int = 3) -> NDArray:
    """Every finite code of the type, [K, N], in random order."""
    dtype, rng = np.dtype(TYPES[kind][1]), np.random.default_rng(seed)
    bits = ir.DataType[kind].bitwidth
    all_codes = np.arange(2**bits, dtype=np.uint8)
    if "INT" in kind:
        held = (all_codes.astype(np.int16) - (0 if kind[0] == "U" else 2 ** (bits - 1))).astype(
            dtype
        )
    else:
        held = all_codes.view(dtype)
    held = held[np.isfinite(held.astype(np.float32))]
    repeated = np.resize(np.arange(len(held)), K * N)
    return held[rng.permutation(repeated)].reshape(K, N)


def scales_of(kind: str, grain: str, seed: int = 5) -> NDArray:
    """Positive scales: one, one an output, or one a block."""
    shape = {"tensor": (), "axis": (N,), "block": (K // BLOCK, N)}[grain]
    exponents = np.random.default_rng(seed).integers(-6, -1, shape)
    real = np.exp2(exponents)
    if kind != "FLOAT8E8M0":
        real = real * np.random.default_rng(seed + 1).uniform(1, 2, shape)
    return np.asarray(real).astype(SCALES[kind])


def model_of(
    nodes: list[onnx.NodeProto], held: dict[str, NDArray], x_shape: list, y_rank: int = 2
) -> onnx.ModelProto:
    """A model of opset 25 from x to y."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, x_shape)
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [None] * y_rank)
    stored = [ir.to_proto(ir.tensor(array, name=name)) for name, array in held.items()]
    graph = helper.make_graph(nodes, "typed", [x], [y], stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 25)])
    model.ir_version = 13
    return model
