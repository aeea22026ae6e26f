# SPDX-License-Identifier: Apache-2.0
"""QDynamicAttention: softmax(q · k · scale + mask) · v of floats, by products of codes (N32).

Few rows are computed in floats. Keys are quantized without their mean, which softmax does not see:
SageAttention (Zhang et al. 2024, section 4.2), which keeps v in float16 where N32 has a scale a
channel.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qcompile.numerics.attention import HUGE, LONGEST, exp_codes, share_heads
from qcompile.numerics.quantize import quantize_dynamic

BITS = 8
FEW_ROWS = 16  # that share a head of keys: fewer do not pay its coding


@dataclass(frozen=True)
class Coded:
    """q, k and v in codes.

    q int8 [..., L, D], q_scale [..., L, 1]; k int8 [..., D, S], k_scale [..., 1, S]; v int8
    [..., S, E], v_scale [..., 1, E]. is_lost: [..., 1, 1] heads whose keys have a NaN or infinity.
    """

    q: NDArray[np.int8]
    q_scale: NDArray[np.float32]
    k: NDArray[np.int8]
    k_scale: NDArray[np.float32]
    v: NDArray[np.int8]
    v_scale: NDArray[np.float32]
    is_lost: NDArray[np.bool_]

    def dequantized(self) -> list[NDArray[np.float32]]:
        """q, k without its mean, and v, as float32."""
        pairs = ((self.q, self.q_scale), (self.k, self.k_scale), (self.v, self.v_scale))
        return [codes.astype(np.float32) * scale for codes, scale in pairs]


def without_mean(k: NDArray[np.float32]) -> NDArray[np.float32]:
    """k float32 [..., D, S] without its mean over S: a sum in the order of s, then one product.

    >>> without_mean(np.float32([[1, 2, 6]])).tolist()
    [[-2.0, -1.0, 3.0]]
    """
    with np.errstate(over="ignore", invalid="ignore"):
        total = np.cumsum(k, axis=-1, dtype=np.float32)[..., -1:]
        return np.asarray(k - total * (np.float32(1) / np.float32(k.shape[-1])), np.float32)


def code_operands(q: NDArray[np.float32], k: NDArray[np.float32], v: NDArray[np.float32]) -> Coded:
    """The codes and scales; heads that are shared are repeated."""
    q, k, v = share_heads(q, k, v)
    q_codes, q_scale = quantize_dynamic(q, (q.ndim - 1,), BITS)
    k_codes, k_scale = quantize_dynamic(without_mean(k), (k.ndim - 2,), BITS)
    v_codes, v_scale = quantize_dynamic(v, (v.ndim - 2,), BITS)
    lost = np.asarray(np.isnan(k_scale).any(-1, keepdims=True))
    return Coded(q_codes, q_scale, k_codes, k_scale, v_codes, v_scale, lost)


def scores_of(
    coded: Coded, mask: NDArray[np.float32] | None, multiplier: float
) -> NDArray[np.float32]:
    """float32 [..., L, S]: each sum exact, two products and the mask's sum rounded."""
    assert coded.q.shape[-1] <= LONGEST
    sums = coded.q.astype(np.float64) @ coded.k.astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        scores = (sums.astype(np.float32) * coded.k_scale) * (
            coded.q_scale * np.float32(multiplier)
        )
        return scores if mask is None else scores + mask.astype(np.float32)


def is_in_floats(q: NDArray[np.float32], k: NDArray[np.float32]) -> bool:
    """Whether all is computed in floats: few rows share a head of keys, or sums leave int32."""
    if max(k.shape[-2:]) > LONGEST:
        return True
    heads = np.prod([max(a, b) for a, b in zip(q.shape[:-2], k.shape[:-2], strict=True)])
    return bool(q.shape[-2] * (heads // max(np.prod(k.shape[:-2]), 1)) < FEW_ROWS)


def qdynamic_attention(
    q: NDArray[np.float32],
    k: NDArray[np.float32],
    v: NDArray[np.float32],
    mask: NDArray[np.float32] | None,
    multiplier: float,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """float32 values [..., L, E] as float64, and how far they may be off (N32).

    q float32 [..., L, D], k [..., D, S], v [..., S, E]; what leads of k and v divides what leads of
    q; mask float32, broadcasts to [..., L, S]. The roundings of codes are all fixed: bound 0.

    >>> q, k = np.float32([[1, 0]] * 16), np.float32([[9, -9], [0, 0]])
    >>> qdynamic_attention(q, k, np.float32([[5, 1], [7, 2]]), None, 1.0)[0][0].tolist()
    [5.015748500823975, 1.0078741312026978]
    """
    if is_in_floats(q, k):
        return float_attention(q, k, v, mask, multiplier)
    coded = code_operands(q, k, v)
    codes = exp_codes(scores_of(coded, mask, multiplier))
    assert v.shape[-2] <= LONGEST
    sums = codes.astype(np.float64) @ coded.v.astype(np.float64)
    total = codes.sum(-1, keepdims=True, dtype=np.int64).astype(np.float64)
    each = np.divide(1.0, total, where=total > 0, out=0 * total).astype(np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        y = (sums.astype(np.float32) * coded.v_scale) * each
    is_lost = coded.is_lost | np.isnan(coded.q_scale)
    return np.where(is_lost, np.nan, y.astype(np.float64)), np.zeros(y.shape)


def float_attention(
    q: NDArray[np.float32],
    k: NDArray[np.float32],
    v: NDArray[np.float32],
    mask: NDArray[np.float32] | None,
    multiplier: float,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """float64 values [..., L, E] of few rows, and the bound of N32.

    A weight is off by the factor exp(2 · error of a score + 2^-18 + 2^-22 · |score − largest|) at
    most; sums of S terms in any order.
    """
    given = [x.astype(np.float64) for x in share_heads(q, k, v)]
    return _float_attention(given, mask, float(np.float32(multiplier)))


def _float_attention(
    operands: list[NDArray[np.float64]], mask: NDArray[np.float32] | None, multiplier: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    q, k, v = operands
    with np.errstate(over="ignore", invalid="ignore"):
        sums = q @ k
        lost = ~np.isfinite(sums.astype(np.float32)).all(-1, keepdims=True)
        scores = sums * multiplier + (0 if mask is None else mask)
        scores = np.minimum(np.where(np.isnan(scores), -np.inf, scores), np.float64(HUGE))
        largest = scores.max(-1, keepdims=True, initial=-np.inf)
        below = np.where(largest == -np.inf, np.inf, largest - scores)
        error = (q.shape[-1] + 4) * 2.0**-23 * (np.abs(q) @ np.abs(k)) * abs(multiplier)
        error += 2.0**-22 * np.abs(np.where(scores == -np.inf, 0, scores))
    weights = np.exp(-below)
    total = np.maximum(weights.sum(-1, keepdims=True), 2.0**-1000)
    with np.errstate(over="ignore", invalid="ignore"):
        y = weights @ v / total
        y = np.where(lost | ~np.isfinite(y), np.nan, y)
        off = (
            2 * error.max(-1, keepdims=True, initial=0)
            + 2.0**-18
            + 2.0**-22 * np.minimum(below, 500)
        )
        relative = np.expm1(np.minimum(off, 1))
        columns = [
            (weights * relative * np.abs(v[..., None, :, e] - y[..., e, None])).sum(-1)
            for e in range(v.shape[-1])
        ]
        bound = 2 * np.stack(columns, -1) / total if columns else np.zeros(y.shape)
        apart = v.max(-2, keepdims=True) - v.min(-2, keepdims=True)
        bound = np.where(relative.max(-1, keepdims=True) < 0.5, np.minimum(bound, apart), apart)
        largest_value = np.abs(v).max(-2, keepdims=True)
        bound += (k.shape[-1] + 8) * 2.0**-23 * (weights @ np.abs(v) / total)
    return y, bound + 2.0**-100 * largest_value


def as_computed(
    q: NDArray[np.float32],
    k: NDArray[np.float32],
    v: NDArray[np.float32],
    mask: NDArray[np.float32] | None,
    multiplier: float,
) -> tuple[list[NDArray[np.float32]], NDArray[np.float64]]:
    """q, k and v whose float attention N32 computes, and how far that may be from float32's."""
    if is_in_floats(q, k):
        return share_heads(q, k, v), 2 * float_attention(q, k, v, mask, multiplier)[1]
    coded = code_operands(q, k, v)
    return coded.dequantized(), dynamic_rounding_bound(coded, mask, multiplier)


def dynamic_rounding_bound(
    coded: Coded, mask: NDArray[np.float32] | None, multiplier: float
) -> NDArray[np.float64]:
    """float64 [..., L, E]: how far N32 may be from float32 attention of the dequantized codes.

    With codes c = 255 e + d of the exponentials, as in N30, Σ |d| |v − y| / Σ c. A score is
    (D + 8) · 2^-23 · (Σ |q| |k| · multiplier + |score|) off at most, and the output twice that
    times the largest distance of two values; float sums of S terms, and the roundings of the
    output, are (S + 8) · 2^-23 · the largest value. NaN where a row sees nothing.
    """
    q, k, v = (x.astype(np.float64) for x in coded.dequantized())
    scores = scores_of(coded, mask, multiplier).astype(np.float64)
    with np.errstate(invalid="ignore"):
        below = scores.max(-1, keepdims=True) - scores
    exact, codes = np.exp(-below), exp_codes(scores.astype(np.float32)).astype(np.float64)
    total = np.maximum(codes.sum(-1, keepdims=True), 1)
    y = exact @ v / exact.sum(-1, keepdims=True)
    d = 0.5 + 255 * (2.0**-18 + 2.0**-22 * np.minimum(below, 2**10))
    columns = [
        (d * np.abs(v[..., None, :, e] - y[..., e, None])).sum(-1) for e in range(v.shape[-1])
    ]
    rounding = np.stack(columns, -1) / total
    sums = (np.abs(q) @ np.abs(k)).max(-1, keepdims=True) * abs(multiplier)
    largest = np.abs(scores.max(-1, keepdims=True))
    error = (q.shape[-1] + 8) * 2.0**-23 * (sums + largest)
    apart = v.max(-2, keepdims=True) - v.min(-2, keepdims=True)
    floats = (v.shape[-2] + 8) * 2.0**-23 * np.abs(v).max(-2, keepdims=True)
    return np.asarray(rounding + 2 * error * apart + floats)
