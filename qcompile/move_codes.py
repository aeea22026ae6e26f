# SPDX-License-Identifier: Apache-2.0
"""move_codes: the codes of a tuned network, few at a time, in turn with its scales and biases.

PV-Tuning (Malinovskii et al. 2024, algorithm 1): a P step moves what is continuous (tune.py), a V
step few codes of each weight (code_step.py). `--weight-rounding pv`.

Deviations: a V step of a layer is taken only where the loss on held-out samples falls, and tried
with fewer codes where it does not, because the few samples of a calibration would be
learned by heart (docs/results.md); so the loss never rises from one step to the next.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import onnx_ir as ir

from qcompile.graph import constant
from qcompile.numerics.weight import CodedWeight
from qcompile.passes.transform.code_step import code_step
from qcompile.reverse import Tape, spec_of
from qcompile.reverse_products import Real
from qcompile.tunable import Tunable, WeightScale, put
from qcompile.verify_compensated import written_weight

ROUNDS = {"default": 2, "best": 8}  # by effort
_SHARE = 1e-2  # of a layer's codes in a V step, as in the authors' code
_FEWER = 8  # times fewer codes at every further try, down to one


@dataclass
class Codes:
    """The codes of one weight, [N, K] in the scales that tuning began with."""

    tuned: WeightScale
    start: CodedWeight
    now: CodedWeight

    @classmethod
    def of(cls, node: ir.Node, tuned: WeightScale) -> "Codes":
        """Of a dequantizer."""
        codes = constant(node.inputs[0])
        assert codes is not None
        start = written_weight(node, codes, spec_of(node))
        return cls(tuned, start, start)

    @property
    def num_moved(self) -> int:
        """Codes that are not those of the start."""
        return int((self.now.codes != self.start.codes).sum())

    def moved(self, gradient: Real, curvature: Real, count: int) -> CodedWeight:
        """With at most so many codes moved, at the scales of now; scales are those of the start."""
        assert self.start.scale is not None
        scale = self.tuned.scales().reshape(-1, self.start.num_blocks)
        scaled = replace(self.now, scale=np.broadcast_to(scale, self.start.scale.shape))
        shape = self.start.shape
        bend = smoothed(curvature.reshape(shape))
        found = code_step(scaled, gradient.reshape(shape), bend, count)
        return replace(self.now, codes=found.codes)

    def take(self, coded: CodedWeight) -> None:
        """Go on with these codes."""
        self.now = coded
        self.tuned.weight = coded.decode().reshape(self.tuned.weight.shape)


def smoothed(curvature: Real) -> Real:
    """A curvature [N, K] as that of its row times that of its column, as K-FAC has it.

    Of an estimate weight by weight the smallest would be chosen, which are the most wrong.

    >>> smoothed(np.float32([[1, 3], [3, 1]])).tolist()
    [[2.0, 2.0], [2.0, 2.0]]
    """
    total = max(float(curvature.sum(dtype=np.float64)), 2.0**-126)
    return np.asarray(np.outer(curvature.sum(1), curvature.sum(0)) / np.float32(total), np.float32)


@dataclass
class Moves:
    """V steps and P steps in turn.

    error: the loss on held-out samples. gradients: by the leaves, of samples to tune on.
    curvatures: the diagonal of the loss's Gauss-Newton matrix, by the leaves. p_step:
    scales and biases moved from where they are, given a loss; the loss after that.
    """

    error: Callable[[], float]
    gradients: Callable[[], dict[str, Real]]
    curvatures: Callable[[], dict[str, Real]]
    p_step: Callable[[float], float]
    codes: dict[str, Codes] = field(default_factory=dict)

    def of(self, tape: Tape, found: dict[str, Tunable]) -> "Moves":
        """With the weights below 8 bits that are tuned."""
        for name, node in tape.weights.items():
            tuned = found[name]
            if isinstance(tuned, WeightScale) and tuned.spec.bits < 8:
                self.codes[name] = Codes.of(node, tuned)
        return self

    def run(self, rounds: int, least: float) -> float:
        """So many rounds, fewer where no code moves; the loss after them."""
        for _ in range(rounds):
            after = self.v_step(least)
            if not after < least:
                break
            least = self.p_step(after)
        return least

    def v_step(self, least: float) -> float:
        """Layer by layer; the loss after it."""
        gradients, curvatures = self.gradients(), self.curvatures()
        for name, each in self.codes.items():
            before, count = each.now, max(int(_SHARE * each.now.codes.size), 1)
            while count and name in gradients:
                moved = each.moved(gradients[name], curvatures[name], count)
                if moved.codes is before.codes:
                    break
                each.take(moved)
                error = self.error()
                if error < least:
                    least = error
                    break
                each.take(before)
                count //= _FEWER
        return least

    @property
    def num_moved(self) -> dict[str, int]:
        """By leaf."""
        return {name: each.num_moved for name, each in self.codes.items()}

    def write(self, quantized: ir.Model, tape: Tape) -> None:
        """The codes into a copy of the graph that the tape is of."""
        for name, each in self.codes.items():
            value = tape.weights[name].inputs[0]
            old = constant(value)
            assert old is not None
            put(quantized, value, each.now.codes.astype(old.dtype).reshape(old.shape))
