# SPDX-License-Identifier: Apache-2.0
"""What docs/inputs.md says of opsets, float types, defaults, functions, control flow and shapes."""

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

import qcompile
from qcompile import measure
from qcompile.errors import InputError
from qcompile.load import load
from qcompile.normalise import normalise
from qcompile.session import newest_opset, open_model, session_options
from tests.pipeline.nets import Net

RNG = np.random.default_rng(11)
WEIGHTS = {name: (RNG.standard_normal((32, 32)) / 6).astype(np.float32) for name in ("w", "v", "u")}
PRODUCTS = "{ a = MatMul (x, w)  b = Relu (a)  y = MatMul (b, v) }"


@pytest.fixture(autouse=True)
def measured_for_an_instant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "SECONDS", 0.0)


def saved(
    folder: Path,
    text: str,
    header: str = 'ir_version: 8, opset_import: ["": 17]',
    dtype: ir.DataType = ir.DataType.FLOAT,
) -> Path:
    """The model, with matrices in place of those inputs of the main graph that are w, v, u."""
    model = ir.from_onnx_text(f"<{header}>\nf {text}")
    for value in [v for v in model.graph.inputs if v.name in WEIGHTS]:
        model.graph.inputs.remove(value)
        value.const_value = ir.tensor(WEIGHTS[value.name].astype(dtype.numpy()), name=value.name)
        model.graph.register_initializer(value)
    ir.save(model, folder / "m.onnx")
    return folder / "m.onnx"


def compiled(path: Path, **options: object) -> qcompile.Artifact:
    options.setdefault("recipe", qcompile.Recipe(preset="w8a8-dynamic"))
    return qcompile.compile(path, output=path.with_name("m.qc"), **options)  # type: ignore[arg-type]


def outputs(path: Path, feed: dict[str, NDArray]) -> tuple[list[NDArray], list[NDArray]]:
    """Of the artifact beside the model, and of the model."""
    model = open_model(load(path), session_options(1, optimise=False))
    return qcompile.load(path.with_name("m.qc")).run(None, feed), model.run(None, feed)


def sqnr(found: NDArray, wanted: NDArray) -> float:
    wide, other = wanted.astype(np.float64), found.astype(np.float64)
    return float(10 * np.log10(np.square(wide).sum() / np.square(wide - other).sum()))


def rows(count: int, dtype: type = np.float32) -> NDArray:
    return np.random.default_rng(4).standard_normal((count, 32)).astype(dtype)


# Two products of 8 bits in a row keep 30 dB (6 dB a bit, less 18 for the range of normal values).
MIN_SQNR = 30.0


@pytest.mark.parametrize("opset", [7, 9, 11, 12, 13, 18, 21, 23, 26, newest_opset()])
def test_opsets(opset: int, tmp_path: Path) -> None:
    path = saved(
        tmp_path,
        f"(float[n,32] x, float[32,32] w, float[32,32] v) => (float[n,32] y) {PRODUCTS}",
        f'ir_version: 3, opset_import: ["ai.onnx": {opset}]',
    )
    artifact = compiled(path)
    assert artifact.content["coverage"] == 1
    found, wanted = outputs(path, {"x": rows(5)})
    assert sqnr(found[0], wanted[0]) > MIN_SQNR


def test_an_import_without_nodes_is_no_artifact(tmp_path: Path) -> None:
    """ONNX Runtime writes every domain that its process knows into a model that it saves."""
    path = saved(
        tmp_path,
        f"(float[n,32] x, float[32,32] w, float[32,32] v) => (float[n,32] y) {PRODUCTS}",
        'ir_version: 8, opset_import: ["": 17, "com.qcompile": 1]',
    )
    assert compiled(path).content["coverage"] == 1


@pytest.mark.parametrize("name", ["FLOAT16", "DOUBLE", "BFLOAT16"])
def test_float_types_of_the_interface_stay(name: str, tmp_path: Path) -> None:
    dtype, text = ir.DataType[name], name.lower()
    path = saved(
        tmp_path,
        f"({text}[n,32] x, {text}[32,32] w, {text}[32,32] v) => ({text}[n,32] y) {PRODUCTS}",
        dtype=dtype,
    )
    assert compiled(path).content["coverage"] == 1
    found, wanted = outputs(path, {"x": rows(5, dtype.numpy())})
    assert found[0].dtype == wanted[0].dtype == dtype.numpy()
    assert sqnr(found[0], wanted[0]) > MIN_SQNR


@pytest.mark.parametrize("unknown", [-1, "?"])
def test_unknown_sizes_of_paddle_are_free(unknown: int | str, tmp_path: Path) -> None:
    """A map of 6 × 10 though both sizes have the same name."""
    net = Net()
    x = net.conv(net.input("x", [-1, 3, unknown, unknown]), 8, 3, "first")
    net.conv(x, 4, 8, "y")
    net.output("y", [-1, 4, unknown, unknown])
    path = tmp_path / "m.onnx"
    path.write_bytes(net.proto(check=False).SerializeToString())
    x = np.random.default_rng(1).standard_normal((4, 3, 6, 10)).astype(np.float32)
    artifact = compiled(path, recipe=qcompile.Recipe(preset="w8a8"), calibration_data={"x": x})
    assert artifact.content["coverage"] == 1
    for batch in (x, x[:1, :, :, :6]):
        found, wanted = outputs(path, {"x": batch})
        assert sqnr(found[0], wanted[0]) > MIN_SQNR


BFLOAT16 = """(float[n,32] x, bfloat16[32,32] w, bfloat16[32,32] v) => (float[n,32] y)
    { h = Cast <to = 16> (x) a = MatMul (h, w) b = MatMul (a, v) y = Cast <to = 1> (b) }"""


def test_bfloat16_inside(tmp_path: Path) -> None:
    path = saved(tmp_path, BFLOAT16, dtype=ir.DataType.BFLOAT16)
    assert compiled(path).content["coverage"] == 1
    x = rows(5)
    wanted = x
    for name in ("w", "v"):
        wanted = wanted @ WEIGHTS[name].astype(ir.DataType.BFLOAT16.numpy()).astype(np.float32)
    (found,) = qcompile.load(tmp_path / "m.qc").run(None, {"x": x})
    assert sqnr(found, wanted) > MIN_SQNR


def test_bfloat16_beside_strings(tmp_path: Path) -> None:
    text = "(bfloat16[2] x, string[2] s) => (bfloat16[2] y, string[2] t) "
    path = saved(tmp_path, text + "{ y = Relu (x) t = Identity (s) }")
    wanted = r'"x" is BFLOAT16, "y" is BFLOAT16, which .* not run beside strings.*\("s", "t"\)'
    with pytest.raises(InputError, match=wanted):
        load(path)


def test_bfloat16_data(tmp_path: Path) -> None:
    """Files of NumPy's have float32 at most, which becomes bfloat16; a free length is tried out."""
    text = "(bfloat16[n,t,32] x, bfloat16[32,32] w, bfloat16[32,32] v) => (bfloat16[n,t,32] y) "
    path = saved(tmp_path, text + PRODUCTS, dtype=ir.DataType.BFLOAT16)
    assert compiled(path).content["coverage"] == 1
    samples = rows(6).reshape(3, 2, 32)
    np.savez(tmp_path / "data.npz", x=samples)
    recipe = qcompile.Recipe(preset="w8a8")
    compiled(path, recipe=recipe, calibration_data=tmp_path / "data.npz", force=True)
    compared = qcompile.compare(path, tmp_path / "m.qc", tmp_path / "data.npz")
    assert compared.outputs[0].sqnr_db > MIN_SQNR
    integers = {"x": samples.astype(int)}
    with pytest.raises(InputError, match='"x" is int64; the model takes bfloat16'):
        compiled(path, recipe=recipe, calibration_data=integers, force=True)


@pytest.mark.parametrize(("ir_version", "noted"), [(3, False), (8, True)])
def test_inputs_with_a_default_become_constants(
    ir_version: int, noted: bool, tmp_path: Path
) -> None:
    path = saved(
        tmp_path, f"(float[n,32] x, float[32,32] w, float[32,32] v) => (float[n,32] y) {PRODUCTS}"
    )
    model = onnx.load(path)
    model.ir_version = ir_version
    for tensor in model.graph.initializer:
        info = onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        model.graph.input.append(info)
    onnx.save(model, path)
    artifact = compiled(path)
    note = "2 of the model's inputs have a default value and became constants: w, v"
    assert (note in artifact.content["notes"]) == noted
    session = qcompile.load(tmp_path / "m.qc")
    assert [i.name for i in session.get_inputs()] == ["x"]
    assert artifact.content["coverage"] == 1


def test_functions_are_inlined(tmp_path: Path) -> None:
    text = """(float[n,32] x, float[32,32] w, float[32,32] v) => (float[n,32] y)
        { a = local.Twice (x, w)  y = local.Layer <slope = 0.1> (a, v) }
        <domain: "local", opset_import: ["": 17]>
        Layer <slope> (x, w) => (y) { a = MatMul (x, w) y = LeakyRelu <alpha: float = @slope> (a) }
        <domain: "local", opset_import: ["": 17, "local": 1]>
        Twice (x, w) => (y)
        { a = local.Layer <slope = 0.5> (x, w) y = local.Layer <slope = 0.2> (a, w) }"""
    path = saved(tmp_path, text, 'ir_version: 8, opset_import: ["": 17, "local": 1]')
    assert compiled(path).content["coverage"] == 1
    found, wanted = outputs(path, {"x": rows(5)})
    assert sqnr(found[0], wanted[0]) > MIN_SQNR


CONTROL = {
    "if": """(bool c, float[n,32] x, float[32,32] w, float[32,32] v) => (float[n,32] y)
        { a = MatMul (x, w)
          y = If (c) <then_branch = t () => (float[n,32] d) { d = MatMul (a, v) },
                      else_branch = e () => (float[n,32] b) { b = Neg (a) }> }""",
    "loop": """(int64 c, float[n,32] x, float[32,32] w, float[32,32] v) => (float[n,32] y)
        { a = MatMul (x, w)  p = Constant <value = bool {1}> ()
          y = Loop (c, p, a) <body = b (int64 i, bool q, float[n,32] s) => (bool r, float[n,32] z)
                              { r = Identity (q) m = MatMul (s, v) z = Add (m, a) }> }""",
    "scan": """(float[3,32] c, float[n,32] x, float[32,32] w, float[32,32] v)
        => (float[3,n,32] y)
        { a = MatMul (x, w)
          y = Scan <num_scan_inputs = 1, body = b (float[32] i) => (float[n,32] z)
                    { m = MatMul (a, v) z = Add (m, i) }> (c) }""",
}
GIVEN = {
    "if": np.array(True),
    "loop": np.array(2, np.int64),
    "scan": np.ones((3, 32), np.float32),
}


@pytest.mark.parametrize("case", CONTROL)
def test_control_flow_reads_outer_weights(case: str, tmp_path: Path) -> None:
    """Weights are quantized outside and inside."""
    path = saved(tmp_path, CONTROL[case])
    artifact = compiled(path)
    assert [n["weight"] for n in artifact.content["nodes"]] == ["int8/axis(axis=0)/sym/f32"] * 2
    assert artifact.content["coverage"] == 1
    found, wanted = outputs(path, {"x": rows(5), "c": GIVEN[case]})
    assert sqnr(found[0], wanted[0]) > MIN_SQNR


def test_weights_of_a_subgraph_stay_there(tmp_path: Path) -> None:
    path = saved(tmp_path, CONTROL["if"])
    model = ir.load(path)
    (node,) = [n for n in model.graph if n.op_type == "If"]
    branch = node.attributes["then_branch"].as_graph()
    inner = ir.Value(name="own", const_value=ir.tensor(WEIGHTS["u"], name="own"))
    inner.shape, inner.type = ir.Shape([32, 32]), ir.TensorType(ir.DataType.FLOAT)
    branch.register_initializer(inner)
    branch[0].replace_input_with(1, inner)
    ir.save(model, path)
    compiled(path)
    found, wanted = outputs(path, {"x": rows(5), "c": np.array(True)})
    assert sqnr(found[0], wanted[0]) > MIN_SQNR


def test_an_if_of_a_constant_is_its_branch(tmp_path: Path) -> None:
    text = CONTROL["if"].replace("bool c, ", "").replace("{ a =", "<bool c = {1}> { a =", 1)
    path = saved(tmp_path, text)
    assert "If" not in [n.op_type for n in normalise(load(path)).graph]
    assert compiled(path).content["coverage"] == 1
    found, wanted = outputs(path, {"x": rows(5)})
    assert sqnr(found[0], wanted[0]) > MIN_SQNR


def test_a_sequence_inside_stays(tmp_path: Path) -> None:
    path = saved(
        tmp_path,
        """(float[n,32] x, float[32,32] w, float[32,32] v) => (float[n,32] y)
        { a = MatMul (x, w)  i = Constant <value = int64 {1}> ()
          s = SequenceConstruct (x, a)  b = SequenceAt (s, i)  y = MatMul (b, v) }""",
    )
    assert compiled(path).content["coverage"] == 1
    found, wanted = outputs(path, {"x": rows(5)})
    assert sqnr(found[0], wanted[0]) > MIN_SQNR


@pytest.mark.parametrize("preset", ["w8a8-dynamic", "w4a16", "w8a8"])
def test_a_batch_of_none(preset: str, tmp_path: Path) -> None:
    path = saved(
        tmp_path, f"(float[n,32] x, float[32,32] w, float[32,32] v) => (float[n,32] y) {PRODUCTS}"
    )
    data = {"x": rows(20)} if preset == "w8a8" else None
    compiled(path, recipe=qcompile.Recipe(preset=preset), calibration_data=data)
    found, wanted = outputs(path, {"x": rows(0)})
    assert found[0].shape == wanted[0].shape == (0, 32)


def test_an_op_of_com_microsoft_stays(tmp_path: Path) -> None:
    path = saved(
        tmp_path,
        """(float[n,32] x, float[32,32] w, float[32,32] v) => (float[n,32] y)
        { a = MatMul (x, w)  b = com.microsoft.QuickGelu <alpha = 1.7> (a)  y = MatMul (b, v) }""",
        'ir_version: 8, opset_import: ["": 17, "com.microsoft": 1]',
    )
    assert compiled(path).content["coverage"] == 1
    found, wanted = outputs(path, {"x": rows(5)})
    assert sqnr(found[0], wanted[0]) > MIN_SQNR


def test_a_value_that_nothing_makes(tmp_path: Path) -> None:
    path = saved(tmp_path, "(float[2] x) => (float[2] y) { y = Add (x, gone) }")
    with pytest.raises(InputError, match='Add "y" reads "gone", which nothing makes'):
        load(path)
