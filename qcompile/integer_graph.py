# SPDX-License-Identifier: Apache-2.0
"""An integer-only convolutional network: what the TVM targets compile.

Every tensor is a map of codes [B, H, W, C] of 4 or 8 bits, or of int32 sums; a vector is a map
of one pixel, a dense layer a convolution whose window is its whole input. No sum can overflow
int32: a graph that could is refused when it is built. What the nodes compute stands in numerics,
where target cpu has it, so that both give the same integers.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from qcompile.errors import InputError
from qcompile.integer_maps import (
    INT32_MAX,
    Add,
    CodeMap,
    Excerpt,
    GlobalAveragePool,
    Lookup,
    MaxPool,
    check_added,
    check_pair,
    check_scale,
)
from qcompile.numerics.conv import Window, accumulate
from qcompile.numerics.dyadic import DyadicPair
from qcompile.numerics.requantize import Dyadic, requantize_to_codes, rescale_sum

POINT = Window((1, 1))


@dataclass(frozen=True)
class Residual:
    """What a convolution adds to its own result: an Add (N18) in the same kernel.

    own: the codes of the convolution itself, which are rounded first and never stored; own_clip
    their range. other: the map that is added.
    """

    own: CodeMap
    other: CodeMap
    scale: DyadicPair
    own_clip: tuple[int, int] | None = None

    @property
    def own_limits(self) -> tuple[int, int]:
        """The range of the convolution's own codes."""
        return self.own.limits(self.own_clip)


@dataclass(frozen=True)
class Conv:
    """y = clamp(requantize(conv(x, weight) + bias) + zero point, clip) (N10, N12, N15).

    weight int8 [N, kh, kw, C] of weight_bits, bias int32 [N]. y of 32 bits holds rescaled sums
    (N17). With a residual the codes of its `own` are added to another map, which gives y.
    """

    x: CodeMap
    y: CodeMap
    weight: NDArray[np.int8] = field(repr=False)
    bias: NDArray[np.int32] = field(repr=False)
    scale: Dyadic = field(repr=False)
    window: Window = POINT
    weight_bits: int = 8
    residual: Residual | None = None
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
        check_scale(self.y.name, self.scale, N)
        if self.residual is not None:
            check_added(self.residual.own, self.y)
            check_added(self.residual.other, self.y)
            check_pair(self.y.name, self.residual.scale)

    def _check_weight(self) -> None:
        half = 1 << (self.weight_bits - 1)
        if self.weight.min() < -half or self.weight.max() >= half:
            raise InputError(f"{self.y.name}: a weight is no code of {self.weight_bits} bits")
        largest = max(abs(v) for v in self.x.range)
        flat = self.weight.reshape(len(self.weight), -1).astype(np.int64)
        # The kernels sum x · w from the folded bias on, in any order (N41).
        bound = np.abs(flat).sum(axis=1) * largest + np.abs(self.folded_bias)
        if bound.max() > INT32_MAX:
            n = int(bound.argmax())
            raise InputError(f"{self.y.name}: sums of output {n} reach {bound[n]}, beyond int32")

    @property
    def folded_bias(self) -> NDArray[np.int64]:
        """bias − zero point · Σ w: with it, x enters by its codes, and pads by its zero point."""
        flat = self.weight.reshape(len(self.weight), -1).astype(np.int64)
        return self.bias.astype(np.int64) - self.x.zero_point * flat.sum(axis=1)

    @property
    def limits(self) -> tuple[int, int]:
        """The clip range in codes."""
        return self.y.limits(self.clip)

    @property
    def num_products(self) -> int:
        """Multiplications a sample."""
        return self.y.shape[0] * self.y.shape[1] * self.weight.size

    def inputs(self) -> tuple[CodeMap, ...]:
        """The maps that are read."""
        return (self.x,) if self.residual is None else (self.x, self.residual.other)

    def run(self, *codes: NDArray) -> NDArray:
        """What numerics says."""
        centred = codes[0].astype(np.int64) - self.x.zero_point
        flat = self.weight.reshape(len(self.weight), -1)
        sums = accumulate(centred, flat, self.window, 1)
        m, e = self.scale.multiplier, self.scale.exponent
        if self.y.bits == 32:
            return rescale_sum(sums, self.bias, np.stack([m, e]), *self.limits)
        total, added = sums + self.bias, self.residual
        own, limits = (self.y, self.limits) if added is None else (added.own, added.own_limits)
        found = requantize_to_codes(total, m, e, own.zero_point, *limits).astype(np.int16)
        if added is None:
            return found
        return Add(own, added.other, self.y, added.scale, self.clip).run(found, codes[1])


Node = Conv | Add | MaxPool | GlobalAveragePool | Lookup | Excerpt


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


__all__ = [
    "Add",
    "CodeMap",
    "Conv",
    "Excerpt",
    "GlobalAveragePool",
    "IntegerGraph",
    "Lookup",
    "MaxPool",
    "Node",
    "Residual",
]
