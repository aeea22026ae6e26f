# SPDX-License-Identifier: Apache-2.0
"""The low-rank part of a weight that its codes leave out, where large inputs count most.

Mozaffari et al. 2025 (SLiM, section 3.3, SLiM-LoRA): of the error E = W − Ŵ [N, K] and the size x
of the inputs of every column,

    E · diag(x) ≈ U S Vᵀ of rank r,    outer = U √S [N, r],    inner = √S Vᵀ diag(1 / x) [r, K]

which is the best of all parts of that rank in the norm ‖(E − outer · inner) diag(x)‖ (Eckart and
Young 1936). x is √E[x²], as in the authors' code (the text has E|x|), less its least and at least
a share of its mean, so that no column is divided by 0.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qcompile.numerics.weight import CodedWeight

Real32 = NDArray[np.float32]
_LEAST_SIZE = 2.0**-10  # of the mean size


@dataclass(frozen=True)
class LowRank:
    """outer [N, r] times inner [r, K], float32; what a product adds to that of its codes.

    inputs: held-out rows [num, 1, K] that show that it helps.
    """

    inner: Real32
    outer: Real32
    inputs: Real32

    def left(self, weight: Real32, coded: CodedWeight) -> float:
        """Σ ((Ŵ + outer · inner − W) x)² over the held-out inputs."""
        return error_of(weight, coded.decode().astype(np.float64) + self.product(), self.inputs)

    def product(self) -> NDArray[np.float64]:
        """[N, K]."""
        return self.outer.astype(np.float64) @ self.inner.astype(np.float64)


def saliency_rank(
    weight: Real32, coded: CodedWeight, second: NDArray[np.float32], rank: int
) -> tuple[Real32, Real32]:
    """inner [r, K] and outer [N, r] of a weight [N, K]; second: E[x²] of its inputs, [K]."""
    size = sizes_of(second)
    error = weight.astype(np.float64) - coded.decode()
    outer, inner = low_rank(error * size, rank)
    return (inner / size).astype(np.float32), outer.astype(np.float32)


def low_rank(matrix: NDArray, rank: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """L [N, rank] and R [rank, K] of the least ‖matrix − L R‖ (Eckart and Young 1936).

    >>> left, right = low_rank(np.diag([3.0, 1.0]), 1)
    >>> (left @ right).round(3).tolist()
    [[3.0, 0.0], [0.0, 0.0]]
    """
    u, s, v = np.linalg.svd(matrix.astype(np.float64), full_matrices=False)
    root = np.sqrt(s[:rank])
    return u[:, :rank] * root, root[:, None] * v[:rank]


def sizes_of(second: NDArray[np.float32]) -> NDArray[np.float64]:
    """x [K] from E[x²]; all ones where no input is anything.

    >>> sizes_of(np.float32([1, 9])).tolist()
    [0.001953125, 2.0]
    """
    size = np.sqrt(np.maximum(second.astype(np.float64), 0))
    mean = float(size.mean())
    if not mean > 0 or not np.isfinite(mean):
        return np.ones(size.shape)
    return np.maximum(size - size.min(), _LEAST_SIZE * mean)


def error_of(weight: Real32, real: NDArray[np.float64], inputs: Real32) -> float:
    """Σ ((Ŵ − W) x)² over inputs [num, 1, K], float64."""
    return float(np.square(inputs[:, 0].astype(np.float64) @ (real - weight).T).sum())
