# SPDX-License-Identifier: Apache-2.0
"""How the values of a tensor are spread: crest factors, kurtosis, shape, entropy-coded size.

Sums are taken over slices of rows, so that a large weight is read once and never held.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qcompile.memory import row_slices
from qcompile.observers.generalized_gaussian import GeneralizedGaussian

BINS, WIDTH = 31, 4.0  # of the histogram, and how many rms it reaches to both sides
_STEPS = 127  # of a step for 8 bits, from 0 to the largest magnitude


@dataclass(frozen=True)
class Distribution:
    """Facts of a tensor [N, K].

    crest: max |x| / rms; crest_32, crest_16: the median of that of blocks along K, without blocks
    of zeros. kurtosis: 3 for a normal density. beta: the shape of the generalized Gaussian of these
    E|x| and E[x²]. coded_bits: bits a value in an ideal entropy code at the step of 8 bits,
    max |x| / 127, from that density. histogram: counts of 31 bins over −4 rms … 4 rms, the outer
    ones with what lies beyond. Of a tensor of zeros all figures but rms and histogram are None.
    """

    rms: float
    crest: float | None
    crest_32: float | None
    crest_16: float | None
    kurtosis: float | None
    beta: float | None
    coded_bits: float | None
    histogram: tuple[int, ...]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def distribution_of(rows: NDArray[np.float32]) -> Distribution:
    """Of a tensor [N, K] without NaN or infinity.

    >>> found = distribution_of(np.float32([[3.0, -1.0, 1.0, -1.0]]))
    >>> round(found.rms, 3), round(found.crest, 3), round(found.crest_32, 3)
    (1.732, 1.732, 1.732)
    """
    sums, largest = np.zeros(5), 0.0
    for part in _parts(rows):
        square, absolute = np.square(part), np.abs(part)
        each = part, square, square * part, np.square(square), absolute
        sums += [values.sum() for values in each]
        largest = max(largest, float(absolute.max(initial=0)))
    mean, second, third, fourth, first = sums / max(rows.size, 1)
    rms = second**0.5
    if not rms > 0:
        return Distribution(0.0, None, None, None, None, None, None, _histogram(rows, 1.0))
    variance = second - mean**2
    central = fourth - 4 * mean * third + 6 * mean**2 * second - 3 * mean**4
    density = GeneralizedGaussian.of_moments(float(first), float(second))
    return Distribution(
        float(rms),
        float(largest / rms),
        _block_crest(rows, 32),
        _block_crest(rows, 16),
        float(central / variance**2) if variance > 1e-12 * second else None,
        density.beta,
        density.coded_bits(largest / _STEPS),
        _histogram(rows, rms),
    )


def _parts(rows: NDArray[np.float32]) -> Iterator[NDArray[np.float64]]:
    for part in row_slices(*rows.shape):
        yield rows[part].astype(np.float64)


def block_moments(rows: NDArray[np.float32], size: int) -> tuple[NDArray, NDArray, NDArray]:
    """max |x|, Σ x² and the number of values of every block [N, num_blocks]; the last may be short.

    >>> most, energy, count = block_moments(np.float32([[1.0, -2.0, 3.0]]), 2)
    >>> most.tolist(), energy.tolist(), count.tolist()
    ([[2.0, 3.0]], [[5.0, 9.0]], [2, 1])
    """
    starts = np.arange(0, rows.shape[1], size)
    most = np.maximum.reduceat(np.abs(rows), starts, 1)
    energy = np.add.reduceat(np.square(rows.astype(np.float64)), starts, 1)
    return most, energy, np.diff(np.r_[starts, rows.shape[1]])


def _block_crest(rows: NDArray[np.float32], size: int) -> float:
    found = []
    for part in row_slices(*rows.shape):
        most, energy, count = block_moments(rows[part], size)
        held = energy > 0
        rms = np.sqrt(np.where(held, energy, 1) / count)
        found.append((most / rms)[held].astype(np.float32))
    return float(np.median(np.concatenate(found)))


def _histogram(rows: NDArray[np.float32], rms: float) -> tuple[int, ...]:
    counts = np.zeros(BINS, np.int64)
    for part in row_slices(*rows.shape):
        at = np.floor((rows[part] / rms + WIDTH) * (BINS / (2 * WIDTH)))
        counts += np.bincount(np.clip(at, 0, BINS - 1).astype(np.int64).ravel(), minlength=BINS)
    return tuple(int(count) for count in counts)
