# SPDX-License-Identifier: Apache-2.0
"""Every model of the zoo compiles, is packed to 90 % at least, and agrees with its QDQ graph."""

import math
import os
from pathlib import Path

import onnx
import pytest

import qcompile
from models.zoo import ZOO
from models.zoo.samples import samples
from qcompile import measure
from tests.models.zoo_runs import (
    CASES,
    TEST,
    Run,
    compiled,
    coverage,
    float_outputs,
    outputs,
    reference_outputs,
    sqnr,
)

# Of each preset and target every third; the others take a minute together.
SOON = sorted(CASES, key=lambda case: case[1:])[::3]
LEAST_COVERAGE = 0.9
LOST_DB = 1.0  # of SQNR against the QDQ graph
# ONNX Runtime's LSTM quantizes its input and state, which the QDQ graph does not say: as much noise
# again as that of the weights, which have as many bits.
LOST_DB_IN_LSTM = 10 * math.log10(2)
MOST_SHARE = {"w8a8": 0.30, "w4a8": 0.30, "w4a16": 0.30, "w8a8-dynamic": 0.30}  # of the float file
OLDEST_ORT = (1, 20)
OLDEST_ORT_OF_8_BIT_BLOCKS = (1, 23)  # MatMulNBits of 8 bits: the edges of w4a16
MOST_BYTES = {8: 0.27, 4: 0.16}  # of float32: codes and scales, K ≥ 64, N a multiple of 16


@pytest.fixture(autouse=True)
def measured_for_an_instant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "SECONDS", 0.0)


def lost_db(run: Run, count: int = 4) -> float:
    """dB of SQNR that the artifact lies below the QDQ graph, both against the float model."""
    feed = samples(run.source, count, TEST)
    expected = float_outputs(run, feed)
    found = outputs(qcompile.load(run.artifact.folder, threads=1), feed)
    return sqnr(expected, reference_outputs(run, feed)) - sqnr(expected, found)


def most_lost_db(run: Run) -> float:
    """The limit on lost_db."""
    kernels = {row["kernel"] for row in run.artifact.content["nodes"]}
    return LOST_DB_IN_LSTM if "DynamicQuantizeLSTM" in kernels else LOST_DB


def packed_shares(run: Run) -> list[tuple[int, float]]:
    """Bits, and bytes ÷ those in float32, of symmetric packed weights of K ≥ 64, N = 16 · n."""
    model = onnx.load(run.artifact.folder / "model.onnx")
    held = {t.name: len(t.raw_data) for t in model.graph.initializer}
    found = []
    for node in model.graph.node:
        if node.op_type not in ("QMatMul", "QConv"):
            continue
        a = {x.name: onnx.helper.get_attribute_value(x) for x in node.attribute}
        if a["K"] < 64 or a["N"] % 16 or a["has_zero_point"]:
            continue
        multiplier = node.input[3] if len(node.input) > 3 else ""
        count = held[node.input[1]] + held.get(multiplier, 0)
        found.append((a["bits"], count / (4 * a["N"] * a["K"])))
    return found


def added_bytes(run: Run) -> int:
    """Bytes of the float tables that are added, as positions are: no weights of products."""
    model = onnx.load(run.artifact.folder / "model.onnx")
    added = {name for n in model.graph.node if n.op_type == "Add" for name in n.input}
    floats = [t for t in model.graph.initializer if t.name in added and t.data_type == 1]
    return sum(len(t.raw_data) for t in floats if len(t.dims) > 1)


def check(run: Run) -> None:
    """All that holds for a compiled model of the zoo."""
    assert all(c["passed"] for c in run.artifact.measured["checks"])
    assert coverage(run) >= LEAST_COVERAGE
    oldest = run.artifact.content["onnx"]["oldest_onnxruntime"]
    blocks = {row["kernel"].split()[0] for row in run.artifact.content["nodes"] if row["kernel"]}
    limit = OLDEST_ORT_OF_8_BIT_BLOCKS if "MatMulNBits" in blocks else OLDEST_ORT
    assert tuple(int(part) for part in oldest.split(".")) <= limit
    for bits, share in packed_shares(run):
        assert share <= MOST_BYTES[bits]


@pytest.mark.parametrize(
    ("name", "preset", "target"),
    [pytest.param(*case, marks=[] if case in SOON else [pytest.mark.slow]) for case in CASES],
)
def test_tiny(name: str, preset: str, target: str, tmp_path: Path) -> None:
    run = compiled(name, preset, target, tmp_path)
    check(run)
    assert lost_db(run) <= most_lost_db(run)


@pytest.mark.slow
@pytest.mark.skipif(
    "QC_FULL_SIZE" not in os.environ, reason="half an hour: QC_FULL_SIZE is not set"
)
@pytest.mark.parametrize(("name", "preset", "target"), CASES)
def test_full(name: str, preset: str, target: str, tmp_path: Path) -> None:
    run = compiled(name, preset, target, tmp_path, tiny=False)
    check(run)
    assert lost_db(run, count=8) <= most_lost_db(run)  # two samples differ by a dB by themselves
    most = 1.0 if ZOO[name].kind == "recurrent" else MOST_SHARE[preset]
    kept = added_bytes(run)
    assert run.artifact.model_bytes - kept <= most * (
        run.artifact.content["source"]["bytes"] - kept
    )


def test_sizes_are_looked_at(tmp_path: Path) -> None:
    """Weights of both widths are among those that the limits are about; edges have 8 bits."""
    found = packed_shares(compiled("resnet50", "w4a8", "cpu", tmp_path))
    assert {bits for bits, _ in found} == {4, 8}


def test_wrong_codes_show(tmp_path: Path) -> None:
    """The twin of the limit on lost_db: one page of wrong codes misses it."""
    run = compiled("resnet50", "w8a8", "cpu", tmp_path)
    path = run.artifact.folder / "model.onnx.data"
    stored = bytearray(path.read_bytes())
    middle = slice(len(stored) // 2, len(stored) // 2 + 4096)
    stored[middle] = bytes(code ^ 0x40 for code in stored[middle])
    path.write_bytes(stored)
    assert lost_db(run) > LOST_DB
