# SPDX-License-Identifier: Apache-2.0
"""verify: every stage against the one before, and the artifact on disk against the user's model.

Each stage has its own check, so that a fault is located where it is made.
"""

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
from numpy.typing import NDArray

import qcompile.runtime_ops as runtime_ops
from qcompile.artifact import Artifact, open_emitted, sha256
from qcompile.bodies import all_bodies, closed, nodes_of
from qcompile.body_data import Recording, record_bodies
from qcompile.data import Data
from qcompile.division import Division
from qcompile.graph import DOMAIN, FLOAT, constant
from qcompile.integer_only import check_sums
from qcompile.measure import measure_speed
from qcompile.memory import row_slices
from qcompile.normalise import named
from qcompile.passes.transform.stats import Stats
from qcompile.plan import Plan
from qcompile.progress import Counter
from qcompile.session import open_model, run_float, session_options
from qcompile.spec import QuantSpec
from qcompile.targets.target import Target
from qcompile.verdict import Check, Verdict
from qcompile.verify_activations import check_activations
from qcompile.verify_bodies import Part, body_part, joined
from qcompile.verify_compensated import check_compensated
from qcompile.verify_imported import check_codes, check_kept, makes_codes
from qcompile.verify_lowered import check_constants, check_floats
from qcompile.verify_nodes import (
    check_lowered,
    check_packed,
    check_qdq,
    compiled_nodes,
    layer_sqnr,
    record,
)
from qcompile.verify_normalised import check_normalised, measure_products
from qcompile.verify_recurrent import check_recurrent
from qcompile.verify_split import check_split

UNIT = 2.0**-23
SAMPLES = 2  # the node-by-node rungs run NumPy on every node
END_TO_END_SAMPLES = 64
_RUNGS = 7  # steps of progress beside those of nodes
_COMPARED = 1 << 22  # elements in float64 at a time


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
) -> Verdict:
    """The verdict of architecture §2. Reads the artifact from disk."""
    few = data.first(SAMPLES)
    skipped: list[str] = []
    worst: list[tuple[str, float]] = []
    packed = artifact.model()
    inside = record_bodies(normalised, few)
    if not all(recording.feeds for recording in inside.values()):  # later samples may run them
        inside = record_bodies(normalised, data.first(END_TO_END_SAMPLES))
    measure_products(normalised, inside)
    nodes = len(compiled_nodes(packed)) if target.packs else 0
    count = Counter(data.watch, "checks", _RUNGS + nodes * (len(few.feeds) + 1))
    checks = [check_emitted(artifact)]
    count()
    checks += check_floats_of(source, normalised, few, inside, division)
    count()
    stages = (normalised, quantized, lowered, packed)
    parts = [Part(*stages, few, division)]
    original = named(source) if inside else source
    theirs = {body.path for body in all_bodies(original.graph)}  # others are what normalise made
    for path, recording in inside.items():
        part, why = body_part(path, recording, stages, division.budget)
        if path in theirs and part.data is not None:
            body = closed(original, path)
            checks += check_floats_of(body, part.normalised, part.data, inside, part.division)
        parts.append(part)
        skipped += why
    originals = {n.name or "": n for n in nodes_of(original)}
    for part in parts:
        if part.data is not None and inside:
            checks += check_split(originals, part.normalised, part.data, inside)
        checks += check_part(part, plan, stats, count)
        if target.packs:
            more, sizes = check_runs(artifact, part, count)
            checks += more
            worst += sizes
    if plan.is_integer_only:
        checks.append(check_sums(packed))
    if _needs_library(quantized) and not runtime_ops.is_available():
        skipped.append("the QDQ rung: the op library is not installed")
    worst.sort(key=lambda row: row[1])
    session = open_emitted(artifact)
    is_large = division.budget.is_large(source)
    float_session = open_model(source, session_options(1), lean=is_large)
    outputs = [v.name or "" for v in normalised.graph.outputs]
    # of two sessions, whose arenas grow to twice what they hold
    held = 2 * (division.footprint.of_values(outputs) + division.footprint.live_bytes)
    shown = {"outputs": held}
    many, _ = division.split(shown, data.first(END_TO_END_SAMPLES))
    sqnr, cosine, finite = end_to_end(float_session, session, many)
    checks.append(finite)
    count()
    speed: dict[str, float] = {}
    if is_large:
        skipped.append("speed: the float model is large and ran from its file, which is slow")
    else:
        speed = measure_speed(float_session, session, next(iter(data)))
    return Verdict(
        tuple(joined(checks)), sqnr, cosine, tuple(worst[:5]), speed=speed, skipped=tuple(skipped)
    )


def check_floats_of(
    source: ir.Model,
    normalised: ir.Model,
    data: Data,
    inside: dict[str, Recording],
    division: Division,
) -> list[Check]:
    """normalise: one graph against the user's, cut at its codes where it has some."""
    if makes_codes(normalised):
        return check_codes(source, normalised, data)
    return [check_normalised(source, normalised, data, inside, division)]


def check_part(part: Part, plan: Plan, stats: Stats, count: Counter) -> list[Check]:
    """What the stages did to one graph, without running what was compiled."""
    checks = check_kept(part.normalised, part.quantized, plan)
    checks += check_weights(part.normalised, part.quantized, plan, stats)
    count()
    checks += check_compensated(part.normalised, part.quantized, stats)
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
    ]
    if part.data is None:
        return checks, []
    runs = record(artifact, part.packed, part.data, part.division)
    count()
    checks += check_lowered(part.packed, runs, count)
    checks += check_qdq(part.packed, part.quantized, runs, count)
    values = [run.values for run in runs]
    checks += check_floats(part.quantized, part.packed, values, count)
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


def check_weights(
    normalised: ir.Model, quantized: ir.Model, plan: Plan, stats: Stats
) -> list[Check]:
    """transform: every weight is within half a step of its codes where it is not clipped.

    Compensated weights are not: check_compensated judges them.
    """
    floats = {v.name: v for v in normalised.graph.initializers.values()}
    worst, where, count = 0.0, "", 0
    for node in quantized.graph:
        text = node.outputs[0].metadata_props.get("qcompile.spec") if node.outputs else None
        codes = constant(node.inputs[0]) if node.inputs else None
        if text is None or codes is None:
            continue
        if node.outputs[0].metadata_props[FLOAT] in stats.compensated:
            continue
        original = constant(floats.get(node.outputs[0].metadata_props[FLOAT]))
        if original is None:
            continue
        error = weight_error(original, codes, node, QuantSpec.parse(text))
        count += 1
        if not error <= worst:
            worst, where = error, node.outputs[0].name or ""
    return [
        Check(
            "transform: weights", worst, 1.0, "error ÷ half a step, where not clipped", where, count
        )
    ]


def weight_error(original: NDArray, codes: NDArray, node: ir.Node, spec: QuantSpec) -> float:
    """The largest |w − ŵ| ÷ half the distance to the next value, over weights that are in range."""
    w = original.reshape(codes.shape[0], -1)  # LSTM: [D, N, K] has codes [D · N, K]
    c, shape = codes.reshape(w.shape), w.shape
    scale = np.asarray(constant(node.inputs[1]), np.float64)
    point = constant(node.inputs[2]) if len(node.inputs) > 2 else None
    points = np.zeros(()) if point is None else _centre(point, spec)
    return max(
        _rows_error(
            w[rows].astype(np.float64),
            _centre(c[rows], spec),
            _wide(scale, shape, rows, spec),
            _wide(points, shape, rows, spec),
            spec,
        )
        for rows in row_slices(*shape)
    )


def _centre(codes: NDArray, spec: QuantSpec) -> NDArray[np.int32]:
    """Codes as numbers; those of uint8 travel as INT8."""
    return codes.astype(np.int32) & (0xFF if spec.format.code_max > 127 else -1)


def _rows_error(w: NDArray, c: NDArray, scale: NDArray, points: NDArray, spec: QuantSpec) -> float:
    low, high = spec.format.quantized_range(symmetric=spec.is_symmetric)
    values = spec.format.values.astype(np.float64)
    real = (values[c - spec.format.code_min] - points) * scale
    ends = [(values[np.array([low, high]) - spec.format.code_min]), values]
    least = (min(ends[1]) if spec.format.is_table else ends[0][0]) - points
    most = (max(ends[1]) if spec.format.is_table else ends[0][1]) - points
    inside = (w >= least * scale) & (w <= most * scale)
    ordered = np.unique(values)
    step = float(np.diff(ordered).max()) if len(ordered) > 1 else 1.0
    # f32 division and products round: a tie may fall to the other side by that much
    allowed = scale * step / 2 + 4 * UNIT * np.maximum(np.abs(w), np.abs(real))
    return float((np.abs(w - real) / allowed)[inside].max(initial=0))


def _wide(values: NDArray, shape: tuple[int, int], rows: slice, spec: QuantSpec) -> NDArray:
    """[N], [N, num_blocks] or one value, as the rows [n, K]."""
    if values.ndim < 2:
        return np.broadcast_to(values.reshape(-1, 1), (shape[0], 1))[rows]
    return np.repeat(values[rows], spec.block_size or shape[1], axis=1)[:, : shape[1]]


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
            if not np.issubdtype(a.dtype, np.floating):
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
