# SPDX-License-Identifier: Apache-2.0
"""The stages of targets that make a library: the network, its artifact, its verdict.

Target cpu's artifact of the model is made first and verified as always. The library must then give
the same integers, and only it is kept.
"""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir

from qcompile.artifact import Artifact, load
from qcompile.data import Data
from qcompile.deliver import deliver
from qcompile.measure import measure_speed
from qcompile.network import Network
from qcompile.network_check import batch_of
from qcompile.recipe import Recipe
from qcompile.session import open_model, session_options
from qcompile.targets.target import Target
from qcompile.to_integer_graph import to_integer_graph
from qcompile.verdict import Verdict
from qcompile.verify import END_TO_END_SAMPLES, end_to_end
from qcompile.verify_network import can_run, check_network, share_emulated

REFERENCE = "reference"
NOT_RUN = "speed and accuracy of the library itself: there is no GPU; its integers are target cpu's"


def for_target(recipe: Recipe, target: Target) -> Recipe:
    """A library is integer-only, also where the user does not say so."""
    return recipe if target.compiler is None else replace(recipe, integer_only=True)


def network_of(lowered: ir.Model, target: Target, recipe: Recipe) -> Network | None:
    """The network of a lowered model; None for targets without a library."""
    if target.compiler is None:
        return None
    return to_integer_graph(lowered, target.name, batch_of(lowered.graph, recipe))


def reference_folder(folder: Path) -> Path:
    """Where target cpu's artifact lies until the library is verified."""
    place = folder / REFERENCE
    place.mkdir()
    return place


def finish_network(
    reference: Artifact,
    verdict: Verdict,
    network: Network,
    target: Target,
    folder: Path,
    source: ir.Model,
    data: Data,
) -> tuple[Artifact, Verdict]:
    """The artifact of the library, and the verdict with its checks."""
    assert target.compiler is not None
    artifact = deliver(reference, network, target, folder)
    checks = check_network(artifact, reference, network, target.compiler, data)
    verdict = replace(verdict, checks=(*verdict.checks, *checks))
    shutil.rmtree(folder / REFERENCE)
    if verdict.failures:
        return artifact, verdict
    if target.compiler.emulate is not None and (share := share_emulated(network.graph)) < 1:
        left = (
            f"most blocks of the kernels on the emulator: of each it ran about {share:.1%}, and "
            "at least the first, the last and one between"
        )
        verdict = replace(verdict, skipped=(*verdict.skipped, left))
    if not can_run(target.compiler):
        return artifact, replace(verdict, speed={}, skipped=(*verdict.skipped, NOT_RUN))
    session = load(folder, threads=1, trust_library=True)  # which we just wrote
    before = open_model(source, session_options(1))
    sqnr, cosine, finite = end_to_end(before, session, data.first(END_TO_END_SAMPLES))
    checks = [*verdict.checks, replace(finite, rung="network: end to end")]
    x = next(iter(data))[network.input.name]
    whole = {network.input.name: np.resize(x, (network.graph.batch, *x.shape[1:]))}
    speed = measure_speed(before, session, whole, whole=True)
    return artifact, replace(
        verdict, checks=tuple(checks), sqnr_db=sqnr, cosine=cosine, speed=speed
    )
