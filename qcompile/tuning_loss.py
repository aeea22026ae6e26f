# SPDX-License-Identifier: Apache-2.0
"""Loss: how far an output of the quantized network is from the float model's.

Squared error ÷ variance of the float model's; of what a Softmax reads, KL(p ‖ q) in nats of the two
distributions (Hinton et al. 2015, section 2, at temperature 1). Of logits without a Softmax, which
may also be other numbers, it is KL and a tenth of the squared error: that one decides where numbers
are so large that no distribution changes.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qcompile.reverse_products import Real

_SHARE = 0.1  # of the squared error beside KL


@dataclass(frozen=True)
class Loss:
    """Of one output. target: the float model's value.

    axis: of the distributions, None where there are none. has_scale: whether the squared error
    counts, too.
    """

    target: str
    axis: int | None = None
    has_scale: bool = True
    variance: float = 1.0

    def of(self, made: Real, wanted: NDArray) -> tuple[float, Real]:
        """The mean over all elements, or all distributions, and its gradient by `made`.

        >>> Loss("y", variance=2.0).of(np.float32([1, 5]), np.float32([1, 3]))[0]
        1.0
        >>> Loss("y", -1, has_scale=False).of(np.float32([[0, 0]]), np.float32([[9, 9]]))[0]
        0.0
        """
        if self.axis is None:
            return self._squared(made, wanted)
        total, gradient = self._divergence(made, wanted, self.axis)
        if not self.has_scale:
            return total, gradient
        more, slope = self._squared(made, wanted)
        return total + _SHARE * more, gradient + np.float32(_SHARE) * slope

    def _squared(self, made: Real, wanted: NDArray) -> tuple[float, Real]:
        error = (made - wanted).astype(np.float32)
        unit = error.size * self.variance
        total = float(np.square(error, dtype=np.float64).sum())
        return total / unit, error * np.float32(2 / unit)

    def _divergence(self, made: Real, wanted: NDArray, axis: int) -> tuple[float, Real]:
        p, q = logarithms(wanted, axis), logarithms(made, axis)
        count = max(made.size // made.shape[axis], 1)
        total = float((np.exp(p) * (p - q)).sum())
        return total / count, ((np.exp(q) - np.exp(p)) / count).astype(np.float32)


def logarithms(logits: NDArray, axis: int) -> NDArray[np.float64]:
    """Of the Softmax along the axis."""
    wide = logits.astype(np.float64)
    wide -= wide.max(axis, keepdims=True)
    return np.asarray(wide - np.log(np.exp(wide).sum(axis, keepdims=True)))
