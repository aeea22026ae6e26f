# SPDX-License-Identifier: Apache-2.0
"""Saliency: important weights stay near the float ones while the network is tuned.

Saliency-Aware Partial Retraining (Cao and Aref 2025, over ApiQ, Liao et al. 2024): the loss of the
outputs and a regulariser of the weights,

    L + λ Σ S (W − Ŵ)²,        S = E[x²] W²  (of mean 1),        λ = 0.1 L₀ / R₀

with L₀ and R₀ the loss and the regulariser at the start.

Deviations: the formula of the paper could not be read, so S is the diagonal of the
Hessian times the squared weight (Optimal Brain Damage, LeCun et al. 1990); ApiQ's clipping factors
are the scales of rows and blocks, codes stay, and no low-rank branch is left in the network.
"""

from dataclasses import dataclass, field

import numpy as np

from qcompile.reverse_products import Real
from qcompile.tape_weights import weights_of
from qcompile.tuning_ways import Gradients, Leaves, Start, Way

_SHARE = 0.1


@dataclass
class Saliency(Way):
    """share: of the regulariser beside the loss, at the start."""

    share: float = _SHARE
    wanted: dict[str, Real] = field(default_factory=dict)
    weights: dict[str, Real] = field(default_factory=dict)  # λ S

    def prepare(self, start: Start) -> None:
        """S of every weight, and λ."""
        super().prepare(start)
        found = list(weights_of(start.tape, start.normalised))
        values = start.values(list({each.input for each in found}))
        self.wanted = {each.leaf: each.real for each in found}
        self.weights = {}
        for each in found:
            importance = each.by_column(each.power(values[each.input])) * np.square(each.real)
            mean = max(float(importance.mean(dtype=np.float64)), 2.0**-126)
            self.weights[each.leaf] = (importance / mean).astype(np.float32)
        whole = self.regulariser()
        factor = np.float32(self.share * start.loss / whole if whole > 0 else 0.0)
        self.weights = {name: factor * each for name, each in self.weights.items()}

    def regulariser(self) -> float:
        """λ Σ S (W − Ŵ)²."""
        return sum(
            float((self.weights[name] * np.square(real - self.found[name].real())).sum())
            for name, real in self.wanted.items()
        )

    def slopes(self, gradients: Gradients, step: int) -> Leaves:
        """Of both parts."""
        found = gradients(self.leaves())
        for name, real in self.wanted.items():
            pull = 2 * self.weights[name] * (self.found[name].real() - real)
            found[name] = np.asarray(found[name] + pull if name in found else pull)
        return self.by_t(found)
