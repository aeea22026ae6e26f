# SPDX-License-Identifier: Apache-2.0
"""An integer-only convolutional network: what integer lowering makes and the TVM targets compile.

Every tensor is a map of codes [B, H, W, C] of 4 or 8 bits, or of int32 sums; a vector is a map
of one pixel, a dense layer a convolution whose window is its whole input. No sum can overflow
int32: a graph that could is refused when it is built.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from qcompile.errors import InputError
from qcompile.numerics import integer
from qcompile.numerics.conv import Window
from qcompile.numerics.integer import Dyadic

POINT = Window((1, 1))
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


@dataclass(frozen=True)
class Branch:
    """A map that is requantized by itself before it is added (N43)."""

    x: CodeMap
    scale: Dyadic

    def value(self, codes: NDArray) -> NDArray[np.int64]:
        """The requantized, unclamped values."""
        return self.scale.apply(codes.astype(np.int64) - self.x.zero_point)


@dataclass(frozen=True)
class Conv:
    """y = clamp(requantize(conv(x, weight) + bias) + residual + zero point, clip) (N41 … N43).

    weight int8 [N, kh, kw, C] of weight_bits, bias int32 [N]. Without a scale y holds the sums.
    """

    x: CodeMap
    y: CodeMap
    weight: NDArray[np.int8] = field(repr=False)
    bias: NDArray[np.int32] = field(repr=False)
    scale: Dyadic | None = field(repr=False)
    window: Window = POINT
    weight_bits: int = 8
    residual: Branch | None = None
    clip: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        N, kh, kw, C = self.weight.shape
        shape = (*self.window.output_size(*self.x.shape[:2]), N)
        if (kh, kw) != self.window.kernel or self.x.shape[2] != C or self.y.shape != shape:
            raise InputError(
                f"{self.y.name}: {self.x.shape} by weights {self.weight.shape} and "
                f"{self.window} gives {shape}, not {self.y.shape}"
            )
        if self.window.dilations != (1, 1) or self.window.is_ceil:
            raise InputError(f"{self.y.name}: no kernel for dilations or ceil_mode")
        if self.x.bits == 32 or self.weight_bits > self.x.bits:
            raise InputError(
                f"{self.y.name}: weights of {self.weight_bits} bits on codes of {self.x.bits}; "
                "the kernels take weights that are no wider than the activations, up to 8 bits"
            )
        self._check_weight()
        self._check_output()

    def _check_weight(self) -> None:
        half = 1 << (self.weight_bits - 1)
        if self.weight.min() < -half or self.weight.max() >= half:
            raise InputError(f"{self.y.name}: a weight is no code of {self.weight_bits} bits")
        largest = max(abs(v) for v in self.x.range)
        flat = self.weight.reshape(len(self.weight), -1).astype(np.int64)
        # The kernels sum x · w from the folded bias on, in any order.
        bound = np.abs(flat).sum(axis=1) * largest + np.abs(self.folded_bias)
        if bound.max() > INT32_MAX:
            n = int(bound.argmax())
            raise InputError(f"{self.y.name}: sums of output {n} reach {bound[n]}, beyond int32")

    def _check_output(self) -> None:
        if (self.scale is None) != (self.y.bits == 32):
            raise InputError(f"{self.y.name}: sums have no scale, and codes have one")
        if self.scale is None and self.residual is not None:
            raise InputError(f"{self.y.name}: nothing is added to sums")
        if self.scale is not None:
            _check_scale(self.y.name, self.scale, self.y.shape[2])
        if self.residual is not None:
            _check_branch(self.residual, self.y)

    @property
    def folded_bias(self) -> NDArray[np.int64]:
        """bias − zero point · Σ w: with it, x enters by its codes, and pads by its zero point."""
        flat = self.weight.reshape(len(self.weight), -1).astype(np.int64)
        return self.bias.astype(np.int64) - self.x.zero_point * flat.sum(axis=1)

    @property
    def limits(self) -> tuple[int, int]:
        """The clip range in codes."""
        return _limits(self.clip, self.y)

    @property
    def num_products(self) -> int:
        """Multiplications a sample."""
        return self.y.shape[0] * self.y.shape[1] * self.weight.size

    def inputs(self) -> tuple[CodeMap, ...]:
        """The maps that are read."""
        return (self.x,) if self.residual is None else (self.x, self.residual.x)

    def run(self, *codes: NDArray) -> NDArray:
        """What numerics says."""
        total = integer.convolve(codes[0], self.weight, self.bias, self.window, self.x.zero_point)
        if self.scale is None:
            return total.astype(np.int32)
        value = self.scale.apply(total)
        if self.residual is not None:
            value = value + self.residual.value(codes[1])
        return integer.to_codes(value, self.y.zero_point, self.limits)


@dataclass(frozen=True)
class Add:
    """y = clamp(requantize(a) + requantize(b) + zero point, clip) (N43)."""

    a: Branch
    b: Branch
    y: CodeMap
    clip: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        _check_branch(self.a, self.y)
        _check_branch(self.b, self.y)

    @property
    def limits(self) -> tuple[int, int]:
        """The clip range in codes."""
        return _limits(self.clip, self.y)

    def inputs(self) -> tuple[CodeMap, ...]:
        """The maps that are read."""
        return self.a.x, self.b.x

    def run(self, *codes: NDArray) -> NDArray:
        """What numerics says."""
        value = self.a.value(codes[0]) + self.b.value(codes[1])
        return integer.to_codes(value, self.y.zero_point, self.limits)


@dataclass(frozen=True)
class MaxPool:
    """The maximum over a window (N22)."""

    x: CodeMap
    y: CodeMap
    window: Window

    def __post_init__(self) -> None:
        shape = (*self.window.output_size(*self.x.shape[:2]), self.x.shape[2])
        same = (self.x.bits, self.x.is_signed, self.x.zero_point)
        if self.y.shape != shape or same != (self.y.bits, self.y.is_signed, self.y.zero_point):
            raise InputError(f"{self.y.name}: the maximum of {self.x} is {shape} of its codes")
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
        return integer.pool_max(codes[0].astype(np.int16), self.window)


@dataclass(frozen=True)
class GlobalAveragePool:
    """y = clamp(requantize(Σ (x − zero point)) + zero point): the scale holds 1 / (H · W) (N44)."""

    x: CodeMap
    y: CodeMap
    scale: Dyadic = field(repr=False)

    def __post_init__(self) -> None:
        H, W, C = self.x.shape
        if self.y.shape != (1, 1, C) or 32 in (self.x.bits, self.y.bits):
            raise InputError(f"{self.y.name}: the mean of {self.x.shape} is codes (1, 1, {C})")
        if H * W * 255 > INT32_MAX:
            raise InputError(f"{self.y.name}: the sum of {H} × {W} codes is beyond int32")
        _check_scale(self.y.name, self.scale, C)

    @property
    def limits(self) -> tuple[int, int]:
        """The range of the output's codes."""
        return self.y.range

    def inputs(self) -> tuple[CodeMap, ...]:
        """The maps that are read."""
        return (self.x,)

    def run(self, *codes: NDArray) -> NDArray:
        """What numerics says."""
        value = self.scale.apply(integer.sum_of_map(codes[0], self.x.zero_point))
        return integer.to_codes(value, self.y.zero_point, self.limits)


Node = Conv | Add | MaxPool | GlobalAveragePool


@dataclass(frozen=True)
class IntegerGraph:
    """Nodes in an order in which they can run, for a fixed number of samples a call."""

    input: CodeMap
    nodes: tuple[Node, ...]
    batch: int = 1

    def __post_init__(self) -> None:
        if self.batch < 1 or not self.nodes:
            raise InputError(f"a graph of {len(self.nodes)} nodes and batch {self.batch} is empty")
        if self.input.bits == 32:
            raise InputError(f"{self.input.name}: the input is codes of 4 or 8 bits")
        known = {self.input.name: self.input}
        for node in self.nodes:
            for x in node.inputs():
                if known.get(x.name) != x:
                    raise InputError(f"{node.y.name} reads {x}, which no earlier node makes")
            if node.y.name in known:
                raise InputError(f"two tensors are named {node.y.name}")
            known[node.y.name] = node.y

    @property
    def output(self) -> CodeMap:
        """The map of the last node."""
        return self.nodes[-1].y

    def run(self, codes: NDArray) -> dict[str, NDArray]:
        """Every tensor by name, as numerics says; codes [B, H, W, C] of any B."""
        values = {self.input.name: codes}
        for node in self.nodes:
            values[node.y.name] = node.run(*(values[x.name] for x in node.inputs()))
        return values


def _limits(clip: tuple[int, int] | None, y: CodeMap) -> tuple[int, int]:
    low, high = y.range
    return (low, high) if clip is None else (max(low, clip[0]), min(high, clip[1]))


def _check_scale(name: str, scale: Dyadic, num_channels: int) -> None:
    m, e = scale.multiplier, scale.exponent
    if m.shape not in ((1,), (num_channels,)) or e.shape != m.shape:
        raise InputError(f"{name}: {m.shape} multipliers for {num_channels} channels")
    if m.min() < 0 or e.min() < 1 or e.max() > 62:
        raise InputError(f"{name}: multipliers are 0 … 2^31 − 1 and exponents 1 … 62 (N12)")


def _check_branch(branch: Branch, y: CodeMap) -> None:
    if branch.x.shape != y.shape or 32 in (branch.x.bits, y.bits):
        raise InputError(f"{y.name}: codes {branch.x.shape} are not added to {y.shape}")
    _check_scale(y.name, branch.scale, y.shape[2])
