# SPDX-License-Identifier: Apache-2.0
"""An orthogonal matrix that learn_rotation.py found, in place of a random one."""

import hashlib
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from qcompile.numerics.hadamard import Rotation


@dataclass(frozen=True)
class Learned:
    """A dense orthogonal matrix R [size, size]; longer axes are turned block by block."""

    start: Rotation
    steps: int
    digest: str  # of the matrix, so that two of them are told apart
    matrix: NDArray[np.float64] = field(repr=False, compare=False)

    @classmethod
    def of(cls, start: Rotation, steps: int, matrix: NDArray[np.float64]) -> "Learned":
        """With its digest."""
        return cls(start, steps, hashlib.sha256(matrix.tobytes()).hexdigest(), matrix)

    @property
    def text(self) -> str:
        """For people."""
        return f"learned in {self.steps} steps from {self.start.text}"

    @property
    def seed(self) -> int:
        """Of the matrix that it began with."""
        return self.start.seed

    def times(self, x: NDArray) -> NDArray[np.float64]:
        """x · R over the last axis, float64."""
        wide = x.astype(np.float64).reshape(-1, len(self.matrix))
        return np.asarray(wide @ self.matrix).reshape(x.shape)

    def readers(self, weight: NDArray) -> NDArray[np.float64]:
        """What takes x · R back: W · R, since R is orthogonal."""
        return self.times(weight)
