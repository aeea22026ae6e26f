# SPDX-License-Identifier: Apache-2.0
"""Tuned: what tune gives, and the loss of its graph in ONNX Runtime."""

from dataclasses import dataclass, field

import onnx_ir as ir
from numpy.typing import NDArray

import qcompile.runtime_ops as runtime_ops
from qcompile.bodies import nodes_of
from qcompile.data import Feed
from qcompile.division import Division
from qcompile.graph import DOMAIN
from qcompile.session import open_own, session_options, with_outputs
from qcompile.tuning_loss import Loss


@dataclass(frozen=True)
class Tuned:
    """The graph, tuned or as it was. note: what happened, for report and manifest.

    held: the samples that decided; losses: output of the graph → what decided.
    """

    model: ir.Model
    note: str = ""
    held: list[Feed] = field(default_factory=list)
    losses: dict[str, Loss] = field(default_factory=dict)

    @property
    def is_tuned(self) -> bool:
        """Whether numbers have changed."""
        return bool(self.held)


def outputs_ratio(
    normalised: ir.Model, rounded: ir.Model, tuned: Tuned, division: Division
) -> float | None:
    """The loss on the held-out samples ÷ that before tuning, as ONNX Runtime runs the graphs.

    None: it cannot, without the op library.
    """
    if any(n.domain == DOMAIN for n in nodes_of(rounded)) and not runtime_ops.is_available():
        return None
    targets = [loss.target for loss in tuned.losses.values()]
    floats = division.open(with_outputs(normalised, targets))
    wanted = [floats.run(targets, feed) for feed in tuned.held]
    return _loss(tuned.model, tuned, wanted) / _loss(rounded, tuned, wanted)


def _loss(model: ir.Model, tuned: Tuned, wanted: list[list[NDArray]]) -> float:
    """The sum over outputs and feeds."""
    options, names, total = session_options(), list(tuned.losses), 0.0
    if any(n.domain == DOMAIN for n in nodes_of(model)):
        runtime_ops.register(options)
    session = open_own(with_outputs(model, names), "the QDQ graph", options)
    for feed, targets in zip(tuned.held, wanted, strict=True):
        made = session.run(names, feed)
        for loss, y, t in zip(tuned.losses.values(), made, targets, strict=True):
            total += len(y) * loss.of(y, t)[0]
    return total
