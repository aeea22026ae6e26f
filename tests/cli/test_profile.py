# SPDX-License-Identifier: Apache-2.0
"""bench --profile: the nodes of an artifact, their products and bytes, and what is refused."""

import json
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from qcompile import profile_limits
from qcompile.profile import NodeTime, Profile, products
from qcompile.profile_limits import Limits, measure_limits
from tests.body_nets import save
from tests.cli.run import run
from tests.pipeline.nets import cnn, samples


@pytest.fixture
def artifact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> str:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(profile_limits, "READ_BYTES", 1 << 20)
    monkeypatch.setattr(profile_limits, "cache_size", lambda: 1 << 25)
    np.savez("data.npz", allow_pickle=False, **samples(cnn()))
    cnn().save(Path("m.onnx"))
    made = run(capsys, "m.onnx", "--preset", "w8a8", "--calibration-data", "data.npz", "--quiet")
    assert made.code == 0, made.err
    return "m.qc"


def test_products_and_bytes(artifact: str, capsys: pytest.CaptureFixture[str]) -> None:
    printed = run(capsys, "bench", artifact, "--profile", "--seconds", "0", "--json")
    assert printed.code == 0, printed.err
    found = json.loads(printed.out)
    nodes = {node["name"]: node for node in found["nodes"]}
    # By hand, of tests/pipeline/nets.py: 8×8 maps; 3×3×3 → 16, 9 taps of 16 channels, 16 → 16.
    counts = {
        "/stem/Conv": 64 * 16 * 27, "/depthwise/Conv": 64 * 16 * 9,
        "/pointwise/Conv": 64 * 16 * 16, "/y/Gemm": 160, "/sum/Add": 0,
    }  # fmt: skip
    assert {name: nodes[name]["products"] for name in counts} == counts
    assert nodes["/y/Gemm"]["activation_bytes"] == 16 + 4 * 10
    assert nodes["/y/Gemm"]["weight_bytes"] == 256 + 2 * 4 * 10  # 16 × 16 packed, and two vectors
    assert abs(sum(node["share"] for node in found["nodes"]) - 1) < 1e-9
    assert sum(row["nodes"] for row in found["by_op"]) == len(nodes)
    gemm = nodes["/y/Gemm"]
    expected = 1000 * 160 / found["limits"]["wide_per_second"]
    assert gemm["limit_ms"] == pytest.approx(expected, rel=1e-12)
    assert not list(Path().glob("*.json"))


def test_products_of_attention() -> None:
    """Two products: L · S · D and L · S · E of each of 6 heads; k lies as [L, B, D]."""
    node = ir.node("QAttention", [], {"k_perm": [1, 2, 0]}, domain="com.qcompile")
    inputs = [{"uint8": [2, 3, 5, 8]}, {"uint8": [19, 6, 8]}, {"uint8": [2, 3, 19, 7]}]
    found = products(node, "QAttention", inputs, [{"uint8": [2, 3, 5, 7]}])
    assert found == 6 * 5 * 19 * (8 + 7)
    node.attributes["softmax_format"] = ir.AttrString("softmax_format", "log2_4")  # two planes
    found = products(node, "QAttention", inputs, [{"uint8": [2, 3, 5, 7]}])
    assert found == 6 * 5 * 19 * (8 + 2 * 7)


def test_nodes_of_a_body_count_every_step(tmp_path: Path, monkeypatch, capsys) -> None:
    """Five steps of a Scan: the products and the time of a node are those of all of them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(profile_limits, "READ_BYTES", 1 << 20)
    save(tmp_path / "m.onnx", "scan")
    made = run(capsys, "m.onnx", "--preset", "w8a8-dynamic", "--quiet")
    assert made.code == 0, made.err
    printed = run(capsys, "bench", "m.qc", "--profile", "--seconds", "0", "--json")
    assert printed.code == 0, printed.err
    found = json.loads(printed.out)
    counts = [node["products"] for node in found["nodes"] if node["op"] == "QMatMul"]
    assert counts == [5 * 4 * 32 * 32] * 2
    assert "Scan" not in {row["op"] for row in found["by_op"]}


def test_table(artifact: str, capsys: pytest.CaptureFixture[str]) -> None:
    printed = run(capsys, "bench", artifact, "--profile", "--seconds", "0")
    assert printed.code == 0
    assert "/stem/Conv" in printed.out and "limits, 1 threads: memory" in printed.out


def test_refused(artifact: str, capsys: pytest.CaptureFixture[str]) -> None:
    both = run(capsys, "bench", artifact, "--profile", "--vs", "m.onnx")
    message = "--profile is of one artifact: leave out --vs or --profile"
    assert (both.code, both.err) == (2, f"error: {message}\n")
    plain = run(capsys, "bench", "m.onnx", "--profile")
    message = "m.onnx is no artifact: --profile takes a folder that qcompile wrote"
    assert (plain.code, plain.err) == (2, f"error: {message}\n")


def test_sums_by_op() -> None:
    rows = [
        NodeTime("a", "QConv", (), 1.0, 0.25, 5, 0, 0, None, None),
        NodeTime("b", "QAdd", (), 2.0, 0.5, 0, 0, 0, None, None),
        NodeTime("c", "QConv", (), 1.5, 0.25, 7, 0, 0, None, None),
    ]
    sums = Profile(tuple(rows), Limits(1.0, None, None, 0), 1, 5).by_op()
    assert [(r["op"], r["nodes"], r["ms"], r["products"]) for r in sums] == [
        ("QConv", 2, 2.5, 12), ("QAdd", 1, 2.0, 0),
    ]  # fmt: skip


def test_narrow_weights_have_a_limit_of_their_own() -> None:
    limits = Limits(1.0, 2.0, 3.0, 0)
    assert [limits.products_per_second(b) for b in (1, 6, 7, 8)] == [3.0, 3.0, 2.0, 2.0]


def test_limits_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profile_limits, "READ_BYTES", 1 << 20)
    limits = measure_limits(2)
    assert limits.bytes_per_second > 1e7 and limits.wide_per_second and limits.narrow_per_second
