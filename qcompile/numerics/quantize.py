# SPDX-License-Identifier: Apache-2.0
"""Quantize and dequantize (N1 … N7)."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qcompile.formats import Format, scale_format

SMALLEST_SCALE = np.float32(2.0**-126)  # of activations: f32, normal


def quantize(
    real: ArrayLike,
    scale: ArrayLike,
    zero_point: ArrayLike,
    format: Format,
    *,
    symmetric: bool = True,
) -> NDArray[np.int16]:
    """Nearest code, ties to even, clamped to the format's range (N2, N3).

    real float32 [...]; scale > 0 and zero_point broadcastable to real; returns int16 codes of
    real's shape. NaN gives the zero point (N24).

    >>> from qcompile.formats import get
    >>> quantize([-1.0, 0.25, 0.7], 1 / 7, 0, get("int4")).tolist()
    [-7, 2, 5]
    >>> quantize([0.3, -3.0, 2.5], 0.5, 0, get("e2m1")).tolist()
    [1, 13, 4]
    """
    with np.errstate(over="ignore"):
        ratio = np.divide(real, scale, dtype=np.float32)
    ratio = np.where(np.isnan(ratio), np.float32(0), ratio)
    if format.is_table:
        return nearest_in_table(ratio, format)
    low, high = format.quantized_range(symmetric=symmetric)
    code = np.rint(ratio).astype(np.float64) + np.asarray(zero_point, np.float64)
    return np.clip(code, low, high).astype(np.int16)


def nearest_in_table(ratio: NDArray[np.float32], format: Format) -> NDArray[np.int16]:
    """Index of the nearest table value; a tie goes to the even index (N2)."""
    values = format.values.astype(np.float64)
    order = np.lexsort((format.codes, values))
    order = order[np.r_[True, np.diff(values[order]) > 0]]  # −0 repeats 0: the smaller index stays
    sorted_values = values[order]
    middles = (sorted_values[1:] + sorted_values[:-1]) / 2
    at = np.searchsorted(middles, ratio.astype(np.float64), side="left")
    ties = (at < len(middles)) & (
        middles[np.minimum(at, len(middles) - 1)] == ratio.astype(np.float64)
    )
    upper = order[np.minimum(at + 1, len(order) - 1)]
    chosen = order[at]
    return np.where(ties & (chosen % 2 == 1) & (upper % 2 == 0), upper, chosen).astype(np.int16)


def dequantize(
    code: ArrayLike, scale: ArrayLike, zero_point: ArrayLike, format: Format
) -> NDArray[np.float32]:
    """`scale · (value − zero_point)` (N1), float32 of the codes' shape.

    >>> from qcompile.formats import get
    >>> dequantize([0, 255], 0.5, 128, get("uint8")).tolist()
    [-64.0, 63.5]
    """
    value = format.values[np.asarray(code, np.int32) - format.code_min].astype(np.int64)
    return (value - np.asarray(zero_point, np.int64)).astype(np.float32) * np.asarray(
        scale, np.float32
    )


def store_scale(scale: ArrayLike, form: str) -> NDArray[np.float32]:
    """The scale as its format (formats/scales.py) stores it, float32 (N6).

    It is normal and at most the largest; with a unit, the float32 product of that and the stored.

    >>> store_scale([0.1, 1e-9], "f16").tolist()
    [0.0999755859375, 6.103515625e-05]
    >>> store_scale([0.1, 3.0], "e8m0").tolist(), store_scale([0.1], "ue4m3*0.5").tolist()
    ([0.125, 4.0], [0.1015625])
    """
    stored_as = scale_format(form)
    real = np.asarray(scale, np.float32)
    if stored_as.unit == 1:
        return stored_as.rounded(real)
    with np.errstate(over="ignore"):
        return stored_as.rounded(real / stored_as.unit) * stored_as.unit


def dynamic_scale(
    x: NDArray[np.float32], axes: tuple[int, ...], bits: int, reach: float | None = None
) -> NDArray[np.float32]:
    """The scale of b-bit dynamic activations (N4), over `axes` with these dimensions kept as 1.

    reach: the largest |x| in scales, the largest code where it is None; more than that clips.

    >>> dynamic_scale(np.array([[1.0, -2.54], [0.0, 0.0]], np.float32), (1,), 8).ravel().tolist()
    [0.019999999552965164, 1.0]
    """
    if 0 in x.shape:
        return np.ones([1 if i in axes else n for i, n in enumerate(x.shape)], np.float32)
    amax = np.abs(x).max(axis=axes, keepdims=True)
    largest = np.float32(2 ** (bits - 1) - 1 if reach is None else reach)
    scale = np.maximum(amax / largest, SMALLEST_SCALE)
    scale = np.where(amax == 0, np.float32(1), scale)
    return np.where(np.isfinite(amax), scale, np.float32(np.nan)).astype(np.float32)


def quantize_dynamic(
    x: NDArray[np.float32], axes: tuple[int, ...], bits: int, reach: float | None = None
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Codes int8 of x's shape and the scale over `axes` (N4).

    >>> quantize_dynamic(np.array([[1.0, -8.0]], np.float32), (1,), 4, reach=8.0)[0].tolist()
    [[1, -7]]
    """
    scale = dynamic_scale(x, axes, bits, reach)
    limit = 2 ** (bits - 1) - 1
    with np.errstate(invalid="ignore"):
        ratio = x / scale
    codes = np.clip(np.rint(np.where(np.isfinite(scale), ratio, 0)), -limit, limit)
    return codes.astype(np.int8), scale


def bias_codes(
    bias: NDArray[np.float32], x_scale: ArrayLike, w_scale: NDArray[np.float32]
) -> NDArray[np.int32]:
    """The int32 bias [N] of a static product (N7); x_scale is one number or, depthwise, [N]."""
    real = bias.astype(np.float64) / (np.asarray(x_scale, np.float64) * w_scale.astype(np.float64))
    return np.clip(np.rint(real), -(2.0**31 - 1), 2.0**31 - 1).astype(np.int32)
