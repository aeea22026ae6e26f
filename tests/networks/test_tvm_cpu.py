# SPDX-License-Identifier: Apache-2.0
"""Target tvm-cpu from model to artifact: what is written, what runs it, what is refused."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import qcompile
from qcompile.errors import InputError, UnsupportedError, VerificationError
from qcompile.targets import tvm_cpu
from qcompile.targets.tvm import toolchain
from tests.networks.nets import grouped, rows, shortcut
from tests.pipeline.nets import samples

Pair = tuple[np.ndarray, np.ndarray]


def test_what_is_written(cpu_artifact: qcompile.Artifact) -> None:
    names = {p.name for p in cpu_artifact.folder.iterdir()}
    runtime = {"libtvm_ffi.so", "libtvm_runtime.so"}
    assert names == {"manifest.json", "network.so", "network.h", "run.py", "run.cc", *runtime}
    content = qcompile.Artifact.read(cpu_artifact.folder).content
    assert (content["target"], content["preset"], content["onnx"]) == ("tvm-cpu", "w8a8", None)
    facts = content["network"]
    assert facts["batch"] == 3 and facts["device"] == "cpu" and facts["minimum_driver"] is None
    assert facts["input"]["name"] == "x" and facts["input"]["dims"] == [3, 9, 8]
    assert facts["output"]["scale"] == content["integer_outputs"]["y"]["scale"]
    assert [row["computes"] for row in facts["kernels"]][3] == ["/second/Conv", "/sum/Add"]
    checks = {c["rung"]: c for c in cpu_artifact.measured["checks"]}
    for rung in ("files", "numerics", "library", "end to end"):
        assert checks[f"network: {rung}"]["passed"] and checks[f"network: {rung}"]["count"]
    assert cpu_artifact.model_bytes == (cpu_artifact.folder / "network.so").stat().st_size


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 7])
def test_any_number_of_samples(cpu_artifact: qcompile.Artifact, expected: Pair, count: int) -> None:
    cores = os.sched_getaffinity(0)
    session = qcompile.load(cpu_artifact.folder, trust_library=True, threads=1)
    x, y = (values[:count] for values in expected)
    assert [v.name for v in session.get_inputs()] == ["x"]
    assert [v.shape for v in session.get_outputs()] == [["n", 5]]
    (found,) = session.run(["y"], {"x": x})
    np.testing.assert_array_equal(found, y)
    assert os.sched_getaffinity(0) == cores  # TVM's runtime would pin this thread
    (raw,) = session.run(None, {"x": x}, raw=True)
    assert raw.dtype == np.int32
    scale = np.float32(cpu_artifact.content["network"]["output"]["scale"])
    np.testing.assert_array_equal(raw.astype(np.float32) * scale, y)


def test_the_python_runner_needs_numpy_alone(
    cpu_artifact: qcompile.Artifact, expected: Pair, tmp_path: Path
) -> None:
    folder = shutil.copytree(cpu_artifact.folder, tmp_path / "elsewhere")
    np.save(tmp_path / "x.npy", expected[0])
    program = f"""
import runpy, sys
sys.argv = ["run.py", "x.npy", "y.npy"]
try:
    runpy.run_path({str(folder / "run.py")!r}, run_name="__main__")
except SystemExit as stop:
    assert not stop.code
assert not {{"tvm", "tvm_ffi", "qcompile", "onnxruntime"}} & set(sys.modules)
libraries = [line for line in open("/proc/self/maps") if "/libtvm" in line]
assert libraries and all({str(tmp_path)!r} in line for line in libraries)
"""
    subprocess.run([sys.executable, "-I", "-c", program], cwd=tmp_path, check=True)
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), expected[1])


def test_the_cpp_runner_needs_no_header(
    cpu_artifact: qcompile.Artifact, expected: Pair, tmp_path: Path
) -> None:
    if shutil.which("g++") is None:
        pytest.skip("no g++")
    folder = shutil.copytree(cpu_artifact.folder, tmp_path / "elsewhere")
    build = ["g++", "-std=c++17", "-Wall", "-Wextra", "-Werror", "run.cc", "-ldl", "-o", "run"]
    subprocess.run(build, cwd=folder, check=True)
    expected[0].tofile(tmp_path / "x.f32")
    for flags, kind in (([], np.float32), (["--raw"], np.int32)):
        command = [folder / "run", *flags, tmp_path / "x.f32", tmp_path / "y"]
        subprocess.run(command, check=True, env={})
        found = np.fromfile(tmp_path / "y", kind).reshape(expected[1].shape)
        scale = cpu_artifact.content["network"]["output"]["scale"] if flags else 1
        np.testing.assert_array_equal(found.astype(np.float32) * np.float32(scale), expected[1])
    (tmp_path / "bad").write_bytes(b"12345")
    done = subprocess.run(
        [folder / "run", tmp_path / "bad", tmp_path / "y"], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (2, "error: 5 bytes are no samples of 864 bytes\n")


def test_code_is_not_loaded_without_trust(cpu_artifact: qcompile.Artifact) -> None:
    with pytest.raises(InputError, match="holds a library, which is code: load it with trust_lib"):
        qcompile.load(cpu_artifact.folder)
    with pytest.raises(InputError, match="target tvm-cpu has nothing to emulate: leave out emul"):
        qcompile.load(cpu_artifact.folder, trust_library=True, emulate=True)


@pytest.mark.parametrize(
    ("feed", "message"),
    [
        ({"z": np.zeros((1, 3, 9, 8), np.float32)}, "the network knows x, not z"),
        ({}, "the network knows x, not nothing"),
        ({"x": np.zeros((1, 3, 9, 8))}, r"x is float32 \[n, 3, 9, 8\], not float64 \[1, 3, 9, 8\]"),
        ({"x": np.zeros((3, 9, 8), np.float32)}, r"x is float32 \[n, 3, 9, 8\], not float32 \[3,"),
    ],
)
def test_wrong_inputs(cpu_artifact: qcompile.Artifact, feed: dict, message: str) -> None:
    session = qcompile.load(cpu_artifact.folder, trust_library=True)
    with pytest.raises(InputError, match=message):
        session.run(None, feed)


def test_extreme_inputs_are_those_of_target_cpu(
    cpu_artifact: qcompile.Artifact, expected: Pair
) -> None:
    """Beyond every range, on ties of the quantizer, and NaN, which is 0 (N24)."""
    session = qcompile.load(cpu_artifact.folder, trust_library=True)
    step = np.float32(cpu_artifact.content["network"]["input"]["scale"])
    ties = (np.arange(-300, 300, dtype=np.float32) + np.float32(0.5)) * step
    far = np.float32([1e30, -1e30, 3e38, np.inf, -np.inf])
    x = np.resize(np.concatenate([ties, far]), (6, 3, 9, 8))
    cpu = qcompile.load(cpu_artifact.folder.parent / "cpu.qc")
    np.testing.assert_array_equal(session.run(None, {"x": x})[0], cpu.run(None, {"x": x})[0])
    nothing = np.full((1, 3, 9, 8), np.nan, np.float32)
    zero = np.zeros_like(nothing)
    np.testing.assert_array_equal(
        session.run(None, {"x": nothing})[0], session.run(None, {"x": zero})[0]
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda facts: facts.pop("batch"), "it has no network.batch"),
        (lambda facts: facts["input"].update(order=[7]), r"network.input.order\[0\] is 7"),
        (lambda facts: facts["input"].update(kind="float64"), 'network.input.kind is "float64"'),
        (lambda facts: facts.update(library="../net.so"), r"files has no \.\./net\.so"),
        (lambda facts: facts["runtime"].append("other.so"), "files has no other.so"),
    ],
)
def test_damaged_manifests(
    cpu_artifact: qcompile.Artifact, change, message: str, tmp_path: Path
) -> None:
    folder = shutil.copytree(cpu_artifact.folder, tmp_path / "damaged")
    data = json.loads((folder / "manifest.json").read_text())
    change(data["content"]["network"])
    (folder / "manifest.json").write_text(json.dumps(data))
    with pytest.raises(InputError, match=message):
        qcompile.load(folder, trust_library=True)


def test_a_wrong_library_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel that differs from numerics in one weight ends in exit code 3."""
    pytest.importorskip("tvm", reason="TVM is not installed: make tvm")
    from qcompile.targets.tvm import llvm_conv

    pack = llvm_conv.pack_weight

    def broken(node: object, dot: object) -> np.ndarray:
        packed = pack(node, dot)  # type: ignore[arg-type]
        packed.flat[0] ^= 64
        return packed

    monkeypatch.setattr(llvm_conv, "pack_weight", broken)
    net = rows()
    with pytest.raises(VerificationError, match=r"network: library: .* is above 0"):
        qcompile.compile(
            net.save(tmp_path / "net.onnx"), "tvm-cpu", calibration_data=samples(net, 16)
        )
    assert [p.name for p in tmp_path.iterdir()] == ["net.onnx"]


@pytest.mark.parametrize(
    ("target", "recipe", "batch", "message"),
    [
        ("cpu", {"batch": 4}, "batch", "--batch: an artifact of target cpu takes any batch"),
        ("tvm-cpu", {"batch": 4}, 2, "--batch 4: the model's own batch is 2: leave it out"),
        ("tvm-cpu", {"preset": "w8a16"}, "batch", "preset w8a16 has float activations"),
    ],
)
def test_what_is_asked_in_vain(
    target: str,
    recipe: dict,
    batch: int | str,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(toolchain.importlib.util, "find_spec", lambda name: object())
    net = rows(batch)
    with pytest.raises(InputError, match=message):
        qcompile.compile(
            net.save(tmp_path / "net.onnx"),
            target,
            recipe=qcompile.Recipe(**recipe),
            calibration_data=samples(net),
        )


def test_culprits_come_before_any_slow_work(tmp_path: Path) -> None:
    pytest.importorskip("tvm", reason="TVM is not installed: make tvm")
    net = grouped()
    with pytest.raises(InputError) as caught:
        qcompile.compile(
            net.save(tmp_path / "net.onnx"),
            "tvm-cpu",
            calibration_data=samples(net),
            inspect=lambda stage, name, model: (
                (_ for _ in ()).throw(AssertionError(stage)) if stage == "transform" else None
            ),
        )
    lines = str(caught.value).splitlines()
    assert lines[0] == "target tvm-cpu: 4 nodes without a kernel"
    assert lines[1] == "  Conv /depthwise/Conv: a convolution of 8 groups has no kernel there"
    mean = "the average of (2, 2) in (8, 8): whole maps have a kernel"
    assert lines[4] == f"  AveragePool /means/AveragePool: {mean}"


def test_a_missing_extra_is_said_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolchain.importlib.util, "find_spec", lambda name: None)
    net = shortcut()
    path, data = net.save(tmp_path / "net.onnx"), samples(net)
    for target in ("tvm-cpu", "t4"):
        with pytest.raises(UnsupportedError) as caught:
            qcompile.compile(path, target, calibration_data=data)
        assert str(caught.value) == (
            "TVM targets need the Python package tvm: pip install 'qcompile[tvm]'"
        )
    assert [p.name for p in tmp_path.iterdir()] == ["net.onnx"]


def test_the_model_gives_its_batch(tmp_path: Path) -> None:
    pytest.importorskip("tvm", reason="TVM is not installed: make tvm")
    net = rows(5)
    artifact = qcompile.compile(
        net.save(tmp_path / "net.onnx"), "tvm-cpu", calibration_data=samples(net, 10)
    )
    assert artifact.content["network"]["batch"] == 5
    assert tvm_cpu.TVM_CPU.compiler is not None
    assert os.access(artifact.folder / "network.so", os.R_OK)
