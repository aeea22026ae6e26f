# SPDX-License-Identifier: Apache-2.0
"""What an artifact's nodes and values stand for is in its manifest, and its graph is lean."""

from pathlib import Path

import onnx
import onnx_ir as ir

import qcompile
from models import charlm, digits
from qcompile.artifact import MODEL
from qcompile.graph import FLOAT, LAYOUT, NHWC
from qcompile.provenance import attach, detach


def compiled(folder: Path, target: str) -> qcompile.Artifact:
    return qcompile.compile(
        digits.path(),
        target,
        folder / "m.qc",
        recipe=qcompile.Recipe(preset="w8a8"),
        calibration_data={"image": digits.data("calibration")[0][:16]},
    )


def metadata(model: ir.Model) -> list[dict[str, str]]:
    nodes = list(model.graph)
    return [dict(each.metadata_props) for n in nodes for each in (n, *n.outputs)]


def test_the_graph_of_cpu_is_lean_and_the_manifest_has_the_rest(tmp_path: Path) -> None:
    artifact = compiled(tmp_path, "cpu")
    graph = onnx.load(artifact.folder / MODEL, load_external_data=False).graph
    assert not graph.value_info
    assert not any(n.metadata_props for n in graph.node)
    conv = next(n for n in artifact.model().graph if n.op_type == "QConv")
    assert {"qcompile.scale", "qcompile.zero_point", FLOAT} <= set(conv.metadata_props)
    assert conv.outputs[0].metadata_props[LAYOUT] == NHWC


def test_the_graph_of_ort_keeps_the_specs(tmp_path: Path) -> None:
    artifact = compiled(tmp_path, "ort")
    graph = onnx.load(artifact.folder / MODEL, load_external_data=False).graph
    initializers = {t.name for t in graph.initializer}
    assert not initializers & {v.name for v in graph.value_info}
    specs = [p.value for v in graph.value_info for p in v.metadata_props if "spec" in p.key]
    assert "int8/axis(axis=0)/sym/f32" in specs
    assert artifact.content["provenance"] == {}


def test_what_detach_takes_attach_puts_back(tmp_path: Path) -> None:
    model = compiled(tmp_path, "cpu").model()
    model.graph[0].outputs[0].metadata_props["theirs"] = "stays"
    before = metadata(model)
    facts = detach(model)
    assert metadata(model) != before
    assert model.graph[0].outputs[0].metadata_props == {"theirs": "stays"}
    attach(model, facts)
    assert metadata(model) == before


def test_a_model_without_the_library_is_left_alone() -> None:
    model = ir.load(charlm.path())
    value = model.graph[0].outputs[0]
    value.metadata_props["qcompile.spec"] = "int8"
    assert detach(model) == {}
    assert value.metadata_props["qcompile.spec"] == "int8"
