# SPDX-License-Identifier: Apache-2.0
"""QAttention: softmax(q · k · scale + mask) · v between quantized tensors (N30, N43)."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qcompile.numerics.softmax_formats import PLANE, UINT8, SoftmaxFormat

LONGEST = 2**15  # K · 255 · 255 < 2^31
LOG2_E = np.float32(1.44269504)
# 2^f = 1 + f · (c1 + f · (c2 + f · (c3 + f · c4))) within 3e-6 of itself for |f| ≤ 1/2.
POWER = tuple(np.float32(c) for c in (0.693124175, 0.240240991, 0.055906426, 0.009582853))
LOWEST = np.float32(-15)  # 255 · 2^-15 is code 0
HUGE = np.float32(np.finfo(np.float32).max)


@dataclass(frozen=True)
class Numbers:
    """Zero points, `q_scale · k_scale · scale`, `v_scale / y_scale` and what weights there are."""

    q_zero_point: int
    k_zero_point: int
    v_zero_point: int
    multiplier: float
    y_multiplier: float
    softmax: SoftmaxFormat = UINT8


def exp_codes(scores: NDArray[np.float32]) -> NDArray[np.uint8]:
    """uint8 [..., S]: 255 · exp(score − the largest of the row), of float32 [..., S] (N30).

    The bound: |code − 255 · exp| ≤ 1/2 + 255 · (2^-18 + 2^-22 · |score − largest|).

    >>> exp_codes(np.float32([[2.0, 2.0, 1.0, -np.inf], [-np.inf] * 4]))
    array([[255, 255,  94,   0],
           [  0,   0,   0,   0]], dtype=uint8)
    """
    return weights_of(scores, UINT8).astype(np.uint8)


def weights_of(scores: NDArray[np.float32], softmax: SoftmaxFormat) -> NDArray[np.int64]:
    """int64 [..., S]: top · exp(score − the largest of the row) on the format's levels (N30, N43).

    >>> weights_of(np.float32([2.0, 1.0, -1.0, -2.5, -9.0]), SoftmaxFormat.parse("log2_3"))
    array([64, 32,  4,  1,  0])
    """
    if scores.size == 0:
        return np.zeros(scores.shape, np.int64)
    found = np.minimum(np.where(np.isnan(scores), -np.inf, scores), HUGE).astype(np.float32)
    largest = found.max(-1, keepdims=True)
    with np.errstate(over="ignore", invalid="ignore"):  # −inf, which LOWEST bounds; −inf − −inf
        steps = np.maximum((found - largest) * LOG2_E, LOWEST)
    steps = np.where(np.isnan(steps), LOWEST, steps)
    whole = np.rint(steps)
    scale = np.ldexp(np.float32(softmax.top), whole.astype(np.int32))
    if softmax.is_log2:
        weights = np.rint(scale)
    else:
        f = steps - whole
        c1, c2, c3, c4 = POWER
        weights = np.rint(((((c4 * f + c3) * f + c2) * f + c1) * f + np.float32(1)) * scale)
    is_seen = np.isfinite(largest)  # else every weight is 0
    return softmax.on_levels(np.where(is_seen, weights, 0).astype(np.int64))


def share_heads(*operands: NDArray) -> list[NDArray]:
    """q, k and v with the same sizes before the last two.

    Of an operand that has fewer heads each is repeated, as often in a row as it takes.

    >>> share_heads(np.zeros((4, 1, 1)), np.arange(2).reshape(2, 1, 1))[1].ravel().tolist()
    [0, 0, 1, 1]
    """
    found = list(operands)
    for axis in range(min(x.ndim for x in found) - 2):
        sizes = [x.shape[axis] for x in found]
        size = 0 if 0 in sizes else max(sizes)
        found = [
            np.take(x, np.arange(size) // (size // max(x.shape[axis], 1) or 1), axis) for x in found
        ]
    return found


def scores_of(
    q: NDArray[np.uint8],
    k: NDArray[np.uint8],
    mask: NDArray[np.float32] | None,
    numbers: Numbers,
) -> NDArray[np.float32]:
    """float32 [..., L, S] of q uint8 [..., L, D] and k uint8 [..., D, S]; the sums are exact."""
    sums = _centred(q, numbers.q_zero_point) @ _centred(k, numbers.k_zero_point)
    assert q.shape[-1] <= LONGEST
    scores = sums.astype(np.float32) * np.float32(numbers.multiplier)
    return scores if mask is None else scores + mask.astype(np.float32)


def qattention(
    q: NDArray[np.uint8],
    k: NDArray[np.uint8],
    v: NDArray[np.uint8],
    mask: NDArray[np.float32] | None,
    numbers: Numbers,
    y_zero_point: int,
    y_min: int = 0,
    y_max: int = 255,
) -> NDArray[np.uint8]:
    """uint8 [..., L, E] (N30); what leads k and v divides what leads q, or the other way round.

    q uint8 [..., L, D], k uint8 [..., D, S], v uint8 [..., S, E], mask float32 that broadcasts to
    [..., L, S].

    >>> q, k = np.full((1, 4), 3, np.uint8), np.full((4, 2), 5, np.uint8)
    >>> v = np.uint8([[10, 20, 30], [20, 30, 50]])
    >>> qattention(q, k, v, None, Numbers(0, 0, 0, 0.1, 1.0), y_zero_point=1)
    array([[16, 26, 41]], dtype=uint8)
    """
    q, k, v = share_heads(q, k, v)
    weights = weights_of(scores_of(q, k, mask, numbers), numbers.softmax)
    assert v.shape[-2] <= LONGEST
    sums = weighted_sums(weights, _centred(v, numbers.v_zero_point), numbers.softmax)
    total = weights.sum(-1, keepdims=True).astype(np.float64)
    each = np.divide(
        np.float64(np.float32(numbers.y_multiplier)), total, where=total > 0, out=0 * total
    )
    code = np.rint(sums * each.astype(np.float32)).astype(np.float64)
    return np.clip(code + y_zero_point, y_min, y_max).astype(np.uint8)


def weighted_sums(
    weights: NDArray[np.int64], values: NDArray[np.float64], softmax: SoftmaxFormat
) -> NDArray[np.float32]:
    """float32 [..., L, E]: Σ weight · value, exact, then rounded; of wide weights in two planes.

    values: integers [..., S, E].

    >>> values = np.array([[3.0], [-1.0]])
    >>> weighted_sums(np.array([[2**14, 2]]), values, SoftmaxFormat.parse("log2_4"))
    array([[49150.]], dtype=float32)
    """
    if not softmax.is_wide:
        return (weights.astype(np.float64) @ values).astype(np.float32)
    high, low = ((w.astype(np.float64) @ values).astype(np.float32) for w in divmod(weights, PLANE))
    return high * np.float32(PLANE) + low


def rounding_bound(
    q: NDArray[np.uint8],
    k: NDArray[np.uint8],
    v: NDArray[np.uint8],
    mask: NDArray[np.float32] | None,
    numbers: Numbers,
) -> NDArray[np.float64]:
    """float64 [..., L, E]: how far, in codes of y, N30 may be from the softmax of real numbers.

    With weights c = top · e + d of the exponentials e, |d| at most `SoftmaxFormat.error_bound`,
    the output is Σ c (v − y) / Σ c away from the exact y = Σ e v / Σ e, that is
    Σ d (v − y) / Σ c: at most Σ |d| |v − y| / Σ c. Rounding y to a code is not in it. NaN where a
    row sees nothing.
    """
    scores = scores_of(q, k, mask, numbers).astype(np.float64)
    with np.errstate(invalid="ignore"):  # rows that see nothing have no bound
        below = scores.max(-1, keepdims=True) - scores
    exact, weights = np.exp(-below), weights_of(scores.astype(np.float32), numbers.softmax)
    values = _centred(v, numbers.v_zero_point)
    d = numbers.softmax.error_bound(exact, below)
    y = exact @ values / exact.sum(-1, keepdims=True)
    total = np.maximum(weights.sum(-1, keepdims=True), 1)
    # Σ_s d |v − y|, one output column at a time: [..., L, S] is the largest array
    columns = [
        (d * np.abs(values[..., None, :, e] - y[..., e, None])).sum(-1) for e in range(y.shape[-1])
    ]
    return np.stack(columns, -1) / total * abs(numbers.y_multiplier)


def _centred(x: NDArray[np.uint8], zero_point: int) -> NDArray[np.float64]:
    return x.astype(np.float64) - zero_point
