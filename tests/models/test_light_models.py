# SPDX-License-Identifier: Apache-2.0
"""onnx's light models: old exports (opset 9) whose weights are made by ConstantOfShape.

As they are, all weights of a layer are equal and so are all outputs; with static activations they
get random weights, that there is something to lose.
"""

import math
import os
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper

import qcompile
from qcompile import measure
from tests.models.test_zoo_artifacts import LEAST_COVERAGE, LOST_DB
from tests.models.zoo_runs import Run, float_outputs, outputs, reference_outputs, sqnr

LIGHT = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
# A few seconds; the others take up to minutes, and the largest has 144 million weights.
SMALL = ("light_squeezenet",)
LARGE = (
    *("light_bvlc_alexnet", "light_densenet121", "light_inception_v1", "light_inception_v2"),
    *("light_resnet50", "light_shufflenet", "light_vgg19", "light_zfnet512"),
)


@pytest.fixture(autouse=True)
def measured_for_an_instant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "SECONDS", 0.0)


def test_all_are_here() -> None:
    assert sorted(p.stem for p in LIGHT.glob("*.onnx")) == sorted([*SMALL, *LARGE])


@pytest.mark.parametrize(
    "name", [*SMALL, *(pytest.param(n, marks=pytest.mark.slow) for n in LARGE)]
)
def test_compiles(name: str, tmp_path: Path) -> None:
    artifact = qcompile.compile(
        LIGHT / f"{name}.onnx",
        output=tmp_path / "out.qc",
        recipe=qcompile.Recipe(preset="w8a8-dynamic"),
    )
    assert all(c["passed"] for c in artifact.measured["checks"])
    assert artifact.content["coverage"] >= 0.9


ZEROS = {("Conv", 2), ("Gemm", 2), ("BatchNormalization", 2), ("BatchNormalization", 3)}


def with_random_weights(path: Path, seed: int) -> onnx.ModelProto:
    """Normal weights of variance 2 / fan-in (He et al. 2015); biases and means 0, other vectors 1.

    The last Softmax is left out.
    """
    model, rng = onnx.load(path), np.random.default_rng(seed)
    stored = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    readers = {v: (n.op_type, i) for n in model.graph.node for i, v in enumerate(n.input)}
    makers = [n for n in model.graph.node if n.op_type == "ConstantOfShape"]
    for node in makers:
        dims, (op_type, index) = stored[node.input[0]], readers[node.output[0]]
        if len(dims) > 1:  # of a Gemm it may be behind a Reshape
            array = rng.standard_normal(dims, np.float32) * math.sqrt(2 / np.prod(dims[1:]))
        else:
            array = np.full(dims, (op_type, index) not in ZEROS, np.float32)
        tensor = numpy_helper.from_array(array.astype(np.float32), node.output[0])
        model.graph.initializer.append(tensor)
        model.graph.node.remove(node)
    last = model.graph.node[-1]
    if last.op_type == "Softmax":  # of numbers this far apart it is 0 and 1, whatever is lost
        model.graph.output[0].name = last.input[0]
        model.graph.node.remove(last)
    return model


def random_feed(model: ir.Model, seed: int, count: int) -> list[dict[str, np.ndarray]]:
    """Samples of batch 1 for the inputs that are no initializers."""
    rng = np.random.default_rng(seed)
    given = [v for v in model.graph.inputs if v.name not in model.graph.initializers]
    return [
        {v.name: rng.standard_normal(list(v.shape), np.float32) for v in given}
        for _ in range(count)
    ]


def static_run(name: str, preset: str, target: str, folder: Path) -> Run:
    """The model with random weights, compiled with random calibration data."""
    path = folder / f"{name}.onnx"
    onnx.save(with_random_weights(LIGHT / f"{name}.onnx", 0), path)
    model, stages = ir.load(path), dict[str, ir.Model]()
    artifact = qcompile.compile(
        path,
        target,
        recipe=qcompile.Recipe(preset=preset),
        calibration_data=random_feed(model, 1, 4),
        inspect=lambda stage, _, after: stages.update({stage: after}),
    )
    return Run(model, stages["transform"], artifact)


def decibels(run: Run) -> tuple[float, float]:
    """SQNR of the QDQ graph and of the artifact over two other samples."""
    session = qcompile.load(run.artifact.folder, threads=1)
    found = []
    for feed in random_feed(run.source, 2, 2):
        each = float_outputs(run, feed), reference_outputs(run, feed), outputs(session, feed)
        found.append(each)
    wanted, reference, made = ([v for row in found for v in row[i]] for i in range(3))
    return sqnr(wanted, reference), sqnr(wanted, made)


STATIC = (("w8a8", "cpu"), ("w4a8", "cpu"), ("w8a8", "ort"))


LONG = pytest.mark.skipif(
    "QC_FULL_SIZE" not in os.environ, reason="half an hour: QC_FULL_SIZE is not set"
)
MARKS = {"light_squeezenet": [pytest.mark.slow], "light_shufflenet": [pytest.mark.slow]}
EACH = [(name, *pair) for name in (*SMALL, *LARGE) for pair in STATIC]


@pytest.mark.parametrize(
    ("name", "preset", "target"),
    [
        EACH[0],
        *(pytest.param(*e, marks=MARKS.get(e[0], [pytest.mark.slow, LONG])) for e in EACH[1:]),
    ],
)
def test_static(name: str, preset: str, target: str, tmp_path: Path) -> None:
    run = static_run(name, preset, target, tmp_path)
    assert all(c["passed"] for c in run.artifact.measured["checks"])
    assert run.artifact.content["coverage"] >= LEAST_COVERAGE
    reference, made = decibels(run)
    assert made >= reference - LOST_DB
