# SPDX-License-Identifier: Apache-2.0
"""Ops of a user's library stay float among products that run from codes."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

import qcompile
from qcompile import op_libraries
from qcompile.errors import InputError
from qcompile.load import load
from qcompile.session import open_model

ROOT = Path(__file__).resolve().parents[2]
HEADER = 'ir_version: 8, opset_import: ["": 17, "user.ops": 1]'
NETS = {
    "between": "{ a = MatMul (x, w)  h = user.ops.Half (a)  y = MatMul (h, v) }",
    "map": """{ s = Constant <value_ints = [-1, 2, 4, 4]> ()  i = Reshape (x, s)
      k = Conv <pads = [1, 1, 1, 1]> (i, c)  h = user.ops.Half (k)  r = Relu (h)
      o = Conv <pads = [1, 1, 1, 1]> (r, c)  f = Constant <value_ints = [-1, 32]> ()
      y = Reshape (o, f) }""",
    "body": """{ a = MatMul (x, w)  m = ReduceMax <keepdims = 0> (a)
      z = Constant <value = float {0}> ()  q = Less (z, m)
      y = If (q) <then_branch = t () => (float[n,32] b)
                    { h = user.ops.Half (a)  b = MatMul (h, v) },
                  else_branch = e () => (float[n,32] d) { d = MatMul (a, v) }> }""",
}
NODES = {"between": 2, "map": 2, "body": 3}


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("g++") is None:
        pytest.skip("no g++")
    made = tmp_path_factory.mktemp("ops") / "libuser_ops.so"
    source = Path(__file__).with_name("user_ops.cc")
    command = ["g++", "-shared", "-fPIC", "-std=c++17", f"-I{ROOT}", str(source), "-o", str(made)]
    subprocess.run(command, check=True)
    return made


@pytest.fixture(autouse=True)
def forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other tests of the process know of no library."""
    monkeypatch.setattr(op_libraries, "_used", {})


def saved(folder: Path, name: str) -> tuple[Path, NDArray[np.float32]]:
    model = ir.from_onnx_text(f"<{HEADER}>\nf (float[n,32] x) => (float[n,32] y) {NETS[name]}")
    rng = np.random.default_rng(0)
    for value, dims in (("w", (32, 32)), ("v", (32, 32)), ("c", (2, 2, 3, 3))):
        tensor = ir.tensor((rng.standard_normal(dims) / 5).astype(np.float32), name=value)
        model.graph.register_initializer(ir.Value(name=value, const_value=tensor))
    for graph in model.graphs():
        for node in graph:
            for i, used in enumerate(node.inputs):
                if used is not None and used.name in model.graph.initializers:
                    node.replace_input_with(i, model.graph.initializers[used.name])
    ir.save(model, folder / "m.onnx")
    return folder / "m.onnx", rng.standard_normal((40, 32)).astype(np.float32)


@pytest.mark.parametrize("target", ["cpu", "ort"])
@pytest.mark.parametrize(
    ("name", "preset"),
    [(n, "w8a8") for n in NETS]
    + [pytest.param(n, "w4a16", marks=pytest.mark.slow) for n in ("between", "body")],
)
def test_the_op_stays_float(
    name: str, preset: str, target: str, library: Path, tmp_path: Path
) -> None:
    path, x = saved(tmp_path, name)
    qcompile.use_op_library(library)
    recipe = qcompile.Recipe(preset=preset)
    made = qcompile.compile(path, target, recipe=recipe, calibration_data={"x": x})
    rows = [r for r in made.content["nodes"] if r["weight"] is not None]
    assert len(rows) == NODES[name]
    assert any("ops of user.ops stay" in n and "libuser_ops.so" in n for n in made.content["notes"])
    (wanted,) = open_model(load(path)).run(None, {"x": x})
    (found,) = qcompile.load(made.folder).run(None, {"x": x})
    assert ((found - wanted) ** 2).sum() < 0.02 * (wanted**2).sum()
    op_libraries._used.clear()
    with pytest.raises(InputError, match="give their library with --op-library"):
        qcompile.load(made.folder)


def test_without_the_library(tmp_path: Path) -> None:
    path, _ = saved(tmp_path, "between")
    with pytest.raises(InputError, match=r"--op-library .*\n  Half of domain user.ops"):
        load(path)


def test_an_op_that_the_library_lacks(library: Path, tmp_path: Path) -> None:
    path, _ = saved(tmp_path, "between")
    path.write_bytes(path.read_bytes().replace(b"Half", b"Tenf"))
    qcompile.use_op_library(library)
    with pytest.raises(InputError, match="Tenf"):
        load(path)


def test_what_is_no_library(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        qcompile.use_op_library(tmp_path / "none.so")
    (tmp_path / "text.so").write_text("text")
    with pytest.raises(InputError, match="ONNX Runtime does not load it"):
        qcompile.use_op_library(tmp_path / "text.so")
    assert op_libraries.used_op_libraries() == ()


@pytest.mark.slow
def test_the_command_line(library: Path, tmp_path: Path) -> None:
    """Random lengths are tried in a process of its own, which needs the library, too."""
    path, x = saved(tmp_path, "between")
    np.savez(tmp_path / "x.npz", x=x)
    given = ["--op-library", str(library)]
    commands = [
        [str(path), *given],
        ["inspect", str(path), *given],
        ["bench", str(tmp_path / "m.qc"), "--vs", str(path), *given],
        ["compare", str(path), str(tmp_path / "m.qc"), "--data", str(tmp_path / "x.npz"), *given],
    ]
    for command in commands:
        words = [sys.executable, "-c", "from qcompile.cli import main; main()", *command]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
