# SPDX-License-Identifier: Apache-2.0
"""The node-by-node rungs of verify: each compiled node on its own recorded inputs."""

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
from numpy.typing import NDArray

import qcompile.runtime_ops as runtime_ops
from qcompile.artifact import Artifact
from qcompile.data import Data
from qcompile.graph import DOMAIN, constant, input_of
from qcompile.pack import weight_of_packed
from qcompile.passes.lower.lowered import BIAS, MULTIPLIER
from qcompile.pieces import as_nchw, float_name, qdq_piece, source_names
from qcompile.reference import REFERENCES, activation_inputs, run_node
from qcompile.session import open_model, session_options, with_outputs
from qcompile.verdict import Check

WEIGHTS_FOLDER = "session.model_external_initializers_file_folder_path"
QDQ_SHARE = 0.001  # architecture §2: at most one code, on at most 0.1 % of the elements


@dataclass(frozen=True)
class Recorded:
    """One run of the artifact: the value of every name that was asked."""

    values: dict[str, NDArray]


def compiled_nodes(packed: ir.Model) -> list[ir.Node]:
    """The nodes that numerics has a meaning for."""
    return [n for n in packed.graph if n.domain == DOMAIN and n.op_type in REFERENCES]


def record(artifact: Artifact, packed: ir.Model, data: Data) -> list[Recorded]:
    """Run the artifact's nodes from its weights on disk, with their inputs and outputs shown."""
    names: list[str] = []
    for node in compiled_nodes(packed):
        names += [v.name or "" for v in (*activation_inputs(node), *node.outputs)]
    inputs = {v.name for v in packed.graph.inputs}
    names = [n for n in dict.fromkeys(names) if n not in inputs]
    probe = packed.clone()
    found = {v.name: v for n in probe.graph for v in n.outputs}
    probe.graph.outputs[:] = [found[n] for n in names]
    options = session_options()
    runtime_ops.register(options)
    options.add_session_config_entry(WEIGHTS_FOLDER, str(artifact.folder.absolute()))
    session = ort.InferenceSession(
        ir.to_proto(probe).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return [
        Recorded(feed | dict(zip(names, session.run(names, feed), strict=True))) for feed in data
    ]


def check_packed(lowered: ir.Model, packed: ir.Model) -> Check:
    """pack: unpacking gives the lowered codes, scales and zero points back, bit for bit.

    All else that the node holds is the same.
    """
    plain = {n.name: n for n in lowered.graph}
    wrong, count = [], 0
    for node in packed.graph:
        if node.domain != DOMAIN or "layout" not in node.attributes:
            continue
        before = plain[node.name]
        a, b = weight_of_packed(before), weight_of_packed(node)
        count += 1
        same = np.array_equal(a.codes, b.codes) and _equal(a.scale, b.scale)
        same = (
            same and _equal(a.zero_point, b.zero_point) and _attributes(before) == _attributes(node)
        )
        rest = [
            (constant(input_of(before, i)), constant(input_of(node, i))) for i in (BIAS, MULTIPLIER)
        ]
        if not same or not all(_equal(x, y) for x, y in rest):
            wrong.append(node.name or "")
    return Check(
        "pack",
        len(wrong),
        0,
        "nodes that do not unpack to what they were",
        ", ".join(wrong[:4]),
        count,
    )


def _attributes(node: ir.Node) -> dict[str, object]:
    return {k: a.value for k, a in node.attributes.items() if k != "layout"}


def _equal(a: NDArray | None, b: NDArray | None) -> bool:
    return (a is None) == (b is None) and (a is None or np.array_equal(a, b))  # type: ignore[arg-type]


def check_lowered(artifact: Artifact, packed: ir.Model, data: Data) -> list[Check]:
    """lower: every compiled node equals numerics on its own recorded inputs.

    Codes exactly, floats within the computed bound.
    """
    wrong = codes = floats = 0
    ratio, where_codes, where_float = 0.0, "", ""
    for run in record(artifact, packed, data):
        for node in compiled_nodes(packed):
            inputs = [run.values[v.name or ""] for v in activation_inputs(node)]
            actual = run.values[node.outputs[0].name or ""]
            expected, bound = run_node(node, inputs)
            if bound is None:
                bad = int((expected != actual).sum())
                codes += actual.size
                if bad:
                    wrong, where_codes = wrong + bad, node.name or ""
                continue
            floats += actual.size
            gap = float_ratio(expected, actual, bound)
            if not gap <= ratio:
                ratio, where_float = gap, node.name or ""
    checks = []
    if codes:
        checks.append(
            Check("lower: codes", wrong, 0, "codes that differ from numerics", where_codes, codes)
        )
    if floats:
        checks.append(
            Check(
                "lower: floats",
                ratio,
                1.0,
                "|difference| ÷ the bound of N13, N14, N23",
                where_float,
                floats,
            )
        )
    return checks


def float_ratio(expected: NDArray, actual: NDArray, bound: NDArray) -> float:
    """The largest |difference| ÷ bound; NaN in both is equal, in one is infinitely wrong."""
    both = np.isnan(expected) & np.isnan(actual)
    with np.errstate(invalid="ignore"):  # inf − inf: NaN, which counts as infinitely wrong
        gap = np.abs(np.where(both, 0, expected - actual))
    rounding = np.abs(np.where(both, 0, expected)) * 2.0**-24 + 2.0**-149  # the result is an f32
    ratio = gap / np.where(both, 1, bound + rounding)
    worst = float(ratio.max(initial=0))
    return float("inf") if np.isnan(worst) else worst


def check_qdq(artifact: Artifact, packed: ir.Model, quantized: ir.Model, data: Data) -> list[Check]:
    """lower: static nodes against ORT's float execution of their piece of the QDQ graph."""
    nodes = [n for n in compiled_nodes(packed) if "qcompile.output" in n.metadata_props]
    if not nodes:
        return []
    far, share, where, count = 0, 0.0, "", 0
    pieces = {n.name: qdq_piece(quantized, n) for n in nodes}
    for run in record(artifact, packed, data):
        for node in nodes:
            feed = {
                name: as_nchw(v, run.values[v.name or ""])
                for name, v in zip(source_names(node), activation_inputs(node), strict=True)
            }
            expected = pieces[node.name].run(None, feed)[0]
            actual = as_nchw(node.outputs[0], run.values[node.outputs[0].name or ""])
            gap = np.abs(expected.astype(np.int32) - actual)
            count += gap.size
            if gap.size and (gap.max() > far or (gap > 0).mean() > share):
                where = node.name or ""
            far = max(far, int(gap.max(initial=0)))
            share = max(share, float((gap > 0).mean()) if gap.size else 0.0)
    return [
        Check(
            "lower: QDQ, codes apart", far, 1, "codes, against ORT's float QDQ node", where, count
        ),
        Check("lower: QDQ, share apart", share, QDQ_SHARE, "of a node's codes", where, count),
    ]


def layer_sqnr(
    model: ir.Model, artifact: Artifact, packed: ir.Model, data: Data
) -> list[tuple[str, float]]:
    """SQNR in dB of every compiled node's output against the float value of that name, worst first.

    `model` is the normalised float model. Errors of earlier nodes are in it, as they are when the
    artifact runs.
    """
    known = {v.name for n in model.graph for v in n.outputs}
    nodes = {n: float_name(n) for n in compiled_nodes(packed)}
    nodes = {n: name for n, name in nodes.items() if name in known}
    names = list(dict.fromkeys(nodes.values()))
    if not names:
        return []
    session = open_model(with_outputs(model, names), session_options(optimise=False))
    signal, noise = dict.fromkeys(nodes, 0.0), dict.fromkeys(nodes, 0.0)
    for run, feed in zip(record(artifact, packed, data), data, strict=True):
        floats = dict(zip(names, session.run(names, feed), strict=True))
        for node, name in nodes.items():
            out = as_nchw(node.outputs[0], run.values[node.outputs[0].name or ""]).astype(
                np.float64
            )
            if "qcompile.scale" in node.metadata_props:
                zero_point = int(node.attributes["y_zero_point"].value)
                out = (out - zero_point) * float(node.metadata_props["qcompile.scale"])
            x = floats[name].astype(np.float64)
            signal[node] += float((x * x).sum())
            noise[node] += float(((x - out) ** 2).sum())
    rows = [
        (
            n.name or "",
            _decibels(signal[n], noise[n]),
        )
        for n in nodes
    ]
    return sorted(rows, key=lambda row: row[1])


def _decibels(signal: float, noise: float) -> float:
    if not noise or not signal:
        return float("inf")
    return 10 * float(np.log10(signal / noise)) if np.isfinite(noise) else float("-inf")
