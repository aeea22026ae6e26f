# SPDX-License-Identifier: Apache-2.0
"""Distribution: AdaQuant's steps on the loss of ABQ-LLM, which also asks for the right direction.

Zeng et al. 2024 (ABQ-LLM, section 3.2, distribution correction): with the quantized output d, that
of the float network d_fp, and d_own of the float weight on the quantized network's inputs,

    ‖d − d_fp‖² + ‖d − d_own‖² − log cos(d, d_fp) − log cos(d, d_own)

cos is that of all outputs of one place, and its mean over the places stands in the logarithm. d_own
asks the layer for its own part alone, d_fp also for what the layers before it lost.

Deviations: one layer in place of a transformer block, behind its Relu or Clip; what moves is that
of AdaQuant (adaquant.py) in place of learned clips and equalisation, which begin at the nearest
codes; squared errors are divided by the variance of d_fp, so that both kinds of terms weigh alike
in every layer. The divergence of attention maps is left out: a layer has none.
"""

from dataclasses import dataclass, replace

import numpy as np

from qcompile.numerics.weight import CodedWeight
from qcompile.passes.transform.adaquant import adaquant
from qcompile.passes.transform.layer_rows import LayerRows, Real32, Rebuilt, Setting, products

_LEAST_COSINE = 2.0**-10  # the logarithm is not taken of less


def distribution(
    weight: Real32, start: CodedWeight, bias: Real32 | None, rows: LayerRows, setting: Setting
) -> Rebuilt:
    """Codes and scales of a weight [N, K], the bias [N], and the scale of inputs with a grid."""
    return adaquant(weight, start, bias, DistributionRows.of(weight, rows), setting)


@dataclass(frozen=True)
class DistributionRows(LayerRows):
    """Rows with d_own before its Relu, [groups, num, N/groups], and the variance of d_fp."""

    own: Real32 | None = None
    variance: float = 1.0

    @classmethod
    def of(cls, weight: Real32, rows: LayerRows) -> "DistributionRows":
        """Of a float weight [N, K]."""
        own = products(rows.inputs(), weight, rows.bias)
        variance = max(float(np.clip(rows.y, *rows.bounds).var(dtype=np.float64)), 2.0**-126)
        return cls(**vars(rows), own=own, variance=variance)

    def drawn(self, rng: np.random.Generator) -> "DistributionRows":
        """Some of them, for a step."""
        at = self.places(rng)
        assert self.own is not None
        return replace(self, x=self.x[:, at], y=self.y[:, at], own=self.own[:, at])

    def loss(self, made: Real32) -> tuple[float, Real32]:
        """The loss of sums `made`, and its gradient by them."""
        low, high = np.float32(self.bounds[0]), np.float32(self.bounds[1])
        seen, inside = np.clip(made, low, high), (made > low) & (made < high)
        total, gradient = 0.0, np.zeros_like(made)
        for sums in (self.y, self.own):
            assert sums is not None
            target = np.clip(sums, low, high)
            error = seen - target
            unit = max(error.size, 1) * self.variance
            turned, slope = _turned(seen, target)
            total += float(np.square(error, dtype=np.float64).sum()) / unit + turned
            gradient += error * np.float32(2 / unit) + slope
        return total, gradient * inside


def _turned(made: Real32, target: Real32) -> tuple[float, Real32]:
    """−log of the mean cosine of outputs [groups, num, n] of the same place, and its gradient.

    >>> _turned(np.float32([[[3, 0]]]), np.float32([[[1, 0]]]))[0]
    0.0
    """
    a, b = (v.swapaxes(0, 1).reshape(v.shape[1], -1).astype(np.float64) for v in (made, target))
    a_size, b_size = (np.sqrt((v * v).sum(1, keepdims=True)) for v in (a, b))
    is_usable = (a_size > 0) & (b_size > 0)
    a_size, b_size = np.where(is_usable, a_size, 1), np.where(is_usable, b_size, 1)
    cosine = (a * b).sum(1, keepdims=True) / (a_size * b_size)
    mean = max(float(cosine.mean()) if cosine.size else 1.0, _LEAST_COSINE)
    slope = (cosine * a / a_size - b / b_size) / a_size * is_usable / (mean * max(len(a), 1))
    shape = made.swapaxes(0, 1).shape
    return float(np.log(1 / mean)), slope.reshape(shape).swapaxes(0, 1).astype(np.float32)
