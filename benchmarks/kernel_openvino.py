# SPDX-License-Identifier: Apache-2.0
"""OpenVINO's weight-compressed products for benchmarks.kernels (extra `bench`).

Integer weights of 8 or 4 bits × a scale of 16 bits, and zero points where the row has them.
"""

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.kernel_rows import Row
from benchmarks.work import Peer, Run, rotated


def openvino_peers(row: Row, threads: int) -> Iterator[Peer]:
    """OpenVINO quantizes the activations where the row's are quantized, and its CPU has a way."""
    bits = 4 if row.bits <= 4 else 8
    name = f"OpenVINO {'u' if row.asymmetric else ''}int{bits}"
    key = (*row.shape, row.peer_block, row.activation)
    yield Peer(name, key, functools.partial(_runs, row, bits, threads))


def _runs(row: Row, bits: int, threads: int) -> list[Run]:
    import openvino as ov

    core, x = ov.Core(), row.inputs()
    options = cpu_options(threads) | {
        # 0 keeps the activations in floats.
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": (
            (row.peer_block or row.k) if row.activation == "dynamic" else 0
        ),
    }

    def build(count: int) -> Run:
        compiled = core.compile_model(_model(row, bits, count), "CPU", options)
        return bound_request(compiled.create_infer_request(), {"x": x})

    return rotated(row.k * row.n * bits // 8, build, is_decode=row.m == 1)


def cpu_options(threads: int) -> dict[str, Any]:
    """One stream, whose threads may go to a core that is free, as those of the others do."""
    return {
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "ENABLE_CPU_PINNING": False,
    }


def bound_request(request: Any, feed: dict[str, NDArray]) -> Run:
    """A run without copies of inputs; it holds them, for the request does not."""
    import openvino as ov

    for name, x in feed.items():
        request.set_tensor(name, ov.Tensor(x, shared_memory=True))

    def run(held: dict[str, NDArray] = feed) -> object:
        return request.infer()

    return run


def _model(row: Row, bits: int, count: int) -> object:
    """So many products of x."""
    import openvino as ov
    from openvino import opset13 as ops

    x = ops.parameter([row.m, row.k], np.float32)
    x.output(0).set_names({"x"})
    products = [ops.matmul(x, _weight(row, bits), False, True) for _ in range(count)]
    return ov.Model(products, [x], "products")


def _weight(row: Row, bits: int) -> object:
    """The pattern that OpenVINO keeps compressed: codes, less zero points, times scales."""
    import openvino as ov
    from openvino import opset13 as ops

    rng, block = np.random.default_rng(0), row.peer_block or row.k
    blocks = (row.n, row.k // block)
    kind = getattr(ov.Type, f"{'u' if row.asymmetric else 'i'}{bits}")
    stored, low, high = (np.uint8, 0, 16) if row.asymmetric else (np.int8, -7, 8)
    codes = rng.integers(low, high, (*blocks, block)).astype(stored)
    weight = ops.convert(ops.constant(codes, kind), np.float16)
    if row.asymmetric:
        zeros = rng.integers(low, high, (*blocks, 1)).astype(stored)
        weight = ops.subtract(weight, ops.convert(ops.constant(zeros, kind), np.float16))
    scales = rng.uniform(0.01, 0.3, (*blocks, 1)).astype(np.float16)
    weight = ops.reshape(ops.multiply(weight, ops.constant(scales)), [row.n, row.k], False)
    return ops.convert(weight, np.float32)


def version() -> str:
    """Of OpenVINO."""
    from openvino import get_version

    return f"OpenVINO {get_version().split('-')[0]}"
