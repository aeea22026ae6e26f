# SPDX-License-Identifier: Apache-2.0
"""Target ort: only ONNX Runtime's own ops, and the same meaning as target cpu."""

from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest

import qcompile
from models import charlm, digits
from qcompile.artifact import MODEL, Artifact
from qcompile.data import read_data
from qcompile.errors import InputError
from qcompile.reference import run_node
from qcompile.session import open_model
from qcompile.verify_nodes import (
    QDQ_SHARE,
    activation_inputs,
    as_nchw,
    compiled_nodes,
    float_ratio,
    qdq_piece,
    record,
    source_names,
)

ALLOWED = {"", "com.microsoft"}


def build(folder: Path, model: Path, target: str, preset: str, data: object = None) -> Artifact:
    return qcompile.compile(
        model,
        target,
        folder / f"{target}-{preset}.qc",
        recipe=qcompile.Recipe(preset=preset),
        calibration_data=data,
    )


@pytest.fixture(scope="module")
def images() -> dict[str, np.ndarray]:
    return {"image": digits.data("calibration")[0][:64]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ort")


@pytest.mark.parametrize("preset", ["w8a8-dynamic", "w4a8-dynamic", "w4a16", "w2a16", "w8a16"])
def test_language_model_has_only_ort_ops_and_no_library(folder: Path, preset: str) -> None:
    artifact = build(folder, charlm.path(), "ort", preset)
    model = ir.load(artifact.folder / MODEL)
    assert {n.domain for n in model.graph} <= ALLOWED
    assert {n.op_type for n in model.graph if n.domain} <= {"MatMulNBits"}
    assert artifact.content["library"] is None
    assert not list(artifact.folder.glob("*.so"))
    assert artifact.content["coverage"] == 1.0
    session = ort.InferenceSession(artifact.folder / MODEL)
    assert charlm.loss(session) < charlm.loss(ort.InferenceSession(charlm.path())) + 1.0


@pytest.mark.parametrize(("preset", "level"), [("w4a16", 0), ("w4a8-dynamic", 4)])
def test_accuracy_level_is_always_written(tmp_path: Path, preset: str, level: int) -> None:
    artifact = build(tmp_path, charlm.path(), "ort", preset)
    nodes = [n for n in ir.load(artifact.folder / MODEL).graph if n.op_type == "MatMulNBits"]
    assert nodes
    assert {n.attributes["accuracy_level"].value for n in nodes} == {level}


def test_dynamic_activations_of_ort_are_declared(tmp_path: Path) -> None:
    artifact = build(tmp_path, charlm.path(), "ort", "w8a8-dynamic")
    assert any("ONNX Runtime's own" in note for note in artifact.content["notes"])


def test_conv_below_8_bits_is_kept_at_8_and_says_so(tmp_path: Path, images: dict) -> None:
    artifact = build(tmp_path, digits.path(), "ort", "w4a8", images)
    convs = [r for r in artifact.content["nodes"] if r["op"] == "Conv"]
    assert convs
    assert {r["weight"] for r in convs} == {"int8/axis(axis=0)/sym/f32"}
    middle = [r["decided_by"] for r in convs if "edge" not in r["decided_by"]]
    assert middle
    assert set(middle) == {"preset w4a8; target ort has no Conv of 4 bits here: 8"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("preset", "spec"),
    [
        ("w4a8", "int8/axis(axis=0)/sym/f32"),
        ("w1a16", "uint2/block(axis=1,size=32)/asym/f16"),
        ("w3a16", "uint4/block(axis=1,size=32)/asym/f16"),
        ("w5a8-dynamic", "int8/axis(axis=0)/sym/f32"),
    ],
)
def test_products_have_the_next_width_and_say_so(tmp_path: Path, preset: str, spec: str) -> None:
    data = {"tokens": charlm.data("calibration")[:2]}
    artifact = build(tmp_path, charlm.path(), "ort", preset, data)
    bits = preset[1]
    why = f"preset {preset}; target ort has no MatMul of {bits} bits here: {spec.split('/')[0][-1]}"
    inner = [r for r in artifact.content["nodes"] if r["decided_by"] == why]
    assert inner and {r["weight"] for r in inner} == {spec}
    assert artifact.content["coverage"] == 1.0


def test_a_format_that_was_asked_for_is_not_widened(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="MatMulNBits takes 2, 4 and 8 bits; int3"):
        qcompile.compile(
            charlm.path(),
            "ort",
            tmp_path / "m.qc",
            recipe=qcompile.Recipe(preset="w4a16", weight_format="int3"),
        )


def test_static_codes_of_cpu_and_ort_agree_node_by_node(tmp_path: Path, images: dict) -> None:
    """Each node of the cpu artifact against ORT's fused execution of its piece of the other."""
    cpu = build(tmp_path, digits.path(), "cpu", "w8a8", images)
    qdq = ir.load(build(tmp_path, digits.path(), "ort", "w8a8", images).folder / MODEL)
    packed = cpu.model()
    data = read_data(images, list(packed.graph.inputs), 16)
    nodes = [n for n in compiled_nodes(packed) if "qcompile.output" in n.metadata_props]
    assert {n.op_type for n in nodes} == {"QConv", "QAdd", "QPool"}  # the logits are floats
    for run in record(cpu, packed, data):
        for node in nodes:
            piece = qdq_piece(qdq, node, optimise=True)
            inputs = zip(source_names(node), activation_inputs(node), strict=True)
            feed = {name: as_nchw(node, run.values[v.name or ""]) for name, v in inputs}
            actual = as_nchw(node, run.values[node.outputs[0].name or ""])
            gap = np.abs(piece.run(None, feed)[0].astype(np.int32) - actual)
            assert gap.max() <= 1, node.name
            assert (gap > 0).mean() <= QDQ_SHARE, node.name


def test_float_activations_agree_within_the_bound(tmp_path: Path) -> None:
    """MatMulNBits at accuracy_level 0 computes the product of N14, as QMatMul does."""
    cpu = build(tmp_path, charlm.path(), "cpu", "w4a16")
    other = ir.load(build(tmp_path, charlm.path(), "ort", "w4a16").folder / MODEL)
    packed = ir.load(cpu.folder / MODEL)
    tokens = {"tokens": charlm.data("calibration")[:1]}
    data = read_data(tokens, list(packed.graph.inputs), 1)
    run = record(cpu, packed, data)[0]
    products = [n for n in compiled_nodes(packed) if n.op_type == "QMatMul"]
    theirs = {n.name: n for n in other.graph if n.op_type == "MatMulNBits"}
    assert {n.name for n in products} <= set(theirs)
    for node in products:
        x = run.values[activation_inputs(node)[0].name or ""]
        expected, bound = run_node(node, [x])
        assert bound is not None
        actual = run_alone(theirs[node.name], x, node)
        assert float_ratio(expected, actual, bound) <= 1, node.name
        broken = actual.copy()
        broken.flat[0] += 4 * bound.flat[0] + np.abs(expected.flat[0])
        assert float_ratio(expected, broken, bound) > 1


def run_alone(node: ir.Node, x: np.ndarray, cpu_node: ir.Node) -> np.ndarray:
    """One MatMulNBits on x; what the cpu node fuses behind it is applied in float64."""
    initializers = [v for v in node.inputs[1:] if v is not None]
    source = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(x.shape))
    fresh = [
        ir.Value(name=v.name, type=v.type, shape=v.shape, const_value=v.const_value)
        for v in initializers
    ]
    copy = ir.node(
        "MatMulNBits", [source, *fresh], dict(node.attributes), domain="com.microsoft", name="n"
    )
    copy.outputs[0].name, copy.outputs[0].type = "y", ir.TensorType(ir.DataType.FLOAT)
    opsets = {"": 17, "com.microsoft": 1}
    graph = ir.Graph([source], copy.outputs, nodes=[copy], initializers=fresh, opset_imports=opsets)
    y = open_model(ir.Model(graph, ir_version=8)).run(None, {"x": x})[0].astype(np.float64)
    bias = cpu_node.inputs[2] if len(cpu_node.inputs) > 2 else None
    if bias is not None and bias.const_value is not None:
        y = y + bias.const_value.numpy()
    low = cpu_node.attributes["clip_min"].value if "clip_min" in cpu_node.attributes else -np.inf
    high = cpu_node.attributes["clip_max"].value if "clip_max" in cpu_node.attributes else np.inf
    return np.clip(y, low, high)
