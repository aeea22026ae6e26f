# SPDX-License-Identifier: Apache-2.0
"""Sharpness: steps towards flat minima, without the scales whose gradients are in disorder.

GAQAT (Jiang et al. 2024, Gradient-Adaptive Quantization-Aware Training for Domain
Generalization) adds the loss at the worst point near by (SAM, Foret et al. 2021, equation 2):

    g = ∇L(t) + ∇L(t + ρ ∇L(t) / ‖∇L(t)‖)

The disorder of a scale is the share of steps whose gradient has another sign than the step before.
A scale above the limit in a window of steps is frozen in the next one.

Deviations: t, the logarithms of scales and the biases in units of their sums, is perturbed, since
codes stay; the window and limit of the paper could not be read: a window of 10 steps, because there
are 60 in all, and 0.3.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qcompile.tunable import Bias
from qcompile.tuning_ways import Gradients, Leaves, Start, Way

_RADIUS = 0.05
_WINDOW = 10
_LIMIT = 0.3


@dataclass
class Disorder:
    """Signs of the gradients of some numbers. frozen: those that stay for this window."""

    frozen: NDArray[np.bool_]
    last: NDArray[np.float32]
    turns: NDArray[np.float32]
    seen: int = 0

    @classmethod
    def of(cls, shape: tuple[int, ...]) -> "Disorder":
        """Before the first gradient."""
        zero = np.zeros(shape, np.float32)
        return cls(np.zeros(shape, np.bool_), zero, zero)

    def see(self, gradient: NDArray) -> None:
        """Count one more; at the end of a window decide for the next one."""
        sign = np.sign(gradient).astype(np.float32)
        self.turns = self.turns + (sign * self.last < 0)
        self.last = sign
        self.seen += 1
        if self.seen % _WINDOW == 0:
            self.frozen = np.asarray(self.turns > _LIMIT * _WINDOW)
            self.turns = np.zeros_like(self.turns)


@dataclass
class Sharpness(Way):
    """Steps of t."""

    disorders: dict[str, Disorder] = field(default_factory=dict)

    def prepare(self, start: Start) -> None:
        """No scale is frozen at first."""
        super().prepare(start)
        self.disorders = {
            name: Disorder.of(each.t.shape)
            for name, each in self.found.items()
            if not isinstance(each, Bias)
        }

    def slopes(self, gradients: Gradients, step: int) -> Leaves:
        """The sum of both gradients."""
        here = self.by_t(gradients(self.leaves()))
        squares = sum(float(np.square(g, dtype=np.float64).sum()) for g in here.values())
        factor = np.float32(_RADIUS / max(np.sqrt(squares), 2.0**-126))
        held = {name: self.found[name].t for name in here}
        for name, slope in here.items():
            self.found[name].t = np.asarray(held[name] + factor * slope, np.float32)
        worst = self.by_t(gradients(self.leaves()))
        for name, t in held.items():
            self.found[name].t = t
        made = {name: np.asarray(slope + worst[name]) for name, slope in here.items()}
        for name, disorder in self.disorders.items():
            if name in made:
                disorder.see(made[name])
        return made

    def stays(self, name: str) -> NDArray | None:
        """Frozen scales."""
        return self.disorders[name].frozen if name in self.disorders else None

    def arrays(self) -> dict[str, NDArray]:
        """The windows."""
        held: dict[str, NDArray] = {}
        for i, (_, each) in enumerate(sorted(self.disorders.items())):
            held |= {f"frozen{i}": each.frozen, f"last{i}": each.last}
            held |= {f"turns{i}": each.turns, f"seen{i}": np.array(each.seen)}
        return held

    def take(self, held: Any) -> None:
        """The windows."""
        taken: dict[str, Disorder] = {}
        for i, (name, each) in enumerate(sorted(self.disorders.items())):
            parts = [np.asarray(held[f"{part}{i}"]) for part in ("frozen", "last", "turns")]
            if any(part.shape != each.last.shape for part in parts):
                raise ValueError(f"its windows of {name} have another shape")
            frozen, last, turns = parts
            taken[name] = Disorder(frozen, last, turns, int(held[f"seen{i}"]))
        self.disorders = taken
