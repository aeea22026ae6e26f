# SPDX-License-Identifier: Apache-2.0
"""Tuned: what tune gives, and the loss of its graph in ONNX Runtime."""

from dataclasses import dataclass, field, replace

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
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

    held: the samples that decided; losses: output of the graph → what decided. stage: which one
    made it. products: multiplications of tune's steps, whether they gained or not; 0: none taken.
    moved: dequantizer of a weight → how many of its codes tune moved (`pv`).
    """

    model: ir.Model
    note: str = ""
    held: list[Feed] = field(default_factory=list)
    losses: dict[str, Loss] = field(default_factory=dict)
    stage: str = "tune"
    products: float = 0
    moved: dict[str, int] = field(default_factory=dict)

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
    names, total = list(tuned.losses), 0.0
    session = open_rounded(with_outputs(model, names))
    for feed, targets in zip(tuned.held, wanted, strict=True):
        made = session.run(names, feed)
        for loss, y, t in zip(tuned.losses.values(), made, targets, strict=True):
            total += len(y) * loss.of(y, t)[0]
    return total


def open_rounded(model: ir.Model) -> ort.InferenceSession:
    """A session of a QDQ graph, with the op library where it needs that."""
    options = session_options()
    if any(n.domain == DOMAIN for n in nodes_of(model)):
        runtime_ops.register(options)
    return open_own(model, "the QDQ graph", options)


def kept_if_better(
    quantized: ir.Model,
    rebuilt: ir.Model,
    normalised: ir.Model,
    note: str,
    held: list[Feed],
    division: Division,
) -> Tuned:
    """The rebuilt graph where the loss of the network's outputs falls on held-out samples."""
    losses = losses_of(normalised, held, division)
    found = Tuned(rebuilt, note, held, losses, "reconstruct")
    ratio = outputs_ratio(normalised, quantized, found, division)
    if ratio is None or not ratio < 1:
        return Tuned(quantized, f"{note}, the network's outputs did not: nothing is kept")
    return replace(found, note=f"{note}; loss of the outputs {ratio:.3g} of that before")


def losses_of(normalised: ir.Model, held: list[Feed], division: Division) -> dict[str, Loss]:
    """The squared error of every float output relative to its variance."""
    names = [v.name or "" for v in normalised.graph.outputs if v.dtype == ir.DataType.FLOAT]
    session, found = division.open(with_outputs(normalised, names)), {}
    ran = [session.run(names, feed) for feed in held]
    for name, each in zip(names, zip(*ran, strict=True), strict=True):
        variance = float(np.concatenate([y.ravel() for y in each]).var(dtype=np.float64))
        found[name] = Loss(name, variance=max(variance, 2.0**-126))
    return found
