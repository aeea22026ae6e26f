# SPDX-License-Identifier: Apache-2.0
"""Ours and ONNX Runtime's ways to do a row of benchmarks.kernels, each with rotated weights."""

import functools
from collections.abc import Callable, Iterator

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from benchmarks.convolutions import bound, plain_session
from benchmarks.interleave import Candidate
from benchmarks.kernel_rows import K, N, Row
from benchmarks.limits import ROTATED_BYTES
from qcompile.formats import get
from qcompile.layouts.n16k4 import pack
from tests.runtime_ops import single_op as one

Run = Callable[[], object]


def rotated(row: Row, num_bytes: int, build: Callable[[], Run]) -> list[Run]:
    """So many copies that decode reads its weights from memory; one for the other rows."""
    return [build() for _ in range(-(-ROTATED_BYTES // num_bytes) if row.m == 1 else 1)]


def inputs(row: Row) -> NDArray[np.float32]:
    """[M, K] floats."""
    return np.random.default_rng(0).standard_normal((row.m, K), dtype=np.float32)


def ours(row: Row, threads: int) -> Candidate:
    """A QMatMul; one panel of random codes is repeated, for speed does not depend on them."""
    rng = np.random.default_rng(0)
    weight = one.random_weight(
        rng, 64, K, get(row.format), row.block, "f16", with_zero_point=row.asymmetric
    )
    attributes = one.weight_attributes(weight) | {"N": N, "activation": row.activation}
    if row.activation == "dynamic":
        attributes["activation_bits"] = 8
    packed, x = np.tile(pack(weight), N // 64), inputs(row)

    def build() -> Run:
        model = one.build("QMatMul", [x, packed], attributes, [(TensorProto.FLOAT, 2)])
        return bound(one.session(model, threads), {"input_0": x})

    return Candidate("ours", rotated(row, packed.size, build))


def ort_peers(row: Row, threads: int) -> Iterator[Candidate]:
    """fp32; at 8 bits per channel the integer MatMuls; else MatMulNBits, at 2 bits for fewer."""
    yield _ort(row, "ORT fp32", threads, K * N * 4, functools.partial(_float, row))
    if not row.block:
        for op in ("MatMulInteger", "DynamicQuantizeMatMul"):
            yield _ort(row, f"ORT {op}", threads, K * N, functools.partial(_integer, row, op))
        return
    bits = next(b for b in (2, 4, 8) if b >= row.bits)
    for level in (4, 0) if bits == 4 else (4,):  # at 8 and 2 bits level 0 takes 60 ms
        build = functools.partial(_n_bits, row, bits, level)
        yield _ort(row, f"ORT {bits} bit level {level}", threads, K * N * bits // 8, build)


def _ort(row: Row, name: str, threads: int, size: int, graph: Callable[[], object]) -> Candidate:
    x = inputs(row)
    feed: dict[str, NDArray] = {"x": x}
    if "MatMulInteger" in name:
        feed = {"x": np.clip(x * 30 + 128, 0, 255).astype(np.uint8)}
    made = graph()  # sessions copy the weights
    return Candidate(name, rotated(row, size, lambda: bound(plain_session(made, threads), feed)))


def _graph(row: Row, nodes: list, constants: dict[str, NDArray], x: int, y: int) -> object:
    value = helper.make_tensor_value_info
    arrays = [numpy_helper.from_array(v, k) for k, v in constants.items()]
    return helper.make_graph(nodes, "g", [value("x", x, [row.m, K])], [value("y", y, None)], arrays)


def _float(row: Row) -> object:
    w = np.random.default_rng(0).standard_normal((K, N), dtype=np.float32)
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    return _graph(row, [node], {"w": w}, TensorProto.FLOAT, TensorProto.FLOAT)


def _integer(row: Row, op: str) -> object:
    w = np.random.default_rng(0).integers(-127, 128, (K, N)).astype(np.int8)
    if op == "MatMulInteger":
        node = helper.make_node(op, ["x", "w", "zero"], ["y"])
        constants = {"w": w, "zero": np.array(128, np.uint8)}
        return _graph(row, [node], constants, TensorProto.UINT8, TensorProto.INT32)
    node = helper.make_node(op, ["x", "w", "s"], ["y"], domain="com.microsoft")
    constants = {"w": w, "s": np.full(N, 0.01, np.float32)}
    return _graph(row, [node], constants, TensorProto.FLOAT, TensorProto.FLOAT)


def _n_bits(row: Row, bits: int, level: int) -> object:
    rng, blocks = np.random.default_rng(0), K // row.peer_block
    constants = {
        "w": rng.integers(0, 256, (N, blocks, row.peer_block * bits // 8)).astype(np.uint8),
        "s": rng.uniform(0.01, 0.3, N * blocks).astype(np.float32),
    }
    names = ["x", "w", "s"]
    if row.asymmetric:
        zeros = rng.integers(0, 256, N * (blocks * bits // 8)).astype(np.uint8)
        constants["z"], names = zeros, [*names, "z"]
    node = helper.make_node(
        "MatMulNBits",
        names,
        ["y"],
        domain="com.microsoft",
        K=K,
        N=N,
        bits=bits,
        block_size=row.peer_block,
        accuracy_level=level,
    )
    return _graph(row, [node], constants, TensorProto.FLOAT, TensorProto.FLOAT)


def versions() -> str:
    """Of ONNX Runtime."""
    return f"ONNX Runtime {ort.__version__}"
