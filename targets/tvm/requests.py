# SPDX-License-Identifier: Apache-2.0
"""What the TVM targets run: static codes of 4 to 8 bits, dense convolutions and products."""

from qcompile.targets.target import Request

THERE = "the TVM targets have a kernel"


def refuse(request: Request) -> str | None:
    """None, or why no kernel runs the request."""
    weight, activation = request.weight, request.activation
    if request.op_type not in ("Conv", "MatMul", "Gemm"):
        return f"no {request.op_type} has one there: {THERE} for Conv, MatMul and Gemm"
    format = weight.format
    is_integer = not format.is_table and format.levels is None and not format.has_codebook
    if not is_integer or weight.granularity == "block":
        return f"{THERE} for integers with one scale an output; {weight} was asked"
    if activation is not None and activation.granularity == "axis":
        return f"{THERE} for one activation scale a tensor: leave out activation_granularity"
    if request.group != 1:
        return f"it has {request.group} groups; {THERE} for 1: use --target cpu --integer-only"
    return None


def is_narrow(request: Request) -> bool:
    """Whether weights and codes both have 4 bits."""
    activation = request.activation
    return activation is not None and max(request.weight.bits, activation.bits) <= 4
