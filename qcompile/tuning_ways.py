# SPDX-License-Identifier: Apache-2.0
"""Ways of tuning: what a step follows beside the gradient of the loss. One page each.

A way is tried on top of plain tuning and taken where its loss on held-out samples is smaller
(tune.py); what it needs besides the tuned numbers is gone when the graph is written.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import onnx_ir as ir
from numpy.typing import NDArray

from qcompile.reverse import Tape
from qcompile.reverse_products import Real
from qcompile.tunable import Tunable

Leaves = dict[str, Real]
# Gradients by the leaves of the loss on the samples of one step; the same ones for every call.
Gradients = Callable[[Leaves], Leaves]


@dataclass(frozen=True)
class Start:
    """What a way may look at before its first step.

    loss: on held-out samples. values: those of the quantized network on some samples, by name.
    steps: that will be taken.
    """

    tape: Tape
    normalised: ir.Model
    found: dict[str, Tunable]
    loss: float
    steps: int
    values: Callable[[list[str]], dict[str, Real]]


@dataclass
class Way:
    """Plain tuning, and what other ways change."""

    found: dict[str, Tunable] = field(default_factory=dict)

    def prepare(self, start: Start) -> None:
        """Begin anew."""
        self.found = start.found

    def slopes(self, gradients: Gradients, step: int) -> Leaves:
        """By every t, for step 0, 1, …"""
        return self.by_t(gradients(self.leaves()))

    def stays(self, name: str) -> NDArray | None:
        """Where a number does not move in this step; None: nowhere."""
        return None

    def leaves(self) -> Leaves:
        """The arrays that the network is run with."""
        return {name: each.real() for name, each in self.found.items()}

    def by_t(self, gradients: Leaves) -> Leaves:
        """Slopes by every t from gradients by the leaves."""
        return {name: self.found[name].slope(g) for name, g in gradients.items()}

    def arrays(self) -> dict[str, NDArray]:
        """What an interrupted tuning needs to go on; names that a file can have."""
        return {}

    def take(self, held: Any) -> None:
        """Go on from such arrays."""
