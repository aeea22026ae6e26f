# SPDX-License-Identifier: Apache-2.0
"""--qdq-out writes ONNX's own types; reading the file again gives the same codes, bit for bit."""

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from numpy.typing import NDArray
from onnx import helper, numpy_helper

import qcompile
from qcompile import qdq_file
from qcompile.errors import InputError, VerificationError
from qcompile.load import load
from qcompile.numerics.weight import CodedWeight
from qcompile.pack import weight_of_packed
from qcompile.recipe import Recipe
from qcompile.session import exact_options, open_model
from tests.cli.run import run

K, N = 160, 24
F32 = np.float32
# format → ONNX's type of the codes, of the scales, and the opset
WRITTEN = {
    "int4": ("INT4", "FLOAT", 21),
    "uint4": ("UINT4", "FLOAT", 21),
    "uint2": ("UINT2", "FLOAT", 25),
    "int8/f16/32": ("INT8", "FLOAT", 21),
    "e2m1": ("FLOAT4E2M1", "FLOAT", 23),
    "e2m3": ("FLOAT6E2M3", "FLOAT", 28),
    "e4m3/f16/32": ("FLOAT8E4M3FN", "FLOAT", 21),
    "e5m2/bf16/64": ("FLOAT8E5M2", "FLOAT", 21),
    "mxint4": ("INT4", "FLOAT8E8M0", 24),
    "mxfp4": ("FLOAT4E2M1", "FLOAT8E8M0", 24),
    "mxfp8": ("FLOAT8E4M3FN", "FLOAT8E8M0", 24),
    "nvfp4": ("FLOAT4E2M1", "FLOAT8E4M3FN", 23),
    "nvint4": ("INT4", "FLOAT8E4M3FN", 21),
}
AS_INTEGERS = {"int3": "INT8", "uint5": "INT8", "ternary": "INT8", "nf4": "INT16"}


def net(folder: Path) -> Path:
    """x → MatMul with a bias, of opset 17."""
    rng = np.random.default_rng(0)
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["p"], "product"),
            helper.make_node("Add", ["p", "b"], ["y"], "bias"),
        ],
        "net",
        [helper.make_tensor_value_info("x", 1, ["m", K])],
        [helper.make_tensor_value_info("y", 1, ["m", N])],
        [
            numpy_helper.from_array((rng.standard_normal((K, N)) * 0.1).astype(F32), "w"),
            numpy_helper.from_array(rng.standard_normal(N).astype(F32), "b"),
        ],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), folder / "net.onnx"
    )
    return folder / "net.onnx"


def packed(folder: Path) -> CodedWeight:
    """The weight of the one product of an artifact."""
    nodes = ir.load(folder / "model.onnx").graph
    (node,) = (n for n in nodes if n.op_type == "QMatMul")
    return weight_of_packed(node)


def written(name: str, folder: Path) -> tuple[CodedWeight, Path]:
    """What the artifact holds, and the file beside it."""
    path = folder / "qdq.onnx"
    recipe = Recipe("w4a16", weight_format=name, rotation="off")
    artifact = qcompile.compile(net(folder), recipe=recipe, qdq_out=path)
    return packed(artifact.folder), path


def typed(path: Path) -> dict[str, str]:
    """The types of what the weight's DequantizeLinear reads, of its scale's codes where it has."""
    model = ir.load(path)
    back = next(n for n in model.graph if n.outputs[0].name == "w_nk_dequantized")
    scale = back.inputs[1]
    maker = scale.producer()
    held = scale if maker is None else maker.inputs[0]
    return {"codes": back.inputs[0].dtype.name, "scales": held.dtype.name}


@pytest.mark.parametrize("name", list(WRITTEN))
def test_types_and_round_trip(name: str, tmp_path: Path) -> None:
    mine, path = written(name, tmp_path)
    codes, scales, opset = WRITTEN[name]
    assert typed(path) == {"codes": codes, "scales": scales}
    assert ir.load(path).graph.opset_imports == {"": opset}
    onnx.checker.check_model(onnx.load(path))
    again = packed(qcompile.compile(path, output=tmp_path / "again").folder)
    assert str(again.format) == str(mine.format) and again.block_size == mine.block_size
    assert np.array_equal(again.codes, mine.codes)
    assert np.array_equal(again.scale, mine.scale)
    assert (again.zero_point is None) == (mine.zero_point is None)
    if mine.zero_point is not None:
        assert np.array_equal(again.zero_point, mine.zero_point)


@pytest.mark.parametrize("name", list(AS_INTEGERS))
def test_formats_that_onnx_lacks_are_integers(name: str, tmp_path: Path) -> None:
    mine, path = written(name, tmp_path)
    assert typed(path)["codes"] == AS_INTEGERS[name]
    x = np.random.default_rng(1).standard_normal((7, K)).astype(F32)
    assert np.abs(outputs(path, x) - exact(mine, x)).max() <= bound(mine, x).max()


@pytest.mark.parametrize("name", ["int4", "mxfp4", "nvfp4"])
def test_the_file_computes_what_the_artifact_does(name: str, tmp_path: Path) -> None:
    mine, path = written(name, tmp_path)
    x = np.random.default_rng(1).standard_normal((7, K)).astype(F32)
    assert (np.abs(outputs(path, x) - exact(mine, x)) <= bound(mine, x)).all()
    mine.codes[0, 0] ^= 3  # the twin: one code
    assert not (np.abs(outputs(path, x) - exact(mine, x)) <= bound(mine, x)).all()


def outputs(path: Path, x: NDArray) -> NDArray:
    """Of the file in ONNX Runtime."""
    model = load(path)
    return np.asarray(open_model(model, exact_options(model)).run(None, {"x": x})[0])


def exact(weight: CodedWeight, x: NDArray) -> NDArray:
    """x · wᵀ + b in float64."""
    bias = np.random.default_rng(0)
    bias.standard_normal((K, N))
    return x.astype(np.float64) @ weight.decode().T + bias.standard_normal(N).astype(F32)


def bound(weight: CodedWeight, x: NDArray) -> NDArray:
    """N14, and the sum with a bias of at most 4."""
    sums = np.abs(x).astype(np.float64) @ np.abs(weight.decode()).T
    return (K + 5) * 2.0**-23 * (sums + 4)


def test_static_activations(tmp_path: Path) -> None:
    path = tmp_path / "qdq.onnx"
    x = np.random.default_rng(1).standard_normal((32, K)).astype(F32)
    recipe = Recipe("w4a8", edge_bits=4, rotation="off", effort="quick")
    first = qcompile.compile(net(tmp_path), recipe=recipe, calibration_data={"x": x}, qdq_out=path)
    assert typed(path) == {"codes": "INT4", "scales": "FLOAT"}
    again = qcompile.compile(path, output=tmp_path / "again")
    assert np.array_equal(packed(again.folder).codes, packed(first.folder).codes)
    left, right = (qcompile.load(a.folder).run(None, {"x": x})[0] for a in (first, again))
    assert np.array_equal(left, right)


def test_what_onnx_cannot_say_is_refused(tmp_path: Path) -> None:
    for preset, form, why in (
        ("w4a8-dynamic", None, "finds scales at run time, as for x_row_codes"),
        ("w8a16", "rf8/f16/32", "rf8 has no type in ONNX, and its values are no"),
    ):
        recipe = Recipe(preset, weight_format=form, edge_bits=4, rotation="off")
        with pytest.raises(InputError, match=why):
            qcompile.compile(net(tmp_path), recipe=recipe, qdq_out=tmp_path / "q.onnx")
        assert not (tmp_path / "q.onnx").exists() and not (tmp_path / "net.qc").exists()


def test_a_wrong_code_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = qdq_file.Coded.element

    def changed(self: qdq_file.Coded) -> tuple[str, NDArray, float]:
        name, codes, unit = real(self)
        codes = codes.copy()
        codes[2, 3] = 1 if codes[2, 3] != 1 else 2
        return name, codes, unit

    monkeypatch.setattr(qdq_file.Coded, "element", changed)
    with pytest.raises(VerificationError, match="does not mean what its codes mean"):
        written("int4", tmp_path)


def test_the_flag(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = tmp_path / "flag.onnx", tmp_path / "out"
    flags = ["--preset", "w4a16", "--edge-bits", "4", "-o", str(out), "--quiet"]
    flags += ["--qdq-out", str(path)]
    assert run(capsys, str(net(tmp_path)), *flags).code == 0
    assert typed(path)["codes"] == "UINT4"
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []
    before = path.read_bytes()
    flags[flags.index(str(out))] = str(tmp_path / "other")
    again = run(capsys, str(net(tmp_path)), *flags)
    assert again.code == 2
    assert "is there already: give --force, or another name" in again.err
    assert path.read_bytes() == before and not (tmp_path / "other").exists()
    assert run(capsys, str(net(tmp_path)), *flags, "--force").code == 0
