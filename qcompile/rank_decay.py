# SPDX-License-Identifier: Apache-2.0
"""RankDecay: a low-rank part of every weight's error helps tuning and decays to nothing.

QVGen (Huang et al. 2025, the auxiliary module Φ and its rank decay): beside a quantized weight the
network has Φ(x) = L R x, at first the truncated singular value decomposition of W − Ŵ. In each
phase of T steps the lesser half of its components fades by α = (1 + cos(π i / T)) / 2; then the
rank is halved by a new decomposition of L R, until it is 0. Held-out samples are run without Φ, and
the graph gets no node.

Deviations: the rank begins at 32 or the smaller side of the weight; T is such that all phases and
one without Φ make up the steps; codes of weights stay, scales and biases are what is tuned beside
Φ; L and R move by Adam at a rate relative to their size, since 3e-5 means another thing for every
layer.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qcompile.passes.transform.layer_rows import Steps
from qcompile.passes.transform.saliency_rank import low_rank
from qcompile.reverse_products import Real
from qcompile.tape_weights import weights_of
from qcompile.tuning_ways import Gradients, Leaves, Start, Way

_RANK = 32
_RATE = 3e-3  # of the root mean square of L and of R


def shares(rank: int, progress: float) -> Real:
    """Of the components [rank]: the lesser half fades as progress goes from 0 to 1.

    >>> shares(4, 0.5).round(3).tolist(), shares(1, 1.0).tolist()
    ([1.0, 1.0, 0.5, 0.5], [0.0])
    """
    kept = np.ones(rank, np.float32)
    kept[rank // 2 :] = (1 + np.cos(np.pi * progress)) / 2
    return kept


@dataclass
class _Part:
    """Φ of one weight. moved: L and R, and the moments of their steps."""

    moved: Steps
    rates: tuple[float, float] = (0.0, 0.0)

    @classmethod
    def of(cls, error: NDArray, rank: int) -> "_Part":
        """Of W − Ŵ [N, K]."""
        found = low_rank(error, min(rank, *error.shape))
        left, right = (part.astype(np.float32) for part in found)
        rates = tuple(_RATE * float(np.sqrt(np.square(a).mean())) for a in (left, right))
        return cls(Steps(left=left, right=right), rates)  # type: ignore[arg-type]

    @property
    def rank(self) -> int:
        return self.moved.arrays["left"].shape[1]

    @property
    def dims(self) -> tuple[int, int]:
        """(N, K)."""
        return len(self.moved.arrays["left"]), self.moved.arrays["right"].shape[1]

    def real(self, progress: float) -> Real:
        """L R with faded components [N, K]."""
        left, right = self.moved.arrays["left"], self.moved.arrays["right"]
        return np.asarray((left * shares(self.rank, progress)) @ right, np.float32)

    def step(self, gradient: Real, progress: float) -> None:
        """Along the gradient by L R [N, K]."""
        left, right = self.moved.arrays["left"], self.moved.arrays["right"]
        kept = shares(self.rank, progress)
        by_left, by_right = (gradient @ right.T) * kept, kept[:, None] * (left.T @ gradient)
        self.moved.step(left=(by_left, self.rates[0]), right=(by_right, self.rates[1]))

    def halved(self) -> "_Part":
        """Of half the rank."""
        half = self.rank // 2
        left, right = self.moved.arrays["left"], self.moved.arrays["right"]
        return _Part.of(left[:, :half] @ right[:half], half)


@dataclass
class RankDecay(Way):
    """parts: Φ by leaf, none at the end. phase: steps of one."""

    parts: dict[str, _Part] = field(default_factory=dict)
    phase: int = 1

    def prepare(self, start: Start) -> None:
        """The decompositions of all errors."""
        super().prepare(start)
        self.parts = {}
        for each in weights_of(start.tape, start.normalised):
            rows = len(each.real)
            error = (each.real - self.found[each.leaf].real()).reshape(rows, -1)
            if error.any():
                self.parts[each.leaf] = _Part.of(error, _RANK)
        most = max((part.rank for part in self.parts.values()), default=0)
        self.phase = max(start.steps // (most.bit_length() + 1), 1)

    def slopes(self, gradients: Gradients, step: int) -> Leaves:
        """With Φ in the network, which takes its own step."""
        if step and step % self.phase == 0:
            self.parts = {n: part.halved() for n, part in self.parts.items() if part.rank > 1}
        progress, leaves = (step % self.phase) / self.phase, self.leaves()
        for name, part in self.parts.items():
            leaves[name] = leaves[name] + part.real(progress).reshape(leaves[name].shape)
        found = gradients(leaves)
        for name, part in self.parts.items():
            if name in found:
                part.step(found[name].reshape(len(found[name]), -1), progress)
        return self.by_t(found)

    def arrays(self) -> dict[str, NDArray]:
        """Φ and its moments."""
        held: dict[str, NDArray] = {"parts": np.array(sorted(self.parts))}
        for i, (_, part) in enumerate(sorted(self.parts.items())):
            held[f"rates{i}"] = np.array(part.rates)
            held |= {f"{name}_part{i}": array for name, array in part.moved.state().items()}
        return held

    def take(self, held: Any) -> None:
        """Φ and its moments."""
        parts = {}
        for i, name in enumerate(held["parts"].tolist()):
            end = f"_part{i}"
            state = {n.removesuffix(end): held[n] for n in held if n.endswith(end)}
            rates = tuple(float(r) for r in held[f"rates{i}"])
            part = _Part(Steps.of_state(state), rates)  # type: ignore[arg-type]
            if name not in self.parts or part.dims != self.parts[name].dims:
                raise ValueError(f"its part of {name} has another shape")
            parts[name] = part
        self.parts = parts
