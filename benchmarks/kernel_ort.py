# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime's ways to do a row of benchmarks.kernels, each with rotated weights."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from benchmarks.convolutions import bound
from benchmarks.interleave import idle_options
from benchmarks.kernel_rows import Row
from benchmarks.work import Peer, Run, rotated

Node = tuple[str, dict[str, Any]]  # an operator and its attributes
Constants = dict[str, NDArray]  # "w", of which each product has its own, and what they share


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
    product: Callable[[Row], tuple[Node, Constants]],
) -> Peer:
    def build() -> list[Run]:
        x: NDArray = row.inputs()
        if "MatMulInteger" in name:
            x = np.clip(x * 30 + 128, 0, 255).astype(np.uint8)
        node, constants = product(row)

        def run_of(count: int) -> Run:
            model = products_model(node, x, constants, count)  # sessions copy the weights
            session = ort.InferenceSession(
                model, idle_options(threads), providers=["CPUExecutionProvider"]
            )
            return bound(session, {"x": x})

        return rotated(num_bytes, run_of, is_decode=row.m == 1)

    return Peer(name, (*row.shape, *key), build)


def products_model(
    node: Node, x: NDArray, constants: Constants, count: int, step: int = 1
) -> bytes:
    """So many products of x, each with a weight and an output of its own, as a serialized model.

    The weights differ, for ONNX Runtime shares the memory of equal ones: each has what is `step`
    elements on in that before, so that packed panels stay panels.
    """
    op, attributes = node
    shared = [name for name in constants if name != "w"]
    nodes, outputs, weights = [], [], []
    for i in range(count):
        nodes.append(helper.make_node(op, ["x", f"w{i}", *shared], [f"y{i}"], **attributes))
        kind = helper.np_dtype_to_tensor_dtype(
            np.dtype(np.int32 if x.dtype == np.uint8 else np.float32)
        )
        outputs.append(helper.make_tensor_value_info(f"y{i}", kind, None))
        weights.append(numpy_helper.from_array(np.roll(constants["w"], i * step), f"w{i}"))
    fed = helper.make_tensor_value_info("x", helper.np_dtype_to_tensor_dtype(x.dtype), x.shape)
    held = [numpy_helper.from_array(constants[name], name) for name in shared]
    graph = helper.make_graph(nodes, "products", [fed], outputs, [*weights, *held])
    domains = {"": 21, "com.microsoft": 1, "com.qcompile": 1}
    opsets = [helper.make_opsetid(domain, version) for domain, version in domains.items()]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()


def _float(row: Row) -> tuple[Node, Constants]:
    w = np.random.default_rng(0).standard_normal((row.k, row.n), dtype=np.float32)
    return ("MatMul", {}), {"w": w}


def _integer(row: Row, op: str) -> tuple[Node, Constants]:
    w = np.random.default_rng(0).integers(-127, 128, (row.k, row.n)).astype(np.int8)
    if op == "MatMulInteger":
        return (op, {}), {"w": w, "zero": np.array(128, np.uint8)}
    return (op, {"domain": "com.microsoft"}), {"w": w, "s": np.full(row.n, 0.01, np.float32)}


def _n_bits(row: Row, bits: int, level: int) -> tuple[Node, Constants]:
    rng, blocks = np.random.default_rng(0), row.k // row.peer_block
    held = (row.n, blocks, row.peer_block * bits // 8)
    constants: Constants = {
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
    return ("MatMulNBits", attributes), constants


def versions() -> str:
    """Of ONNX Runtime."""
    return f"ONNX Runtime {ort.__version__}"
