# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime's ways to do a row of benchmarks.kernels, each with rotated weights."""

import functools
from collections.abc import Callable, Iterator

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import GraphProto, TensorProto, helper, numpy_helper

from benchmarks.convolutions import bound, plain_session
from benchmarks.kernel_rows import Row
from benchmarks.work import Peer, Run, rotated


def ort_peers(row: Row, threads: int) -> Iterator[Peer]:
    """fp32; at 8 bits per channel the integer MatMuls; else MatMulNBits, at 2 bits for fewer."""
    size = row.k * row.n
    yield _peer(row, "ORT fp32", threads, size * 4, (), _float)
    if not row.block:
        for op in ("MatMulInteger", "DynamicQuantizeMatMul"):
            build = functools.partial(_integer, op=op)
            yield _peer(row, f"ORT {op}", threads, size, (), build)
        return
    bits = next(b for b in (2, 4, 8) if b >= row.bits)
    for level in (4, 0) if bits == 4 else (4,):  # at 8 and 2 bits level 0 takes 60 ms
        build = functools.partial(_n_bits, bits=bits, level=level)
        key = (row.peer_block, row.asymmetric)
        yield _peer(row, f"ORT {bits} bit level {level}", threads, size * bits // 8, key, build)


def _peer(
    row: Row,
    name: str,
    threads: int,
    num_bytes: int,
    key: tuple[object, ...],
    graph: Callable[[Row], GraphProto],
) -> Peer:
    def build() -> list[Run]:
        x = row.inputs()
        feed: dict[str, NDArray] = {"x": x}
        if "MatMulInteger" in name:
            feed = {"x": np.clip(x * 30 + 128, 0, 255).astype(np.uint8)}
        made = graph(row)  # sessions copy the weights

        def one_copy() -> Run:
            return bound(plain_session(made, threads), feed)

        return rotated(num_bytes, one_copy, is_decode=row.m == 1)

    return Peer(name, (*row.shape, *key), build)


def _graph(
    row: Row, node: tuple[str, dict[str, object]], constants: dict[str, NDArray], x: int, y: int
) -> GraphProto:
    """x and the constants through one operator."""
    op, attributes = node
    nodes = [helper.make_node(op, ["x", *constants], ["y"], **attributes)]
    arrays = [numpy_helper.from_array(v, k) for k, v in constants.items()]
    value = helper.make_tensor_value_info
    return helper.make_graph(
        nodes, "g", [value("x", x, [row.m, row.k])], [value("y", y, None)], arrays
    )


def _float(row: Row) -> GraphProto:
    w = np.random.default_rng(0).standard_normal((row.k, row.n), dtype=np.float32)
    return _graph(row, ("MatMul", {}), {"w": w}, TensorProto.FLOAT, TensorProto.FLOAT)


def _integer(row: Row, op: str) -> GraphProto:
    w = np.random.default_rng(0).integers(-127, 128, (row.k, row.n)).astype(np.int8)
    if op == "MatMulInteger":
        constants: dict[str, NDArray] = {"w": w, "zero": np.array(128, np.uint8)}
        return _graph(row, (op, {}), constants, TensorProto.UINT8, TensorProto.INT32)
    constants = {"w": w, "s": np.full(row.n, 0.01, np.float32)}
    node = (op, {"domain": "com.microsoft"})
    return _graph(row, node, constants, TensorProto.FLOAT, TensorProto.FLOAT)


def _n_bits(row: Row, bits: int, level: int) -> GraphProto:
    rng, blocks = np.random.default_rng(0), row.k // row.peer_block
    held = (row.n, blocks, row.peer_block * bits // 8)
    constants: dict[str, NDArray] = {
        "w": rng.integers(0, 256, held).astype(np.uint8),
        "s": rng.uniform(0.01, 0.3, row.n * blocks).astype(np.float32),
    }
    if row.asymmetric:
        constants["z"] = rng.integers(0, 256, row.n * (blocks * bits // 8)).astype(np.uint8)
    attributes = {
        "domain": "com.microsoft",
        "K": row.k,
        "N": row.n,
        "bits": bits,
        "block_size": row.peer_block,
        "accuracy_level": level,
    }
    node = ("MatMulNBits", attributes)
    return _graph(row, node, constants, TensorProto.FLOAT, TensorProto.FLOAT)


def versions() -> str:
    """Of ONNX Runtime."""
    return f"ONNX Runtime {ort.__version__}"
