# SPDX-License-Identifier: Apache-2.0
"""Target t4 from model to artifact, without a GPU: emulated kernels, PTX, what is refused."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import qcompile
from qcompile.errors import InputError, UnsupportedError, VerificationError
from tests.cli.run import run
from tests.networks.nets import shortcut
from tests.pipeline.nets import samples

pytest.importorskip("tvm", reason="TVM is not installed: make tvm")
pytestmark = [
    pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc"),
    pytest.mark.xdist_group("t4"),  # which shares what it compiled
]
INT4 = "mma.sync.aligned.m8n8k32.row.col.s32.u4.s4.s32"
INT8 = "mma.sync.aligned.m8n8k16.row.col.s32.u8.s8.s32"


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> qcompile.Artifact:
    """The residual net at 4 bits, batch 2."""
    folder = tmp_path_factory.mktemp("t4")
    net = shortcut()
    recipe = qcompile.Recipe(preset="w4a4", batch=2)
    model, data = net.save(folder / "net.onnx"), samples(net, 16)
    return qcompile.compile(model, "t4", recipe=recipe, calibration_data=data)


def test_what_is_written(artifact: qcompile.Artifact) -> None:
    names = {p.name for p in artifact.folder.iterdir()}
    runtime = ["libcudart.so.13", "libtvm_ffi.so", "libtvm_runtime.so", "libtvm_runtime_cuda.so"]
    files = {"manifest.json", "network.so", "network.h", "network.npz", "network.cu"}
    assert names == {*files, "run.py", "run.cc", *runtime}
    facts = qcompile.Artifact.read(artifact.folder).content["network"]
    assert (facts["device"], facts["batch"], facts["minimum_driver"]) == ("cuda", 2, 580)
    assert facts["runtime"] == runtime
    rows = {row["name"]: row for row in facts["kernels"]}
    assert [rows[f"conv_{i}"]["instruction"] for i in (0, 2, 3, 6)] == [INT8, INT4, INT4, INT4]
    assert rows["conv_8"]["instruction"] == "dp4a.u32.s32"
    assert rows["conv_3"]["computes"] == ["/second/Conv", "/sum/Add"]
    assert all(row["spill_bytes"] == 0 and row["registers"] > 0 for row in rows.values())


def test_every_kernel_was_emulated(artifact: qcompile.Artifact) -> None:
    checks = {c["rung"]: c for c in artifact.measured["checks"]}
    kernels = artifact.content["network"]["kernels"]
    assert checks["network: emulated kernels"]["count"] == len(kernels) == 10
    assert checks["network: PTX"]["passed"] and checks["network: numerics"]["passed"]
    assert "network: library" not in checks, "no GPU ran it"
    assert any("there is no GPU" in text for text in artifact.measured["skipped"])
    assert artifact.measured["speed"] == {}


def test_emulation_gives_the_integers_of_target_cpu(
    artifact: qcompile.Artifact, tmp_path: Path
) -> None:
    net = shortcut()
    recipe = qcompile.Recipe(preset="w4a4", integer_only=True)
    model = artifact.folder.parent / "net.onnx"
    cpu = qcompile.compile(
        model, output=tmp_path / "cpu", recipe=recipe, calibration_data=samples(net, 16)
    )
    x = samples(net, 5, seed=7)["x"]
    emulated = qcompile.load(artifact.folder, trust_library=True, emulate=True)
    found, expected = emulated.run(None, {"x": x}), qcompile.load(cpu.folder).run(None, {"x": x})
    np.testing.assert_array_equal(found[0], expected[0])
    assert len(np.unique(found[0])) > 20


def test_without_a_gpu_it_says_so(artifact: qcompile.Artifact) -> None:
    """Where there is one, it runs."""
    x = samples(shortcut(), 3)["x"]
    try:
        found = qcompile.load(artifact.folder, trust_library=True).run(None, {"x": x})[0]
    except UnsupportedError as error:
        assert "a driver of 580 or later are needed; with emulate=True" in str(error)
    else:
        emulated = qcompile.load(artifact.folder, trust_library=True, emulate=True).run(
            None, {"x": x}
        )[0]
        np.testing.assert_array_equal(found, emulated)
    for emulate in (False, True):
        with pytest.raises(InputError, match="holds a library, which is code"):
            qcompile.load(artifact.folder, emulate=emulate)


def test_the_report_has_a_row_a_kernel(
    artifact: qcompile.Artifact, capsys: pytest.CaptureFixture[str]
) -> None:
    text = run(capsys, "inspect", artifact.folder).out
    assert "network.so on cuda, 2 samples a call" in text
    assert "driver 580" in text and "(roofline, not measured)" in text
    lines = text.splitlines()
    (row,) = (line for line in lines if line.startswith("conv_3"))
    assert INT4 in row and "/second/Conv, /sum/Add" in row
    facts = json.loads(run(capsys, "inspect", artifact.folder, "--json").out)["inspected"]
    assert {"network.so", "libcudart.so.13"} <= set(facts["bytes"]) and facts["ops"] == {}


@pytest.mark.slow
@pytest.mark.parametrize("what", ["a multiplier", "the padding"])
def test_a_wrong_kernel_writes_nothing(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from qcompile.targets.tvm import cuda_plan, words

    table = cuda_plan.channel_table

    def halved(*arguments: object) -> np.ndarray:
        made = table(*arguments)  # type: ignore[arg-type]
        made[0, 0] >>= 1
        return made

    if what == "a multiplier":
        monkeypatch.setattr(cuda_plan, "channel_table", halved)
    else:
        monkeypatch.setattr(words, "repeat", lambda code, bits: 0)
    net = shortcut()
    path, data = net.save(tmp_path / "net.onnx"), samples(net, 16)
    with pytest.raises(VerificationError, match=r"network: emulated kernels: .* worst: conv_"):
        qcompile.compile(path, "t4", calibration_data=data)
    assert [p.name for p in tmp_path.iterdir()] == ["net.onnx"]


def test_a_missing_nvcc_is_said_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", shutil.which("g++") or "g++")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    net = shortcut()
    with pytest.raises(UnsupportedError, match=r"^target t4 needs nvcc of CUDA 13 .*no GPU: http"):
        qcompile.compile(net.save(tmp_path / "n.onnx"), "t4", calibration_data=samples(net))


def test_the_dry_run_names_kernels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net = shortcut()
    model = net.save(tmp_path / "net.onnx")
    np.savez(tmp_path / "data.npz", **samples(net))
    flags = ["--calibration-data", tmp_path / "data.npz", "--dry-run", "--preset", "w4a4"]
    result = run(capsys, model, "--target", "t4", *flags)
    assert result.code == 0
    rows = {line.split()[0]: line for line in result.out.splitlines() if line.startswith("/")}
    assert "CUDA int8 tensor cores" in rows["/stem/Conv"]
    assert "CUDA int4 tensor cores" in rows["/second/Conv"]
