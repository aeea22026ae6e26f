# SPDX-License-Identifier: Apache-2.0
"""OpenVINO's weight-compressed products for benchmarks.kernels (extra `bench`)."""

from collections.abc import Iterator

import numpy as np

from benchmarks.interleave import Candidate
from benchmarks.kernel_candidates import Run, inputs, rotated
from benchmarks.kernel_rows import K, N, Row


def openvino_peers(row: Row, threads: int) -> Iterator[Candidate]:
    """Integer weights of 8 or 4 bits × a scale of 16 bits, activations quantized by OpenVINO."""
    import openvino as ov
    from openvino import opset13 as ops

    if row.activation != "dynamic" or row.asymmetric:
        return
    bits = 4 if row.bits <= 4 else 8
    block = row.peer_block or K
    rng = np.random.default_rng(0)
    codes = rng.integers(-7, 8, (N, K // block, block)).astype(np.int8)
    scales = rng.uniform(0.01, 0.3, (N, K // block, 1)).astype(np.float16)
    x = inputs(row)
    parameter = ops.parameter([row.m, K], np.float32, name="x")
    kind = ov.Type.i4 if bits == 4 else ov.Type.i8
    weight = ops.convert(ops.constant(codes, kind), np.float16)
    weight = ops.reshape(ops.multiply(weight, ops.constant(scales)), [N, K], False)
    weight = ops.convert(weight, np.float32)
    model = ov.Model([ops.matmul(parameter, weight, False, True)], [parameter], "product")
    core = ov.Core()
    options = {
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": block,
    }

    def build() -> Run:
        request = core.compile_model(model, "CPU", options).create_infer_request()
        request.set_input_tensor(ov.Tensor(x, shared_memory=True))
        return request.infer

    yield Candidate(f"OpenVINO int{bits}", rotated(row, K * N * bits // 8, build))
