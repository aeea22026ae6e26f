# SPDX-License-Identifier: Apache-2.0
"""One case of QMatMul or QConv: what the library says and what numerics says."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from qcompile.numerics import conv, matmul
from qcompile.numerics.conv import Window
from qcompile.numerics.dyadic import as_operand
from qcompile.numerics.weight import CodedWeight
from tests.runtime_ops import single_op as one

CLIP = (-40.0, 900.0)
SCALED = {"activation": "static", "output": "f32", "x_zero_point": 117}
SCALED |= {"clip_min": CLIP[0], "clip_max": CLIP[1]}
STATIC = {"activation": "static", "x_zero_point": 117, "y_zero_point": 40, "y_min": 3, "y_max": 250}

DYADIC = STATIC | {"requantize": "dyadic"}
SUMMED = {"activation": "static", "output": "i32", "requantize": "dyadic", "x_zero_point": 117}
SUMMED |= {"y_min": -3000, "y_max": 2**31 - 1}


def assert_within(got, expected, bound) -> None:
    worst = np.argmax(np.abs(got - expected) - bound) if got.size else 0
    assert np.all(np.abs(got - expected) <= bound), (
        f"at {np.unravel_index(worst, got.shape)} of {got.shape}: "
        f"{got.flat[worst]} instead of {expected.flat[worst]} ± {bound.flat[worst]}"
    )


def static_operands(
    rng: np.random.Generator, weight: CodedWeight
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Multipliers of both signs that spread the results; one bias saturates the sum (N11)."""
    n, k = weight.shape
    bias = rng.integers(-5000, 5000, n).astype(np.int32)
    bias[0] = 2**31 - 1
    spread = 60 / (74 * np.sqrt(k) * max(1.0, float(np.abs(weight.values()).mean())))
    multiplier = (rng.uniform(0.5, 1.5, n) * spread).astype(np.float32)
    multiplier[1::3] *= -1  # of weights whose scale is negative (N3)
    return bias, multiplier


def matmul_static(
    rng: np.random.Generator,
    weight: CodedWeight,
    lead: tuple[int, ...],
    threads: int = 1,
    layout: str = "n16k4/1",
) -> tuple[NDArray, NDArray]:
    """(got, expected), uint8."""
    x = rng.integers(0, 256, (*lead, weight.shape[1])).astype(np.uint8)
    bias, multiplier = static_operands(rng, weight)
    attributes = one.weight_attributes(weight, layout) | STATIC
    inputs = [x, one.pack(weight, layout), bias, multiplier]
    outputs = [(TensorProto.UINT8, x.ndim)]
    got = one.run("QMatMul", inputs, attributes, outputs, threads=threads)[0]
    return got, matmul.qmatmul_static(x, weight, bias, multiplier, 117, 40, 3, 250)


def matmul_scaled(
    rng: np.random.Generator,
    weight: CodedWeight,
    lead: tuple[int, ...],
    x: NDArray[np.uint8] | None = None,
    layout: str = "n16k4/1",
) -> tuple[NDArray, NDArray]:
    """(got, expected), float32 (N16)."""
    if x is None:
        x = rng.integers(0, 256, (*lead, weight.shape[1])).astype(np.uint8)
    bias, multiplier = static_operands(rng, weight)
    inputs = [x, one.pack(weight, layout), bias, multiplier]
    outputs = [(TensorProto.FLOAT, x.ndim)]
    got = one.run("QMatMul", inputs, one.weight_attributes(weight, layout) | SCALED, outputs)[0]
    return got, matmul.qmatmul_scaled(x, weight, bias, multiplier, 117, CLIP)


def matmul_dyadic(
    rng: np.random.Generator,
    weight: CodedWeight,
    lead: tuple[int, ...],
    threads: int = 1,
    layout: str = "n16k4/1",
) -> list[tuple[NDArray, NDArray]]:
    """(got, expected) of codes (N12) and of int32 (N17)."""
    x = rng.integers(0, 256, (*lead, weight.shape[1])).astype(np.uint8)
    bias, multiplier = static_operands(rng, weight)
    multiplier = np.abs(multiplier)  # dyadic ones have no sign
    pairs, packed, kind = (
        as_operand(multiplier),
        one.pack(weight, layout),
        one.weight_attributes(weight, layout),
    )
    ratio = as_operand(multiplier / multiplier.max())
    codes = one.run(
        *("QMatMul", [x, packed, bias, pairs], kind | DYADIC, [(TensorProto.UINT8, x.ndim)]),
        threads=threads,
    )[0]
    sums = one.run(
        "QMatMul", [x, packed, bias, ratio], kind | SUMMED, [(TensorProto.INT32, x.ndim)]
    )[0]
    return [
        (codes, matmul.qmatmul_static(x, weight, bias, pairs, 117, 40, 3, 250)),
        (sums, matmul.qmatmul_summed(x, weight, bias, ratio, 117, -3000)),
    ]


def dynamic(bits: int, reach: float | None = None) -> dict[str, Any]:
    """The attributes of dynamic activations."""
    of_reach = {} if reach is None else {"activation_reach": reach}
    return {"activation": "dynamic", "activation_bits": bits, **of_reach}


def matmul_real(
    rng: np.random.Generator,
    weight: CodedWeight,
    lead: tuple[int, ...],
    bits: int | None = 8,
    threads: int = 1,
    layout: str = "n16k4/1",
    reach: float | None = None,
) -> tuple[NDArray, NDArray, NDArray]:
    """(got, expected, bound) of activations that are dynamic of `bits`, or f32 where None."""
    x = rng.standard_normal((*lead, weight.shape[1])).astype(np.float32)
    bias = rng.standard_normal(weight.shape[0]).astype(np.float32)
    kind: dict[str, Any] = {"activation": "f32"}
    if bits is not None:
        kind = dynamic(bits, reach)
    attributes = (
        one.weight_attributes(weight, layout) | kind | {"clip_min": -25.0, "clip_max": 30.0}
    )
    inputs = [x, one.pack(weight, layout), bias, None]
    outputs = [(TensorProto.FLOAT, x.ndim)]
    got = one.run("QMatMul", inputs, attributes, outputs, threads=threads)[0]
    if bits is None:
        return got, *matmul.qmatmul_float(x, weight, bias, (-25.0, 30.0))
    return got, *matmul.qmatmul_dynamic(x, weight, bias, bits, (-25.0, 30.0), reach)


def conv_static(
    rng: np.random.Generator,
    weight: CodedWeight,
    shape: tuple[int, ...],
    window: Window,
    group: int = 1,
    layout: str = "n16k4/1",
    threads: int = 1,
    fed: tuple[int, ...] = (0,),
) -> tuple[NDArray, NDArray]:
    """(got, expected), uint8."""
    x = rng.integers(0, 256, shape).astype(np.uint8)
    bias, multiplier = static_operands(rng, weight)
    kind = one.weight_attributes(weight, layout) | one.window_attributes(window, group)
    packed = one.pack(weight, layout, group if layout == "n16k4/1" else 1)
    inputs = [x, packed, bias, multiplier]
    outputs = [(TensorProto.UINT8, 4)]
    got = one.run("QConv", inputs, kind | STATIC, outputs, fed, threads)[0]
    return got, conv.qconv_static(x, weight, bias, multiplier, window, group, 117, 40, 3, 250)


def conv_scaled(
    rng: np.random.Generator,
    weight: CodedWeight,
    shape: tuple[int, ...],
    window: Window,
    group: int = 1,
    layout: str = "n16k4/1",
) -> tuple[NDArray, NDArray]:
    """(got, expected), float32 (N16)."""
    x = rng.integers(0, 256, shape).astype(np.uint8)
    bias, multiplier = static_operands(rng, weight)
    kind = one.weight_attributes(weight, layout) | one.window_attributes(window, group)
    packed = one.pack(weight, layout, group if layout == "n16k4/1" else 1)
    inputs = [x, packed, bias, multiplier]
    got = one.run("QConv", inputs, kind | SCALED, [(TensorProto.FLOAT, 4)])[0]
    return got, conv.qconv_scaled(x, weight, bias, multiplier, window, group, 117, CLIP)


def conv_dyadic(
    rng: np.random.Generator,
    weight: CodedWeight,
    shape: tuple[int, ...],
    window: Window,
    group: int = 1,
    layout: str = "n16k4/1",
) -> list[tuple[NDArray, NDArray]]:
    """(got, expected) of codes (N12) and of int32 (N17)."""
    x = rng.integers(0, 256, shape).astype(np.uint8)
    bias, multiplier = static_operands(rng, weight)
    multiplier = np.abs(multiplier)  # dyadic ones have no sign
    pairs, ratio = as_operand(multiplier), as_operand(multiplier / multiplier.max())
    kind = one.weight_attributes(weight, layout) | one.window_attributes(window, group)
    packed = one.pack(weight, layout, group if layout == "n16k4/1" else 1)
    outputs = [(TensorProto.UINT8, 4)], [(TensorProto.INT32, 4)]
    codes = one.run("QConv", [x, packed, bias, pairs], kind | DYADIC, outputs[0])[0]
    sums = one.run("QConv", [x, packed, bias, ratio], kind | SUMMED, outputs[1])[0]
    shared = window, group, 117
    return [
        (codes, conv.qconv_static(x, weight, bias, pairs, *shared, 40, 3, 250)),
        (sums, conv.qconv_summed(x, weight, bias, ratio, *shared, -3000)),
    ]


def conv_dynamic(
    rng: np.random.Generator,
    weight: CodedWeight,
    shape: tuple[int, ...],
    window: Window,
    group: int = 1,
    layout: str = "n16k4/1",
    bits: int = 8,
    reach: float | None = None,
) -> tuple[NDArray, NDArray, NDArray]:
    """(got, expected, bound)."""
    x = rng.standard_normal(shape).astype(np.float32)
    bias = rng.standard_normal(weight.shape[0]).astype(np.float32)
    kind = dynamic(bits, reach) | {"clip_min": 0.0}
    kind |= one.weight_attributes(weight, layout) | one.window_attributes(window, group)
    packed = one.pack(weight, layout, group if layout == "n16k4/1" else 1)
    got = one.run("QConv", [x, packed, bias, None], kind, [(TensorProto.FLOAT, 4)])[0]
    return got, *conv.qconv_dynamic(x, weight, bias, window, group, bits, (0.0, np.inf), reach)
