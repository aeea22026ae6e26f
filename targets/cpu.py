# SPDX-License-Identifier: Apache-2.0
"""cpu: ONNX Runtime with qcompile's own op library (x86-64 and aarch64)."""

from qcompile.layouts.n16k4 import chunk_columns
from qcompile.passes import LOWER_CPU, LOWER_INTEGER
from qcompile.targets.target import Request, Target

# N10: |x| ≤ 128 and u ≤ 255 keep an int32 sum of this many products exact.
LONGEST_SUM = 65_536
PRODUCTS = ("MatMul", "Gemm")
CODEBOOK = (
    "is for float activations: its blocks have values of their own, which integer products cannot "
    "read; use w..a16"
)
BY_CHANNEL = (
    "one activation scale a channel folds into the weight scales of a depthwise Conv, and of no "
    "other product"
)


def refuse(request: Request) -> str | None:
    """None, or why no kernel runs the request."""
    weight, activation = request.weight, request.activation
    if weight.format.has_codebook and activation is not None:
        return f"{weight.format} {CODEBOOK}"
    if weight.format.has_codebook and request.op_type not in PRODUCTS:
        return f"{weight.format} is for MatMul, and {request.op_type} reads it, too"
    if weight.format.turns is not None and request.op_type not in PRODUCTS:
        return (
            f"{weight.format} is for MatMul, whose input is turned, and not for {request.op_type}"
        )
    if request.op_type == "Conv":
        if activation is None:
            return "Conv has no kernel for float activations: use a8-dynamic or a8"
        if weight.granularity == "block":
            return f"Conv takes one scale an output; {weight} was asked"
    if activation is not None and activation.granularity == "axis" and not request.is_depthwise:
        return f"{BY_CHANNEL}: leave out activation_granularity here"
    is_static = activation is not None and not activation.is_dynamic
    if is_static and weight.format.turns is not None:
        return f"{weight.format} turns inputs at run time, which codes are no more: use a8-dynamic"
    if is_static and weight.granularity == "block":
        return f"static activations take one scale an output; {weight} was asked: use a8-dynamic"
    if weight.granularity != "block" and activation is not None and request.K > LONGEST_SUM:
        cure = "" if request.op_type == "Conv" else ": use --block-size"
        return f"K = {request.K}; one int32 sum holds {LONGEST_SUM} products (N10){cure}"
    if weight.granularity == "block" and weight.block_size % chunk_columns(weight.format):
        step = chunk_columns(weight.format)
        return (
            f"block size {weight.block_size} is no multiple of {step}, which {weight.format} needs"
        )
    return None


def kernel(request: Request) -> str:
    """The op and its activation form, as `--dry-run` names it."""
    if request.op_type == "Gather":
        return "QGather"
    if request.op_type == "LSTM":
        return "DynamicQuantizeLSTM"
    op = "QConv" if request.op_type == "Conv" else "QMatMul"
    if request.activation is None:
        return f"{op} f32"
    return f"{op} {'dynamic' if request.activation.is_dynamic else 'static'}"


CPU = Target(
    "cpu",
    "ONNX Runtime on x86-64 or aarch64 with qcompile's packed kernels",
    needs_library=True,
    refuse=refuse,
    kernel=kernel,
    lower=LOWER_CPU,
    packs=True,
    lower_integer=LOWER_INTEGER,
)
