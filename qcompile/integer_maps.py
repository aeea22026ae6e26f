# SPDX-License-Identifier: Apache-2.0
"""Maps of codes, and the nodes of an integer-only network that only move, compare or add them."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from qcompile.errors import InputError
from qcompile.numerics.add import add_dyadic
from qcompile.numerics.conv import Window
from qcompile.numerics.dyadic import DyadicPair
from qcompile.numerics.pool import qpool_max
from qcompile.numerics.requantize import Dyadic, requantize_to_codes

INT32_MAX = 2**31 - 1


@dataclass(frozen=True)
class CodeMap:
    """One tensor: name, (H, W, C) of a sample, code width; bits 32 are int32 sums."""

    name: str
    shape: tuple[int, int, int]
    bits: int = 8
    is_signed: bool = False
    zero_point: int = 0

    def __post_init__(self) -> None:
        if self.bits not in (4, 8, 32):
            raise InputError(f"{self.name}: codes of {self.bits} bits; there are 4, 8 and 32")
        if min(self.shape) < 1:
            raise InputError(f"{self.name}: the map {self.shape} is empty")
        low, high = self.range
        if not low <= self.zero_point <= high:
            raise InputError(f"{self.name}: zero point {self.zero_point} is not in {low} … {high}")

    @property
    def range(self) -> tuple[int, int]:
        """The least and the greatest code."""
        half = 1 << (self.bits - 1)
        return (-half, half - 1) if self.is_signed or self.bits == 32 else (0, 2 * half - 1)

    def limits(self, clip: tuple[int, int] | None) -> tuple[int, int]:
        """The clip range within the codes."""
        low, high = self.range
        return (low, high) if clip is None else (max(low, clip[0]), min(high, clip[1]))


@dataclass(frozen=True)
class Add:
    """y = clamp(the sum of two maps, clip), rounded once (N18)."""

    a: CodeMap
    b: CodeMap
    y: CodeMap
    scale: DyadicPair
    clip: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        for x in (self.a, self.b):
            check_added(x, self.y)
        check_pair(self.y.name, self.scale)

    @property
    def limits(self) -> tuple[int, int]:
        """The clip range in codes."""
        return self.y.limits(self.clip)

    def inputs(self) -> tuple[CodeMap, ...]:
        """The maps that are read."""
        return self.a, self.b

    def run(self, *codes: NDArray) -> NDArray:
        """What numerics says."""
        points = self.a.zero_point, self.b.zero_point, self.y.zero_point
        return add_dyadic(codes[0], codes[1], self.scale, points, self.limits).astype(np.int16)


@dataclass(frozen=True)
class MaxPool:
    """The maximum over a window (N22)."""

    x: CodeMap
    y: CodeMap
    window: Window

    def __post_init__(self) -> None:
        shape = (*self.window.output_size(*self.x.shape[:2]), self.x.shape[2])
        check_same_codes(self.x, self.y, shape, "maximum")
        if self.x.bits == 32 or self.window.dilations != (1, 1) or self.window.is_ceil:
            raise InputError(f"{self.y.name}: no kernel for sums, dilations or ceil_mode")
        pads, kernel = self.window.pads, self.window.kernel
        if any(pads[i] >= kernel[i % 2] for i in range(4)):
            raise InputError(f"{self.y.name}: pads {pads} leave a window of {kernel} empty")

    def inputs(self) -> tuple[CodeMap, ...]:
        """The maps that are read."""
        return (self.x,)

    def run(self, *codes: NDArray) -> NDArray:
        """What numerics says."""
        return qpool_max(codes[0].astype(np.int16), self.window)


@dataclass(frozen=True)
class GlobalAveragePool:
    """y = clamp(requantize(Σ (x − zero point)) + zero point): the scale holds 1 / (H · W) (N19)."""

    x: CodeMap
    y: CodeMap
    scale: Dyadic = field(repr=False)
    clip: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        H, W, C = self.x.shape
        if self.y.shape != (1, 1, C) or 32 in (self.x.bits, self.y.bits):
            raise InputError(f"{self.y.name}: the mean of {self.x.shape} is codes (1, 1, {C})")
        if H * W * 255 > INT32_MAX:
            raise InputError(f"{self.y.name}: the sum of {H} × {W} codes is beyond int32")
        check_scale(self.y.name, self.scale, C)

    @property
    def limits(self) -> tuple[int, int]:
        """The clip range in codes."""
        return self.y.limits(self.clip)

    def inputs(self) -> tuple[CodeMap, ...]:
        """The maps that are read."""
        return (self.x,)

    def run(self, *codes: NDArray) -> NDArray:
        """What numerics says."""
        sums = (codes[0].astype(np.int64) - self.x.zero_point).sum(axis=(1, 2), keepdims=True)
        scale, point = self.scale, self.y.zero_point
        found = requantize_to_codes(sums, scale.multiplier, scale.exponent, point, *self.limits)
        return found.astype(np.int16)


@dataclass(frozen=True)
class Lookup:
    """y = table[x], uint8 [256]: codes for codes, as of a narrower copy (N25)."""

    x: CodeMap
    y: CodeMap
    table: NDArray[np.uint8] = field(repr=False)

    def __post_init__(self) -> None:
        if self.x.shape != self.y.shape or self.x.bits == 32 or self.x.is_signed:
            raise InputError(f"{self.y.name}: no table of {self.x} for {self.y}")
        if self.table.shape != (256,) or self.table.dtype != np.uint8:
            raise InputError(f"{self.y.name}: {self.table.shape} entries; there are 256 of 8 bits")
        most = int(self.table[: self.x.range[1] + 1].max())
        if most > self.y.range[1] or self.y.is_signed:
            raise InputError(f"{self.y.name}: entry {most} is no code of {self.y}")

    def inputs(self) -> tuple[CodeMap, ...]:
        """The maps that are read."""
        return (self.x,)

    def run(self, *codes: NDArray) -> NDArray:
        """The entries."""
        return self.table[codes[0]].astype(np.int16)


@dataclass(frozen=True)
class Excerpt:
    """Pixels and channels of a map, and zero points around them: what Slice and Pad do.

    y[i, j, c] = x[start + step · i, …] less `before` on each axis, where x has that element and i
    lies in before … before + count − 1; else the zero point. Tuples are (H, W, C).
    """

    x: CodeMap
    y: CodeMap
    start: tuple[int, int, int] = (0, 0, 0)
    step: tuple[int, int, int] = (1, 1, 1)
    before: tuple[int, int, int] = (0, 0, 0)
    count: tuple[int, int, int] = (1, 1, 1)

    def __post_init__(self) -> None:
        check_same_codes(self.x, self.y, self.y.shape, "excerpt")
        if self.x.bits == 32:
            raise InputError(f"{self.y.name}: no excerpt of sums")
        for axis, size in enumerate(self.x.shape):
            start, step = self.start[axis], self.step[axis]
            before, count = self.before[axis], self.count[axis]
            last = start + step * (count - 1)
            fits = before >= 0 and before + count <= self.y.shape[axis]
            if min(start, step - 1, count - 1) < 0 or last >= size or not fits:
                raise InputError(f"{self.y.name}: {self} leaves the map {self.x.shape}")

    def inputs(self) -> tuple[CodeMap, ...]:
        """The maps that are read."""
        return (self.x,)

    def run(self, *codes: NDArray) -> NDArray:
        """The elements, where they are wanted."""
        y = np.full((len(codes[0]), *self.y.shape), self.x.zero_point, np.int16)
        ranges = zip(self.start, self.step, self.count, strict=True)
        source = tuple(slice(s, s + d * (n - 1) + 1, d) for s, d, n in ranges)
        places = tuple(slice(b, b + n) for b, n in zip(self.before, self.count, strict=True))
        y[:, *places] = codes[0][:, *source]
        return y


def check_scale(name: str, scale: Dyadic, num_channels: int) -> None:
    """InputError unless there is one dyadic number a channel, or one for all (N12)."""
    m, e = scale.multiplier, scale.exponent
    if m.shape not in ((1,), (num_channels,)) or e.shape != m.shape:
        raise InputError(f"{name}: {m.shape} multipliers for {num_channels} channels")
    if m.min() < 0 or e.min() < 1 or e.max() > 62:
        raise InputError(f"{name}: multipliers are 0 … 2^31 − 1 and exponents 1 … 62 (N12)")


def check_pair(name: str, pair: DyadicPair) -> None:
    """InputError unless the numbers are those of N18."""
    if max(abs(pair.a), abs(pair.b)) > INT32_MAX or not 1 <= pair.exponent <= 62:
        raise InputError(f"{name}: {pair}: multipliers are below 2^31, exponents 1 … 62 (N18)")


def check_added(x: CodeMap, y: CodeMap) -> None:
    """InputError unless x is codes of y's shape."""
    if x.shape != y.shape or 32 in (x.bits, y.bits):
        raise InputError(f"{y.name}: codes {x.shape} are not added to {y.shape}")


def check_same_codes(x: CodeMap, y: CodeMap, shape: tuple[int, int, int], what: str) -> None:
    """InputError unless y holds codes of x's kind in that shape."""
    same = (x.bits, x.is_signed, x.zero_point) == (y.bits, y.is_signed, y.zero_point)
    if y.shape != shape or not same:
        raise InputError(f"{y.name}: the {what} of {x} is {shape} of its codes")
