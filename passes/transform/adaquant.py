# SPDX-License-Identifier: Apache-2.0
"""AdaQuant: a layer's weights, their scales, its bias and the scale of its inputs, jointly.

Hubara et al. 2020 (Improving Post Training Neural Quantization, section 3): minimise
‖f(W x) − f(Q(W + V) Q(x) + b)‖² over V, b and both scales, by Adam; other than in AdaRound a weight
may move by more than one step. f is the layer's Relu or Clip, x the input that the quantized
network before it gives. Rounding has the slope 1 between the ends of the codes, scales that of LSQ.

Deviations: V starts where Q(W + V) are the codes of descent; rates are relative (V in steps of its
grid, scales as logarithms, the bias in root mean squares of the outputs), since absolute ones mean
another thing for every layer; zero points stay, and so does the scale of inputs that others read.
"""

from dataclasses import dataclass, replace

import numpy as np

from qcompile.numerics.quantize import store_scale
from qcompile.numerics.weight import CodedWeight
from qcompile.passes.transform.grid import Grid
from qcompile.passes.transform.layer_rows import (
    LayerRows,
    Real32,
    Rebuilt,
    Setting,
    Steps,
    products,
    slope_by_scale,
)

_RATES = {"weight": 1e-3, "scale": 1e-3, "bias": 1e-3, "input": 1e-3}


def adaquant(
    weight: Real32, start: CodedWeight, bias: Real32 | None, rows: LayerRows, setting: Setting
) -> Rebuilt:
    """Codes and scales of a weight [N, K], the bias [N], and the scale of inputs with a grid."""
    layer = _Layer.of(weight, start, is_full=setting.grid(start).is_full)
    old = np.zeros(len(weight), np.float32) if bias is None else bias
    unit = np.float32(max(float(np.sqrt(np.square(rows.y).mean())), 2.0**-63))
    assert start.scale is not None
    moved = Steps(
        weight=np.zeros_like(weight),
        scale=np.zeros_like(start.scale),
        bias=np.zeros_like(old),
        input=np.zeros((), np.float32),
    )
    for step in range(setting.steps):
        now, part = moved.arrays, rows.drawn(setting.rng)
        x, x_slope = part.x, None
        if part.grid is not None:
            scale = np.float32(part.grid.scale * np.exp(now["input"]))
            part = part.scaled(scale)
            assert part.grid is not None
            x, x_slope = part.inputs(), slope_by_scale(part.x, part.grid)
        coded, inside = layer.coded(now["weight"], now["scale"])
        real = coded.decode()
        by_output = part.loss(products(x, real, old + unit * now["bias"]))[1]
        by_weight = (by_output.swapaxes(1, 2) @ x).reshape(weight.shape)
        fade = (1 + np.cos(np.pi * step / setting.steps)) / 2
        gradients = {
            "weight": by_weight * inside * layer.steps,
            "scale": layer.by_scale(by_weight, real, inside, now),
        }
        if bias is not None:
            gradients["bias"] = by_output.sum(1).ravel() * unit
        if x_slope is not None:
            by_x = by_output @ real.reshape(len(x), -1, x.shape[2])
            gradients["input"] = np.asarray((by_x * x_slope).sum())
        moved.step(**{n: (g, fade * _RATES[n]) for n, g in gradients.items()})
    now = moved.arrays
    found = layer.coded(now["weight"], now["scale"])[0]
    own = None if rows.grid is None else np.float32(rows.grid.scale * np.exp(now["input"]))
    last = None if bias is None else (old + unit * now["bias"]).astype(np.float32)
    return Rebuilt(found, last, own)


@dataclass(frozen=True)
class _Layer:
    """The weight [N, K] that V = 0 stands for, its codes at the start, a step of each weight."""

    weight: Real32
    start: CodedWeight
    steps: Real32
    is_full: bool

    @classmethod
    def of(cls, weight: Real32, start: CodedWeight, *, is_full: bool) -> "_Layer":
        assert start.scale is not None
        grid = Grid.of(start, 1, is_full=is_full)
        stays = grid.codes(weight[None].astype(np.float64))[0] == start.codes
        steps = np.abs(start.per_column(start.scale))
        return cls(np.where(stays, weight, start.decode()), start, steps, is_full)

    def coded(self, moved: Real32, t: Real32) -> tuple[CodedWeight, Real32]:
        """The weight moved by so many steps with scales times exp(t), and where no code ends."""
        assert self.start.scale is not None
        scale = self.start.scale * np.exp(t)
        stored = store_scale(np.abs(scale), self.start.scale_format)
        signed = np.copysign(stored, scale).astype(np.float32)
        plain = replace(self.start, scale=signed)
        grid = Grid.of(plain, 1, is_full=self.is_full)
        wanted = self.moved(moved)
        codes = grid.codes(wanted[None].astype(np.float64))[0]
        units = wanted / plain.per_column(signed)
        if plain.zero_point is not None and not plain.format.specials:
            units = units + plain.per_column(plain.zero_point)
        low, high = self._ends
        return replace(plain, codes=codes), ((units >= low) & (units <= high)).astype(np.float32)

    def moved(self, steps: Real32) -> Real32:
        """W + V."""
        return self.weight + self.steps * steps

    def by_scale(
        self, by_weight: Real32, real: Real32, inside: Real32, now: dict[str, Real32]
    ) -> Real32:
        """The gradient by t of every block: of LSQ, Ŵ − (W + V) inside and Ŵ where codes end."""
        slope = by_weight * (real - inside * self.moved(now["weight"]))
        starts = np.arange(0, real.shape[1], self.start.block)
        return np.asarray(np.add.reduceat(slope, starts, 1), np.float32)

    @property
    def _ends(self) -> tuple[int, int]:
        """The least and the largest value in units of the scale."""
        format = self.start.format
        low, high = format.quantized_range(symmetric=not self.is_full)
        held = format.values[low - format.code_min : high - format.code_min + 1]
        values = (*held.tolist(), *format.specials)
        return min(values), max(values)
