# SPDX-License-Identifier: Apache-2.0
"""What integers and floats of a block lose, from its crest factor alone, and the best float split.

"INT v.s. FP" (Chen et al. 2025, theorems 1 and 2): of a block of g values with the crest factor
κ = max |x| / rms(x), whose scale is ρ times the one that brings max |x| to the largest code,

    integers    noise / energy = (ρκ)² / (12 Qmax²)
    floats      noise / energy = α (w − κ² / g) + β (ρκ)² p,  α = 2^(−2M) / 24,  β = u² / (12 Qmax²)

w is the share of the energy in normal codes, p the share of values in subnormal ones, both of
Gaussian values; u is the smallest step. Scales that hold any number (ρ = 1) make the largest value
exact: integers lose one value's noise of g, floats κ² / g of the energy; powers of two (rounded up;
ρ² = 3 / (2 ln 2) on average) make nothing exact. QSNR is −10 log10 of the ratio.

Deviation: the paper writes Qmax = 2^(b−1) in theorem 1; here it is the 2^(b−1) − 1 that its
integers have, 1.2 dB less at 4 bits and 0.03 at 8. w and p count the largest value
among the Gaussian ones: where it has three quarters of a block's energy (κ² near g), theorem 2 is
more than 1.5 dB off.

`best_split` is the law of Sun et al. 2025 ("Scaling Laws for Floating-Point Quantization
Training", eq. 10) for the bits of exponent and mantissa in training.
"""

import re
from math import log, log10

import numpy as np
from numpy.typing import NDArray
from scipy.special import erf

from qcompile.errors import InputError
from qcompile.formats import Format, scale_format

Real = NDArray[np.float64]
POWER_OF_TWO_RHO = (3 / (2 * log(2))) ** 0.5
_FLOAT = re.compile(r"e(\d)m(\d)(_int16)?|rf8(_int16)?")
_DELTA, _NU = 3.1926, 2.9543  # fitted powers of E + 0.5 and M + 0.5 (section 4)


def qsnr_db(noise: float) -> float:
    """The dB of a share of noise; infinite where there is none.

    >>> qsnr_db(0.01)
    20.0
    """
    return -10 * log10(noise) if noise > 0 else float("inf")


def has_theory(format: Format) -> bool:
    """Whether a theorem is about the format: signed integers of 2 bits or more, and floats.

    >>> from qcompile.formats import get
    >>> [has_theory(get(name)) for name in ("int4", "e2m1", "nf4", "uint4")]
    [True, True, False, False]
    """
    if format.is_table:
        return _FLOAT.fullmatch(format.name) is not None
    return format.is_signed and format.levels is None and format.bits > 1


def predicted_noise(format: Format, scale: str, block: int, crest: Real) -> Real:
    """Noise / energy float64 of blocks with these crest factors, of the same shape.

    scale: how scales are stored (formats/scales.py). block: values that share one. InputError where
    no theorem is about the format.

    >>> from qcompile.formats import get
    >>> noise = predicted_noise(get("int8"), "e8m0", 32, np.array([2.5]))
    >>> round(qsnr_db(float(noise[0])), 1)
    41.6
    """
    if not has_theory(format):
        raise InputError(f"{format}: the theorems are about signed integers and floats e<E>m<M>")
    is_power = scale_format(scale).stored_as == "e8m0"
    rho = POWER_OF_TWO_RHO if is_power else 1.0
    largest = format.absmax(symmetric=True)
    if not format.is_table:
        exact = 1.0 if is_power else (block - 1) / block
        return np.asarray(exact * np.square(rho * crest / largest) / 12, np.float64)
    bits, step, first = _float_parts(format)
    border = rho * crest * first / largest  # the least normal value, in rms of the block
    density = np.exp(-np.square(border) / 2) * (2 / np.pi) ** 0.5
    subnormal = erf(border / 2**0.5)
    energy = 1 - subnormal + border * density
    if not is_power:
        energy = np.maximum(energy - np.square(crest) / block, 0)
    alpha, beta = 2.0 ** (-2 * bits) / 24, (step / largest) ** 2 / 12
    return np.asarray(alpha * energy + beta * np.square(rho * crest) * subnormal, np.float64)


def _float_parts(format: Format) -> tuple[int, float, float]:
    """Bits of the mantissa, the smallest step and the least normal value, in units of the table."""
    match = _FLOAT.fullmatch(format.name)
    assert match is not None and format.table is not None
    bits = int(match[2] or 3)
    first = format.table[2**bits]
    return bits, first / 2**bits, float(first)


def crossover(
    one: tuple[Format, str], other: tuple[Format, str], block: int, low: float = 1.5
) -> float:
    """The crest factor above which `one` (format, scale) has more noise than `other`.

    Bisection from `low` to the most that a block can have, √block, which is the answer where the
    first stays better.

    >>> from qcompile.formats import get
    >>> round(crossover((get("int4"), "ue4m3"), (get("e2m1"), "ue4m3"), 16), 1)
    2.2
    """
    high = float(block) ** 0.5
    for _ in range(50):
        middle = np.array([(low + high) / 2])
        noise = (predicted_noise(form, scale, block, middle)[0] for form, scale in (one, other))
        is_worse = next(noise) > next(noise)
        low, high = (low, float(middle[0])) if is_worse else (float(middle[0]), high)
    return high


def best_split(bits: int) -> tuple[int, int]:
    """(E, M) of a float of so many bits by the training law: the largest (E + ½)^δ (M + ½)^ν.

    M + ½ = ν b / (δ + ν), rounded. It is about training; `fp<b>` measures what a weight needs.

    >>> [best_split(bits) for bits in (4, 5, 6, 7, 8, 16)]
    [(2, 1), (2, 2), (3, 2), (3, 3), (4, 3), (8, 7)]
    """
    if bits < 3:
        raise InputError(f"a float of {bits} bits: at least 3 are needed")
    mantissa = round(_NU * bits / (_DELTA + _NU) - 0.5)
    return bits - 1 - mantissa, mantissa
