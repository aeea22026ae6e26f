# SPDX-License-Identifier: Apache-2.0
"""The node-by-node rungs of verify: each compiled node on its own recorded inputs."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
from numpy.typing import NDArray

import qcompile.runtime_ops as runtime_ops
from qcompile.array_session import ArraySession
from qcompile.artifact import Artifact
from qcompile.attention import ATTENTIONS
from qcompile.data import Data, Feed
from qcompile.division import Division
from qcompile.errors import RefusedError
from qcompile.graph import DOMAIN, attribute, constant, input_of
from qcompile.memory import in_threads
from qcompile.numerics.weight import CodedWeight
from qcompile.pack import weight_of_packed, weight_parts
from qcompile.passes.lower.lowered import BIAS, MULTIPLIER, output_scale
from qcompile.passes.transform.array_file import ArrayFile
from qcompile.pieces import OUTPUT, as_nchw, float_name, piece_between, qdq_piece, source_names
from qcompile.reference import REFERENCES, activation_inputs, run_node, stepped_inputs
from qcompile.session import WEIGHTS_FOLDER, session_options, with_outputs
from qcompile.step_tables import STEP
from qcompile.sum_bounds import largest_input, sum_bound
from qcompile.verdict import Check

_OTHER_SIZE = 256  # codes apart, of an output that has not as many as it should
QDQ_SHARE = 0.001  # architecture §2: at most one code, on at most 0.1 % of the elements


@dataclass(frozen=True)
class Recorded:
    """One run of the artifact: the value of every name that was asked, and what it was fed."""

    values: dict[str, NDArray]
    feed: Feed = field(default_factory=dict)


def compiled_nodes(packed: ir.Model) -> list[ir.Node]:
    """The nodes that numerics has a meaning for."""
    return [n for n in packed.graph if n.domain == DOMAIN and n.op_type in REFERENCES]


def record(
    artifact: Artifact, packed: ir.Model, data: Data, division: Division | None = None
) -> list[Recorded]:
    """Run the artifact's nodes from its weights on disk, with their inputs and outputs shown.

    What does not fit the memory comes in groups, a run each, and waits in a file.
    """
    names: list[str] = []
    for node in compiled_nodes(packed):
        read = (*activation_inputs(node), *stepped_inputs(node))
        names += [v.name or "" for v in (*read, *node.outputs)]
        names += [index] if (index := node.metadata_props.get(STEP)) else []
    inputs = {v.name for v in packed.graph.inputs}
    names = [n for n in dict.fromkeys(names) if n not in inputs]
    division = division or Division()
    if not names:  # as in a model of nothing but an LSTM
        return [Recorded(feed, feed) for feed in data]
    stands_for = {v.name: float_name(n) for n in packed.graph for v in n.outputs}
    sizes = {n: division.footprint.of_values([stands_for[n] or n]) for n in names}
    parts, groups = division.split(sizes, data)
    runs = [Recorded(dict(feed), feed) for feed in parts]
    file = ArrayFile() if len(groups) > 1 else None
    for group in groups:
        session = probe(artifact, packed, group)
        for run in runs:
            for name, value in zip(group, session.run(group, run.feed), strict=True):
                run.values[name] = value if file is None else file.put(value).read()
    return runs


def probe(artifact: Artifact, packed: ir.Model, names: list[str]) -> ort.InferenceSession:
    """The artifact's model, which gives these values.

    Without optimisations: ONNX Runtime 1.32 moves a QuantizeLinear before the Transpose that it
    reads, and then gives dequantized codes for the Transpose's input, which is an output only here.
    """
    probe = with_outputs(packed, names)
    options = session_options()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    runtime_ops.register(options)
    options.add_session_config_entry(WEIGHTS_FOLDER, str(artifact.folder.absolute()))
    data, providers = ir.to_proto(probe).SerializeToString(), ["CPUExecutionProvider"]
    try:
        return ArraySession(data, options, providers=providers)
    except Exception as error:  # ORT raises many types; all carry one readable message
        raise RefusedError("the artifact with its values shown", error) from None


def check_packed(lowered: ir.Model, packed: ir.Model) -> Check:
    """pack: unpacking gives the lowered codes, scales and zero points back, bit for bit.

    All else that the node holds is the same.
    """
    plain = {n.name: n for n in lowered.graph}
    nodes = [n for n in packed.graph if n.domain == DOMAIN and "layout" in n.attributes]
    same = in_threads(lambda node: _same_node(plain[node.name], node), nodes)
    wrong = [n.name or "" for n, is_same in zip(nodes, same, strict=True) if not is_same]
    source = "nodes that do not unpack to what they were"
    return Check("pack", len(wrong), 0, source, ", ".join(wrong[:4]), len(nodes))


def _same_node(before: ir.Node, node: ir.Node) -> bool:
    rest = [tuple(constant(input_of(n, i)) for n in (before, node)) for i in (BIAS, MULTIPLIER)]
    same = _attributes(before) == _attributes(node) and all(_equal(a, b) for a, b in rest)
    return same and _same_weight(before, node)


def _same_weight(before: ir.Node, node: ir.Node) -> bool:
    """Part by part; a grouped Conv is packed in other parts than its plain codes have."""
    if int(attribute(node, "group", 1)) > 1:
        return _equal_weights(weight_of_packed(before), weight_of_packed(node))
    parts = zip(weight_parts(before), weight_parts(node), strict=True)
    return all(_equal_weights(a, b) for (_, a), (_, b) in parts)


def _equal_weights(a: CodedWeight, b: CodedWeight) -> bool:
    same = np.array_equal(a.codes, b.codes) and _equal(a.scale, b.scale)
    return same and _equal(a.zero_point, b.zero_point)


def _attributes(node: ir.Node) -> dict[str, object]:
    return {k: a.value for k, a in node.attributes.items() if k != "layout"}


def _equal(a: NDArray | None, b: NDArray | None) -> bool:
    return (a is None) == (b is None) and (a is None or np.array_equal(a, b))  # type: ignore[arg-type]


def check_lowered(
    packed: ir.Model, runs: list[Recorded], count_node: Callable[[], None] = lambda: None
) -> list[Check]:
    """lower: every compiled node equals numerics on its own recorded inputs.

    Codes exactly, floats within the computed bound.
    """
    nodes = compiled_nodes(packed)
    rows: list[tuple[bool, str, float, int]] = []
    for run in runs:
        for node in nodes:  # its products use all threads
            rows.append(_against_numerics(node, run))
            count_node()
    codes, floats = [row for row in rows if row[0]], [row for row in rows if not row[0]]
    checks = []
    if codes:
        worst = max(codes, key=lambda row: row[2])
        wrong, count = sum(row[2] for row in codes), sum(row[3] for row in codes)
        source, name = "codes that differ from numerics", worst[1] if wrong else ""
        checks.append(Check("lower: codes", wrong, 0, source, name, count))
    if floats:
        worst, count = max(floats, key=lambda row: row[2]), sum(row[3] for row in floats)
        source = "|difference| ÷ the bound of N13, N14, N23, N32"
        checks.append(Check("lower: floats", worst[2], 1.0, source, worst[1], count))
    return checks


def _against_numerics(node: ir.Node, run: Recorded) -> tuple[bool, str, float, int]:
    """(whether codes, name, number of wrong codes or ratio to the bound, number of values)."""
    read = (*activation_inputs(node), *stepped_inputs(node))
    inputs = [run.values[v.name or ""] for v in read]
    actual = run.values[node.outputs[0].name or ""]
    expected, bound = run_node(node, inputs)
    if bound is None:
        return True, node.name or "", int((expected != actual).sum()), actual.size
    return False, node.name or "", float_ratio(expected, actual, bound), actual.size


def float_ratio(expected: NDArray, actual: NDArray, bound: NDArray) -> float:
    """The largest |difference| ÷ bound; NaN in both is equal, in one is infinitely wrong."""
    both = np.isnan(expected) & np.isnan(actual)
    with np.errstate(invalid="ignore"):  # inf − inf: NaN, which counts as infinitely wrong
        gap = np.abs(np.where(both, 0, expected - actual))
    rounding = np.abs(np.where(both, 0, expected)) * 2.0**-24 + 2.0**-149  # the result is an f32
    ratio = gap / np.where(both, 1, bound + rounding)
    worst = float(ratio.max(initial=0))
    return float("inf") if np.isnan(worst) else worst


def check_qdq(
    packed: ir.Model,
    quantized: ir.Model,
    runs: list[Recorded],
    count_node: Callable[[], None] = lambda: None,
) -> list[Check]:
    """lower: static nodes but attention against ORT's float run of their part of the QDQ graph."""
    found = [n for n in compiled_nodes(packed) if OUTPUT in n.metadata_props]
    nodes = [n for n in found if n.op_type not in ATTENTIONS]
    if not nodes:
        return []
    far, share, where, count = 0, 0.0, "", 0
    for node in nodes:
        piece = qdq_piece(quantized, node)
        count_node()
        for run in runs:
            feed = {
                name: as_nchw(node, run.values[v.name or ""])
                for name, v in zip(source_names(node), activation_inputs(node), strict=True)
            }
            others = [v.name for v in piece.get_inputs() if v.name not in feed]
            feed |= {name: run.feed[name] for name in others}
            expected = piece.run(None, feed)[0]
            actual = as_nchw(node, run.values[node.outputs[0].name or ""])
            if actual.size != expected.size:
                far, where = _OTHER_SIZE, node.name or ""
                continue
            actual = actual.reshape(expected.shape)  # a mean may have dropped its axes
            gap = np.abs(expected.astype(np.int32) - actual)
            count += gap.size
            counted = gap > 0
            if gap.size and counted.mean() > QDQ_SHARE and gap.max() == 1:
                counted &= ~_ties(quantized, node, feed, run.values)
            apart = float(counted.mean()) if gap.size else 0.0
            if gap.size and (gap.max() > far or apart > share):
                where = node.name or ""
            far, share = max(far, int(gap.max(initial=0))), max(share, apart)
    return [
        Check(
            "lower: QDQ, codes apart", far, 1, "codes, against ORT's float QDQ node", where, count
        ),
        Check("lower: QDQ, share apart", share, QDQ_SHARE, "of a node's codes", where, count),
    ]


def _ties(
    quantized: ir.Model, node: ir.Node, feed: dict[str, NDArray], values: dict[str, NDArray]
) -> NDArray[np.bool_]:
    """Where the real number lies as near to the middle of two codes as f32 sums can tell.

    The mean of 64 codes is such a middle once in 64 times. The bound: that of N14 for products, of
    a small one a single element is more than the share; else (terms + 4) · 2^-23 · 255 codes, the
    terms being a few codes, or a map's, of one scale.
    """
    x = next(iter(feed.values()))
    bound: NDArray[np.float64] | float
    if node.op_type in ("QConv", "QMatMul"):
        bound = sum_bound(node, values)(largest_input(node, x))
    elif node.op_type in ("QPool", "QAdd", "QMul", "QResize"):
        terms = int(np.prod(x.shape[2:])) if node.op_type == "QPool" else 4
        bound = (terms + 4) * 2.0**-23 * 255
    else:
        return np.zeros(1, np.bool_)
    found = {v.name: v for n in quantized.graph for v in n.outputs}
    forth = found[node.metadata_props[OUTPUT]].producer()
    while forth is not None and forth.op_type != "QuantizeLinear":
        forth = forth.inputs[0].producer() if forth.inputs[0] is not None else None
    assert forth is not None and forth.inputs[0] is not None
    piece = piece_between(quantized, feed, forth.inputs[0].name or "")
    real = np.asarray(piece.run(None, feed)[0], np.float64)
    scale = output_scale(node)
    if STEP in node.metadata_props:
        scale = scale[values[node.metadata_props[STEP]], 0]
    ratio = real / (scale[:, None, None] if scale.ndim else scale)
    return np.asarray(np.abs(np.abs(ratio - np.rint(ratio)) - 0.5) <= bound)
