# SPDX-License-Identifier: Apache-2.0
"""QMatMul: a packed weight times activations (N10 … N14).

The integer sums are float64 matrix products, exact while every |sum| < 2^53, which is asserted
(N10). Bounds are returned beside the value, so that no test chooses a tolerance.
"""

import numpy as np
from numpy.typing import NDArray

from qcompile.numerics.dyadic import INT32
from qcompile.numerics.quantize import quantize_dynamic
from qcompile.numerics.requantize import requantize, rescale_sum, scale_sum
from qcompile.numerics.weight import CodedWeight

UNIT = 2.0**-23
INFINITE = (-np.inf, np.inf)


def exact_product(x: NDArray, w: NDArray) -> NDArray[np.int64]:
    """x [M, K] · w [N, K]ᵀ of integers, exact, int64 [M, N] (N10)."""
    a, b = x.astype(np.float64), w.astype(np.float64)
    if a.size and b.size:
        assert np.abs(a).max() * np.abs(b).max() * a.shape[1] < 2.0**53
    return (a @ b.T).astype(np.int64)


def qmatmul_static(
    x: NDArray[np.uint8],
    weight: CodedWeight,
    bias: NDArray[np.int32] | None,
    multiplier: NDArray,
    x_zero_point: int,
    y_zero_point: int,
    y_min: int = 0,
    y_max: int = 255,
) -> NDArray[np.uint8]:
    """Static uint8 activations [..., K] to uint8 [..., N] (N11; N12 by a dyadic multiplier)."""
    rows = x.reshape(-1, x.shape[-1]).astype(np.int32) - x_zero_point
    acc = exact_product(rows, weight.values())
    codes = requantize(acc, 0 if bias is None else bias, multiplier, y_zero_point, y_min, y_max)
    return codes.reshape(*x.shape[:-1], weight.shape[0])


def qmatmul_scaled(
    x: NDArray[np.uint8],
    weight: CodedWeight,
    bias: NDArray[np.int32] | None,
    multiplier: NDArray[np.float32],
    x_zero_point: int,
    clip: tuple[float, float] = INFINITE,
) -> NDArray[np.float32]:
    """Static uint8 activations [..., K] to float32 [..., N] (N16)."""
    rows = x.reshape(-1, x.shape[-1]).astype(np.int32) - x_zero_point
    acc = exact_product(rows, weight.values())
    y = scale_sum(acc, 0 if bias is None else bias, multiplier, clip)
    return y.reshape(*x.shape[:-1], weight.shape[0])


def qmatmul_summed(
    x: NDArray[np.uint8],
    weight: CodedWeight,
    bias: NDArray[np.int32] | None,
    multiplier: NDArray[np.int32],
    x_zero_point: int,
    y_min: int = INT32[0],
    y_max: int = INT32[1],
) -> NDArray[np.int32]:
    """Static uint8 activations [..., K] to int32 [..., N] (N17)."""
    rows = x.reshape(-1, x.shape[-1]).astype(np.int32) - x_zero_point
    acc = exact_product(rows, weight.values())
    y = rescale_sum(acc, 0 if bias is None else bias, multiplier, y_min, y_max)
    return y.reshape(*x.shape[:-1], weight.shape[0])


def block_sums(x: NDArray, weight: CodedWeight) -> NDArray[np.int64]:
    """Exact sums of every block, int64 [num_blocks, M, N]."""
    values, size = weight.values(), weight.block
    parts = [
        exact_product(x[:, k : k + size], values[:, k : k + size])
        for k in range(0, values.shape[1], size)
    ]
    return np.stack(parts)


def qmatmul_dynamic(
    x: NDArray[np.float32],
    weight: CodedWeight,
    bias: NDArray[np.float32] | None = None,
    bits: int = 8,
    clip: tuple[float, float] = INFINITE,
    reach: float | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Per-row dynamic activations [..., K] to (y, bound), float64 [..., N] (N4, N13)."""
    rows = x.reshape(-1, x.shape[-1])
    codes, scale = quantize_dynamic(rows, (1,), bits, reach)
    y, bound = scaled_sum(block_sums(codes, weight), scale, weight, bias)
    shape = (*x.shape[:-1], weight.shape[0])
    return np.clip(y, *clip).reshape(shape), bound.reshape(shape)


def scaled_sum(
    acc: NDArray[np.int64],
    x_scale: NDArray[np.float32],
    weight: CodedWeight,
    bias: NDArray[np.float32] | None,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """`x_scale · Σ w_scale · acc + bias` and its bound (N13).

    acc int64 [num_blocks, M, N]; x_scale float32 [M, 1].
    """
    assert weight.scale is not None
    w_scale = weight.scale.T.astype(np.float64)[:, None, :]
    terms = w_scale * acc
    offset = np.float64(0) if bias is None else bias.astype(np.float64)
    y = x_scale * terms.sum(0) + offset
    bound = (len(acc) + 4) * UNIT * (x_scale * np.abs(terms).sum(0) + np.abs(offset))
    return y, bound


def qmatmul_float(
    x: NDArray[np.float32],
    weight: CodedWeight,
    bias: NDArray[np.float32] | None = None,
    clip: tuple[float, float] = INFINITE,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Float activations [..., K] to (y, bound), float64 [..., N] (N14)."""
    w = weight.decode().astype(np.float64).T
    a = x.astype(np.float64)
    offset = np.float64(0) if bias is None else bias.astype(np.float64)
    with np.errstate(invalid="ignore"):  # infinity · 0 is NaN, and is meant
        bound = (x.shape[-1] + 4) * UNIT * (np.abs(a) @ np.abs(w) + np.abs(offset))
        y = a @ w + offset
    return np.clip(y, *clip), bound
