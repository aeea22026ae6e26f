# SPDX-License-Identifier: Apache-2.0
"""verify: every stage against the one before, and the artifact on disk against the user's model.

Each stage has its own check, so that a fault is located where it is made.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
import onnxruntime as ort

import qcompile.runtime_ops as runtime_ops
from qcompile.artifact import Artifact, open_emitted, sha256
from qcompile.bodies import all_bodies, closed, nodes_of
from qcompile.body_data import Recording, record_bodies
from qcompile.data import Data
from qcompile.division import Division
from qcompile.element_types import is_float
from qcompile.graph import DOMAIN
from qcompile.integer_only import check_sums
from qcompile.measure import measure_speed
from qcompile.normalise import named
from qcompile.passes.transform.stats import Stats
from qcompile.plan import Plan
from qcompile.progress import Counter
from qcompile.session import open_model, run_float, session_options
from qcompile.sparsity import check_sparse
from qcompile.targets.target import Target
from qcompile.tuned import Tuned
from qcompile.verdict import Check, Verdict
from qcompile.verify_activations import check_activations
from qcompile.verify_attention import check_attention, check_dynamic_attention
from qcompile.verify_bodies import Part, body_part, joined
from qcompile.verify_compensated import check_compensated, check_low_rank
from qcompile.verify_imported import check_codes, makes_codes
from qcompile.verify_kept import check_kept
from qcompile.verify_lowered import check_constants, check_floats
from qcompile.verify_nodes import (
    check_lowered,
    check_packed,
    check_qdq,
    compiled_nodes,
    record,
)
from qcompile.verify_normalised import check_normalised, check_rotated, measure_products
from qcompile.verify_recurrent import check_recurrent
from qcompile.verify_rotation import check_rotations
from qcompile.verify_split import check_split
from qcompile.verify_sqnr import layer_sqnr
from qcompile.verify_tables import check_step_tables
from qcompile.verify_tuned import check_tuned
from qcompile.verify_weights import check_weights

SAMPLES = 2  # the node-by-node rungs run NumPy on every node
END_TO_END_SAMPLES = 64
_RUNGS = 7  # steps of progress beside those of nodes
_COMPARED = 1 << 22  # elements in float64 at a time


@dataclass(frozen=True)
class Found:
    """What the stages gave: checks, the worst nodes with their dB, and what was left out."""

    checks: list[Check]
    worst: list[tuple[str, float]]
    skipped: list[str]


def verify(
    artifact: Artifact,
    source: ir.Model,
    normalised: ir.Model,
    quantized: ir.Model,
    lowered: ir.Model,
    plan: Plan,
    target: Target,
    data: Data,
    stats: Stats,
    division: Division,
    unrotated: ir.Model | None = None,
    tuned: Sequence[Tuned] = (),
) -> Verdict:
    """The verdict of architecture §2. Reads the artifact from disk.

    unrotated: the normalised model before `rotate`; None where that changed nothing. tuned: what
    `reconstruct` and `tune` made of `quantized`, in turn; empty where they had no part.
    """
    few = data.first(SAMPLES)
    packed = artifact.model()
    inside = _recorded(normalised, data)
    nodes = len(compiled_nodes(packed)) if target.packs else 0
    count = Counter(data.watch, "checks", _RUNGS + nodes * (len(few.feeds) + 1))
    checks = [check_emitted(artifact)]
    count()
    before = normalised if unrotated is None else unrotated
    checks += check_floats_of(source, before, few, inside, division)
    if before is not normalised:
        checks.append(check_rotated(before, normalised, few, inside, division))
    count()
    last = quantized
    for each in tuned:
        checks += check_tuned(normalised, last, each, division)
        last = each.model
    graphs = (normalised, last, lowered, packed)
    parts, more, skipped = _parts(source, graphs, few, inside, division)
    checks += more
    originals = {n.name or "": n for n in nodes_of(named(source) if inside else source)}
    worst: list[tuple[str, float]] = []
    for part in parts:
        if part.data is not None and inside:
            checks += check_split(originals, part.normalised, part.data, inside)
        rounded = quantized if part is parts[0] else part.quantized
        checks += check_part(part, rounded, plan, stats, count)
        if target.packs:
            more, sizes = check_runs(artifact, part, count)
            checks += more
            worst += sizes
    if plan.is_integer_only:
        checks.append(check_sums(packed))
    if _needs_library(quantized) and not runtime_ops.is_available():
        skipped.append("the QDQ rung: the op library is not installed")
    checks, worst = joined(checks), sorted(worst, key=lambda row: row[1])[:5]
    outputs = [v.name or "" for v in normalised.graph.outputs]
    found = Found(checks, worst, skipped)
    verdict = check_whole(artifact, source, outputs, data, division, found)
    count()
    return verdict


def _recorded(normalised: ir.Model, data: Data) -> dict[str, Recording]:
    """What the bodies were given."""
    inside = record_bodies(normalised, data.first(SAMPLES))
    if not all(recording.feeds for recording in inside.values()):  # later samples may run them
        inside = record_bodies(normalised, data.first(END_TO_END_SAMPLES))
    measure_products(normalised, inside)
    return inside


def _parts(
    source: ir.Model,
    graphs: tuple[ir.Model, ir.Model, ir.Model, ir.Model],
    few: Data,
    inside: dict[str, Recording],
    division: Division,
) -> tuple[list[Part], list[Check], list[str]]:
    """The main graph and every body, the checks of the bodies' floats, and what is left out."""
    parts, checks, skipped = [Part(*graphs, few, division)], [], []
    original = named(source) if inside else source
    theirs = {body.path for body in all_bodies(original.graph)}  # others are what normalise made
    for path, recording in inside.items():
        part, why = body_part(path, recording, graphs, division.budget)
        if path in theirs and part.data is not None:
            body = closed(original, path)
            checks += check_floats_of(body, part.normalised, part.data, inside, part.division)
        parts.append(part)
        skipped += why
    return parts, checks, skipped


def check_whole(
    artifact: Artifact,
    source: ir.Model,
    outputs: list[str],
    data: Data,
    division: Division,
    found: Found,
) -> Verdict:
    """end to end: the artifact against the user's model, accuracy and speed."""
    session = open_emitted(artifact)
    is_large, skipped = division.budget.is_large(source), list(found.skipped)
    float_session = open_model(source, session_options(1), lean=is_large)
    # of two sessions, whose arenas grow to twice what they hold
    held = 2 * (division.footprint.of_values(outputs) + division.footprint.live_bytes)
    many, _ = division.split({"outputs": held}, data.first(END_TO_END_SAMPLES))
    sqnr, cosine, finite = end_to_end(float_session, session, many)
    speed: dict[str, float] = {}
    if is_large:
        skipped.append("speed: the float model is large and ran from its file, which is slow")
    else:
        speed = measure_speed(float_session, session, next(iter(data)))
    checks = (*found.checks, finite)
    return Verdict(checks, sqnr, cosine, tuple(found.worst), speed=speed, skipped=tuple(skipped))


def check_floats_of(
    source: ir.Model,
    normalised: ir.Model,
    data: Data,
    inside: dict[str, Recording],
    division: Division,
) -> list[Check]:
    """normalise: one graph against the user's, cut at its codes where it has some."""
    if makes_codes(normalised):
        return check_codes(source, normalised, data, division)
    return [check_normalised(source, normalised, data, inside, division)]


def check_part(
    part: Part, rounded: ir.Model, plan: Plan, stats: Stats, count: Counter
) -> list[Check]:
    """What the stages did to one graph, without running what was compiled.

    rounded: the QDQ graph before it was tuned.
    """
    checks = check_kept(part.normalised, rounded, plan)
    checks += check_weights(part.normalised, rounded, plan, stats)
    count()
    checks += check_sparse(rounded)
    checks += check_compensated(part.normalised, rounded, stats)
    checks += check_low_rank(part.normalised, rounded, stats)
    count()
    if part.data and (runtime_ops.is_available() or not _needs_library(part.quantized)):
        checks += check_activations(part.quantized, plan, part.data, part.division)
    count()
    return checks + check_recurrent(part.quantized, part.packed)


def check_runs(
    artifact: Artifact, part: Part, count: Counter
) -> tuple[list[Check], list[tuple[str, float]]]:
    """Lowered and packed nodes: their constants, and what they give; SQNR by node."""
    checks = [
        check_constants(part.lowered, part.quantized),
        check_packed(part.lowered, part.packed),
        *check_step_tables(part.packed, part.quantized),
    ]
    if part.data is None:
        return checks, []
    runs = record(artifact, part.packed, part.data, part.division)
    count()
    checks += check_lowered(part.packed, runs, count)
    checks += check_qdq(part.packed, part.quantized, runs, count)
    values = [run.values for run in runs]
    checks += check_attention(part.packed, part.quantized, values, count)
    checks += check_dynamic_attention(part.packed, part.quantized, values, count)
    checks += check_floats(part.quantized, part.packed, values, count)
    checks += check_rotations(part.quantized, part.packed, values)
    return checks, layer_sqnr(part.normalised, part.packed, runs, part.data, part.division)


def _needs_library(model: ir.Model) -> bool:
    return any(n.domain == DOMAIN for n in nodes_of(model))


def check_emitted(artifact: Artifact) -> Check:
    """emit: the files' bytes are those of the manifest."""
    wrong = [
        name
        for name, facts in artifact.content["files"].items()
        if sha256(artifact.folder / name) != facts["sha256"]
    ]
    count = len(artifact.content["files"])
    return Check(
        "emit",
        len(wrong),
        0,
        "files that differ from the manifest's sha256",
        ", ".join(wrong),
        count,
    )


def end_to_end(
    expected: ort.InferenceSession, actual: ort.InferenceSession, data: Data
) -> tuple[float | None, float | None, Check]:
    """SQNR in dB and cosine of the float outputs over the data, and the check for NaN.

    The artifact may give NaN or infinity only where the source does.
    """
    totals, nans, count = np.zeros(4), 0, 0
    for feed in data:
        pairs = zip(run_float(expected, None, feed), actual.run(None, feed), strict=True)
        for a, b in pairs:
            if not is_float(a.dtype):
                continue
            left, right = a.reshape(-1), b.reshape(-1)
            for i in range(0, left.size, _COMPARED):
                x, y = (v[i : i + _COMPARED].astype(np.float64) for v in (left, right))
                usable = np.isfinite(x)
                nans += int((~np.isfinite(y) & usable).sum())
                x, y = x[usable], np.nan_to_num(y[usable])
                count += x.size
                sums = (x * x).sum(), ((x - y) ** 2).sum(), (x * y).sum(), (y * y).sum()
                totals += np.array(sums)
    signal, noise, dot, power = map(float, totals)
    check = Check(
        "end to end", nans, 0, "outputs that are NaN or infinite only in the artifact", "", count
    )
    if not signal:
        return None, None, check
    sqnr = 10 * float(np.log10(signal / noise)) if noise else float("inf")
    cosine = dot / float(np.sqrt(signal * power)) if power else 0.0
    return sqnr, cosine, check
