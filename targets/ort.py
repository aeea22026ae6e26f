# SPDX-License-Identifier: Apache-2.0
"""ort: plain ONNX Runtime; standard ops and com.microsoft MatMulNBits, no library of ours."""

from qcompile.passes import LOWER_ORT
from qcompile.passes.lower.nbits import BLOCK_SIZES
from qcompile.spec import QuantSpec
from qcompile.targets.target import Request, Target

NBITS = (2, 4, 8)


def refuse(request: Request) -> str | None:
    """None, or why ONNX Runtime has no kernel for the request."""
    weight, activation = request.weight, request.activation
    format = weight.format
    if format.is_table or format.levels is not None or format.has_codebook:
        return f"ONNX Runtime has no kernel for {weight.format}: use --target cpu"
    if request.op_type == "Gather":
        return _refuse_nbits(request)
    is_static = activation is not None and not activation.is_dynamic
    if activation is not None and activation.granularity == "axis":
        return "ONNX Runtime has kernels for one activation scale a tensor: use --target cpu"
    if is_static and activation is not None and activation.bits < 8:
        return "static activations below 8 bits are simulated in ONNX Runtime: use --target cpu"
    if activation is not None and activation.bits != 8:
        return f"ONNX Runtime quantizes to 8 bits; {activation} was asked: use --target cpu"
    if request.op_type == "Conv" or is_static:
        if activation is None:
            return "ONNX Runtime has no Conv with low-bit weights and float activations"
        if weight.format.name != "int8" or weight.granularity == "block":
            return f"ONNX Runtime has no kernel below 8 bits here; {weight} was asked"
        return None
    if activation is not None and weight.granularity != "block":
        if weight.format.name != "int8":
            return f"MatMulInteger takes 8-bit weights; {weight} was asked: use --block-size 32"
        return None
    return _refuse_nbits(request)


def weight_bits(op_type: str, bits: int, activation: QuantSpec | None) -> int:
    """8 for Conv and static products, the next width of MatMulNBits for all others."""
    if op_type == "Conv" or (activation is not None and not activation.is_dynamic):
        return 8
    return next(width for width in NBITS if width >= bits)


def _refuse_nbits(request: Request) -> str | None:
    weight = request.weight
    if weight.bits not in NBITS:
        return f"MatMulNBits takes 2, 4 and 8 bits; {weight.format} was asked: use --target cpu"
    if weight.granularity == "block" and weight.block_size not in BLOCK_SIZES:
        return f"MatMulNBits takes blocks of {BLOCK_SIZES}; {weight.block_size} was asked"
    return None


def kernel(request: Request) -> str:
    """The ORT op that runs the request."""
    activation = request.activation
    if request.op_type == "Gather":
        return "Gather of packed rows"
    if request.op_type == "LSTM":
        return "DynamicQuantizeLSTM"
    if activation is not None and not activation.is_dynamic:
        return "QDQ (ORT fuses it)"
    if request.op_type == "Conv":
        return "ConvInteger"
    if activation is not None and request.weight.granularity != "block":
        return "MatMulInteger"
    return f"MatMulNBits accuracy_level {0 if activation is None else 4}"


ORT = Target(
    "ort",
    "plain ONNX Runtime: standard ops and com.microsoft MatMulNBits, no library",
    needs_library=False,
    refuse=refuse,
    kernel=kernel,
    lower=LOWER_ORT,
    packs=False,
    has_row_ops=False,
    gives_floats=False,  # ONNX Runtime fuses a Conv only with a quantizer behind it
    weight_bits=weight_bits,
    dynamic_note=(
        "a8-dynamic on target ort is ONNX Runtime's own: uint8 with one scale a tensor, or int8 by "
        "block in MatMulNBits; results differ from target cpu, and a sample may depend on its batch"
    ),
    integer_note=(
        "on x86 processors without VNNI ONNX Runtime's int8 kernels saturate unless the session "
        "sets session.x64quantprecision to 1: qcompile.load does, other programs must"
    ),
)
