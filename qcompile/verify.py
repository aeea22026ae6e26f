# SPDX-License-Identifier: Apache-2.0
"""verify: every stage against the one before, and the artifact on disk against the user's model.

Each stage has its own check, so that a fault is located where it is made.
"""

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
from numpy.typing import NDArray

import qcompile.runtime_ops as runtime_ops
from qcompile.artifact import MODEL, Artifact, load, sha256
from qcompile.data import Data
from qcompile.graph import DOMAIN, FLOAT, constant
from qcompile.measure import measure_speed
from qcompile.numerics.quantize import quantize
from qcompile.plan import Plan
from qcompile.session import open_model, run_float, session_options, with_outputs
from qcompile.spec import QuantSpec
from qcompile.targets.target import Target
from qcompile.verdict import Check, Verdict
from qcompile.verify_lowered import check_constants, check_floats
from qcompile.verify_nodes import check_lowered, check_packed, check_qdq, layer_sqnr, record

UNIT = 2.0**-23
SAMPLES = 2  # the node-by-node rungs run NumPy on every node
END_TO_END_SAMPLES = 64


def verify(
    artifact: Artifact,
    source: ir.Model,
    normalised: ir.Model,
    quantized: ir.Model,
    lowered: ir.Model,
    plan: Plan,
    target: Target,
    data: Data,
) -> Verdict:
    """The verdict of architecture §2. Reads the artifact from disk."""
    few = data.first(SAMPLES)
    skipped: list[str] = []
    worst: list[tuple[str, float]] = []
    checks = [check_emitted(artifact), check_normalised(source, normalised, few)]
    checks += check_weights(normalised, quantized, plan)
    if runtime_ops.is_available() or not _needs_library(quantized):
        checks += check_activations(quantized, plan, few)
    else:
        skipped.append("the QDQ rung: the op library is not installed")
    if target.packs:
        packed = ir.load(artifact.folder / MODEL)
        checks += [check_constants(lowered, quantized), check_packed(lowered, packed)]
        checks += check_lowered(artifact, packed, few)
        runs = [run.values for run in record(artifact, packed, few)]
        checks += check_qdq(artifact, packed, quantized, few)
        checks += check_floats(quantized, packed, runs)
        worst = layer_sqnr(normalised, artifact, packed, few)
    session = load(artifact.folder, threads=1)
    float_session = open_model(source, session_options(1))
    sqnr, cosine, finite = end_to_end(float_session, session, data.first(END_TO_END_SAMPLES))
    checks.append(finite)
    speed = measure_speed(float_session, session, next(iter(data)))
    return Verdict(
        tuple(checks), sqnr, cosine, tuple(worst[:5]), speed=speed, skipped=tuple(skipped)
    )


def _needs_library(model: ir.Model) -> bool:
    return any(n.domain == DOMAIN for n in model.graph)


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


def check_normalised(source: ir.Model, normalised: ir.Model, data: Data) -> Check:
    """normalise: float outputs against the source's.

    The bound: every product of K terms may differ by K·2^-23 of its magnitude, and the differences
    add over the depth; so 2^-23 · Σ K · (the largest |output of a product|), summed over the
    products. Where no output is a float, all must be equal.
    """
    products = [n for n in normalised.graph if n.op_type in ("Conv", "MatMul", "Gemm")]
    names = [n.outputs[0].name or "" for n in products]
    outputs = [v.name or "" for v in normalised.graph.outputs]
    depth = sum(_reduction(n) for n in products) + len(normalised.graph)
    wanted = open_model(source, session_options(optimise=False))
    wide = list(dict.fromkeys([*outputs, *names]))
    found = open_model(with_outputs(normalised, wide), session_options(optimise=False))
    difference, magnitude, worst = 0.0, 0.0, ""
    for feed in data:
        expected = dict(zip(outputs, run_float(wanted, outputs, feed), strict=True))
        actual = dict(zip(wide, found.run(wide, feed), strict=True))
        floats = [n for n in outputs if actual[n].dtype.kind == "f"]
        for name in names or floats:
            magnitude = max(magnitude, float(np.abs(actual[name]).max(initial=0)))
        for name in floats or outputs:
            gap = largest_gap(expected[name], actual[name])
            if not gap <= difference:
                difference, worst = gap, name
    return Check(
        "normalise",
        difference,
        UNIT * depth * magnitude,
        "2^-23 · Σ K · largest product (float outputs)",
        worst,
        len(outputs),
    )


def largest_gap(a: NDArray, b: NDArray) -> float:
    """The largest |a − b|; equal infinities and NaN in both are no gap. Other types: 0 or inf.

    >>> largest_gap(np.array([np.nan, np.inf, 1.0]), np.array([np.nan, np.inf, 1.5]))
    0.5
    """
    if a.dtype.kind != "f":
        return 0.0 if np.array_equal(a, b) else float("inf")
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    x, y = (np.where(same, 0, v).astype(np.float64) for v in (a, b))
    return float(np.abs(x - y).max(initial=0))


def _reduction(node: ir.Node) -> int:
    weight = node.inputs[1]
    dims = [d for d in (weight.shape or [1]) if isinstance(d, int)] if weight is not None else [1]
    return int(np.prod(dims[1:])) if node.op_type in ("Conv", "Gemm") else int(max(dims, default=1))


def check_weights(normalised: ir.Model, quantized: ir.Model, plan: Plan) -> list[Check]:
    """transform: every weight is within half a step of its codes where it is not clipped."""
    floats = {v.name: v for v in normalised.graph.initializers.values()}
    worst, where, count = 0.0, "", 0
    for node in quantized.graph:
        text = node.outputs[0].metadata_props.get("qcompile.spec") if node.outputs else None
        codes = constant(node.inputs[0]) if node.inputs else None
        if text is None or codes is None:
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
    w = original.reshape(original.shape[0], -1).astype(np.float64)
    c = codes.reshape(w.shape).astype(np.int32)
    if spec.format.code_max > 127:
        c = c & 0xFF
    scale = np.asarray(constant(node.inputs[1]), np.float64)
    point = constant(node.inputs[2]) if len(node.inputs) > 2 else None
    points = (
        np.zeros(())
        if point is None
        else (point.astype(np.int32) & (0xFF if spec.format.code_max > 127 else -1))
    )
    scale, points = _wide(scale, w.shape, spec), _wide(points, w.shape, spec)
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


def _wide(values: NDArray, shape: tuple[int, int], spec: QuantSpec) -> NDArray:
    if values.ndim < 2:
        return np.broadcast_to(values.reshape(-1, 1), shape)
    return np.repeat(values, spec.block_size or shape[1], axis=1)[:, : shape[1]]


def check_activations(quantized: ir.Model, plan: Plan, data: Data) -> list[Check]:
    """transform: the codes that ORT's QuantizeLinear makes are those of numerics (N2)."""
    inserted = {f"{name}/quantize" for name in plan.activations}  # others are the user's own
    nodes = [n for n in quantized.graph if n.op_type == "QuantizeLinear" and n.name in inserted]
    if not nodes:
        return []
    options = session_options(optimise=False)
    if _needs_library(quantized):
        runtime_ops.register(options)
    pairs = [(n.inputs[0], n.outputs[0], n) for n in nodes]
    names = list(dict.fromkeys(v.name or "" for x, y, _ in pairs for v in (x, y) if v is not None))
    session = open_model(with_outputs(quantized, names), options)
    spec = QuantSpec.parse("uint8/tensor/asym/f32")
    wrong, where, count = 0, "", 0
    for feed in data:
        found = dict(zip(names, session.run(names, feed), strict=True))
        for source, made, node in pairs:
            name = source.name or "" if source is not None else ""
            codes = found[made.name or ""]
            scale, point = constant(node.inputs[1]), constant(node.inputs[2])
            expected = quantize(
                found[name], np.asarray(scale), np.asarray(point), spec.format, symmetric=False
            )
            bad = int((expected != codes).sum())
            count += codes.size
            if bad:
                wrong, where = wrong + bad, name
    rung, source_text = "transform: activations", "codes that differ from numerics (N2)"
    return [Check(rung, wrong, 0, source_text, where, count)]


def end_to_end(
    expected: ort.InferenceSession, actual: ort.InferenceSession, data: Data
) -> tuple[float | None, float | None, Check]:
    """SQNR in dB and cosine of the float outputs over the data, and the check for NaN.

    The artifact may give NaN or infinity only where the source does.
    """
    signal = noise = dot = power = 0.0
    nans = count = 0
    for feed in data:
        pairs = zip(run_float(expected, None, feed), actual.run(None, feed), strict=True)
        for a, b in pairs:
            if not np.issubdtype(a.dtype, np.floating):
                continue
            x, y = a.astype(np.float64), b.astype(np.float64)
            usable = np.isfinite(x)
            nans += int((~np.isfinite(y) & usable).sum())
            x, y = x[usable], np.nan_to_num(y[usable])
            signal, noise = signal + float((x * x).sum()), noise + float(((x - y) ** 2).sum())
            dot, power = dot + float((x * y).sum()), power + float((y * y).sum())
            count += x.size
    check = Check(
        "end to end", nans, 0, "outputs that are NaN or infinite only in the artifact", "", count
    )
    if not signal:
        return None, None, check
    sqnr = 10 * float(np.log10(signal / noise)) if noise else float("inf")
    cosine = dot / float(np.sqrt(signal * power)) if power else 0.0
    return sqnr, cosine, check
