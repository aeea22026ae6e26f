# SPDX-License-Identifier: Apache-2.0
"""Weights in ONNX's own low-bit types: the codes that are packed are those of the file."""

import dataclasses
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

import qcompile
from qcompile import imported
from qcompile.compile import plan_only
from qcompile.errors import InputError, VerificationError
from qcompile.pack import weight_of_packed
from qcompile.recipe import Recipe
from qcompile.session import exact_options, open_model
from tests.imported.typed import BLOCK, SCALES, TYPES, K, N, codes_of, model_of, scales_of

GRAINS = ("tensor", "axis", "block")


def saved(folder: Path, kind: str, scale: str, grain: str) -> tuple[Path, NDArray, NDArray]:
    """y = x · DequantizeLinear(codes); its path, the codes and the scales."""
    codes, scales = codes_of(kind), scales_of(scale, grain)
    attributes: dict[str, int] = {"axis": {"tensor": 1, "axis": 1, "block": 0}[grain]}
    if grain == "block":
        attributes["block_size"] = BLOCK
    opset = max(TYPES[kind][0], 24 if scale == "FLOAT8E8M0" else 23)
    if scale != "FLOAT":
        attributes["output_dtype"] = TensorProto.FLOAT
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "s"], ["dq"], "dq", **attributes),
        helper.make_node("MatMul", ["x", "dq"], ["y"], "product"),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["B", K])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["B", N])
    held = [
        ir.to_proto(ir.tensor(array, dtype=ir.DataType[name], name=each))
        for each, array, name in (("w", codes, kind), ("s", scales, scale))
    ]
    graph = helper.make_graph(nodes, "typed", [x], [y], held)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    model.ir_version = 14 if opset >= 28 else 13
    path = folder / "typed.onnx"
    onnx.save(model, path)
    return path, codes, scales


def product(folder: Path) -> ir.Node:
    """The one product of the artifact."""
    (node,) = (n for n in ir.load(folder / "model.onnx").graph if n.op_type == "QMatMul")
    return node


def numbers(codes: NDArray, scales: NDArray, grain: str) -> NDArray[np.float32]:
    """The weight [K, N] as ONNX defines it."""
    spread = np.asarray(scales, np.float32)
    if grain == "block":
        spread = np.repeat(spread, BLOCK, axis=0)
    return codes.astype(np.float32) * spread


@pytest.mark.parametrize("grain", GRAINS)
@pytest.mark.parametrize("scale", list(SCALES))
@pytest.mark.parametrize("kind", list(TYPES))
def test_codes_are_packed_without_error(kind: str, scale: str, grain: str, tmp_path: Path) -> None:
    path, codes, scales = saved(tmp_path, kind, scale, grain)
    artifact = qcompile.compile(path)
    assert artifact.content["coverage"] == 1
    weight = weight_of_packed(product(artifact.folder))
    assert np.array_equal(weight.decode(), numbers(codes, scales, grain).T)
    if kind.startswith("FLOAT"):
        assert np.array_equal(weight.codes, codes.view(np.uint8).T)
    assert weight.format.bits == ir.DataType[kind].bitwidth
    if grain == "block":
        # f16 holds bfloat16 scales of this size, too.
        forms = {"FLOAT": "f32", "FLOAT16": "f16", "BFLOAT16": "f16", "FLOAT8E8M0": "e8m0"}
        assert weight.scale_format.split("*")[0] == forms[scale]


def nvfp4() -> tuple[onnx.ModelProto, NDArray[np.float32]]:
    """E2M1 in blocks of 16 with E4M3 scales in units of one float, and what they mean [K, N]."""
    codes, rng = codes_of("FLOAT4E2M1"), np.random.default_rng(9)
    scales = rng.uniform(0.1, 400, (K // 16, N)).astype(ml_dtypes.float8_e4m3fn)
    unit = np.float32(0.00123)
    nodes = [
        helper.make_node("DequantizeLinear", ["s", "unit"], ["scale"], "scales"),
        helper.make_node("DequantizeLinear", ["w", "scale"], ["dq"], "dq", axis=0, block_size=16),
        helper.make_node("MatMul", ["x", "dq"], ["y"], "product"),
    ]
    model = model_of(nodes, {"w": codes, "s": scales, "unit": unit}, ["B", K])
    spread = np.repeat(scales.astype(np.float32) * unit, 16, axis=0)
    return model, codes.astype(np.float32) * spread


def test_nvfp4_keeps_scales_of_a_byte(tmp_path: Path) -> None:
    model, meant = nvfp4()
    onnx.save(model, tmp_path / "nv.onnx")
    artifact = qcompile.compile(tmp_path / "nv.onnx")
    weight = weight_of_packed(product(artifact.folder))
    assert np.array_equal(weight.decode(), meant.T)
    assert (weight.format.name, weight.block_size) == ("e2m1", 16)
    assert weight.scale_format.startswith("ue4m3*")


def test_the_compiled_product_is_that_of_the_decoded_weight(tmp_path: Path) -> None:
    model, meant = nvfp4()
    onnx.save(model, tmp_path / "nv.onnx")
    artifact = qcompile.compile(tmp_path / "nv.onnx")
    x = np.random.default_rng(1).standard_normal((5, K)).astype(np.float32)
    found = qcompile.load(artifact.folder).run(None, {"x": x})[0]
    exact = x.astype(np.float64) @ meant.astype(np.float64)
    bound = (K + 4) * 2.0**-23 * (np.abs(x).astype(np.float64) @ np.abs(meant))  # N14
    assert (np.abs(found - exact) <= bound).all()
    meant[0, 0] += np.float32(0.5)  # half a step of one code is more than the bound
    worse = np.abs(found - x.astype(np.float64) @ meant.astype(np.float64))
    assert not (worse <= bound).all()


def test_an_embedding(tmp_path: Path) -> None:
    codes, scales = codes_of("FLOAT4E2M1"), scales_of("FLOAT", "block")
    codes, scales = np.ascontiguousarray(codes.T), np.ascontiguousarray(scales.T)
    nodes = [
        helper.make_node("Cast", ["x"], ["at"], to=TensorProto.INT64),
        helper.make_node("DequantizeLinear", ["w", "s"], ["dq"], axis=1, block_size=BLOCK),
        helper.make_node("Gather", ["dq", "at"], ["y"], "rows"),
    ]
    onnx.save(model_of(nodes, {"w": codes, "s": scales}, ["B"]), tmp_path / "rows.onnx")
    artifact = qcompile.compile(tmp_path / "rows.onnx")
    at = np.arange(N, dtype=np.float32)
    found = qcompile.load(artifact.folder).run(None, {"x": at})[0]
    assert artifact.content["coverage"] == 1
    assert np.array_equal(found, codes.astype(np.float32) * np.repeat(scales, BLOCK, axis=1))


def static_model(codes: np.ndarray, scales: np.ndarray, step: float) -> onnx.ModelProto:
    """A product of codes [K, N] with a scale an output, its input in uint8 around 128."""
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "step", "middle"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "step", "middle"], ["xr"]),
        helper.make_node("DequantizeLinear", ["w", "s"], ["dq"], axis=1),
        helper.make_node("MatMul", ["xr", "dq"], ["y"], "product"),
    ]
    held = {"w": codes, "s": scales, "step": np.float32(step), "middle": np.uint8(128)}
    return model_of(nodes, held, ["B", K])


def test_static_activations_keep_the_codes(tmp_path: Path) -> None:
    codes, scales = codes_of("FLOAT4E2M1"), scales_of("FLOAT", "axis")
    onnx.save(static_model(codes, scales, 0.05), tmp_path / "static.onnx")
    artifact = qcompile.compile(tmp_path / "static.onnx")
    weight = weight_of_packed(product(artifact.folder))
    assert np.array_equal(weight.codes, codes.view(np.uint8).T)


def conv() -> onnx.ModelProto:
    """A convolution of floats, for which there is no kernel, and a product, for which there is."""
    codes = codes_of("FLOAT4E2M1")
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "s"], ["dq"], axis=0),
        helper.make_node("Conv", ["x", "dq"], ["maps"], "conv"),
        helper.make_node("Flatten", ["maps"], ["rows"]),
        helper.make_node("DequantizeLinear", ["v", "s"], ["dv"], axis=1),
        helper.make_node("MatMul", ["rows", "dv"], ["y"], "product"),
    ]
    kernel = np.ascontiguousarray(codes[:, :9]).reshape(12, 8, 3, 3)
    held = {"w": kernel, "s": np.ones(12, np.float32), "v": codes.reshape(192, 12)}
    return model_of(nodes, held, [1, 8, 6, 6])


def test_what_has_no_kernel_stays_float_and_says_why(tmp_path: Path) -> None:
    onnx.save(conv(), tmp_path / "conv.onnx")
    plan, _ = plan_only(tmp_path / "conv.onnx", "cpu", Recipe())
    assert "Conv has no kernel for float activations" in (plan.nodes["conv"].reason or "")
    artifact = qcompile.compile(tmp_path / "conv.onnx")
    x = np.random.default_rng(1).standard_normal((1, 8, 6, 6)).astype(np.float32)
    source = ir.load(tmp_path / "conv.onnx")
    wanted = open_model(source, exact_options(source)).run(None, {"x": x})[0]
    found = qcompile.load(artifact.folder).run(None, {"x": x})[0]
    largest = np.abs(x).max() * 6 * 72 * 6 * 192  # of a sum of sums
    assert np.abs(wanted - found).max() <= 2 * (72 + 192 + 8) * 2.0**-23 * largest


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("nan", "NaN or infinite"),
        ("quantizer", "integer products round e4m3 to 16 bits"),
        ("fnuz", "FLOAT8E4M3FNUZ codes; those of INT2"),
    ],
)
def test_reasons(change: str, reason: str, tmp_path: Path) -> None:
    codes = codes_of("FLOAT8E4M3FN")
    if change == "nan":
        codes.view(np.uint8)[0, 0] = 0x7F
    if change == "fnuz":
        codes = codes.astype(np.float32).clip(-200, 200).astype(ml_dtypes.float8_e4m3fnuz)
    step, middle = np.float32(0.05), np.uint8(128)
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "step", "middle"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "step", "middle"], ["xr"]),
        helper.make_node("DequantizeLinear", ["w", "s"], ["dq"], axis=1),
        helper.make_node("MatMul", ["xr" if change == "quantizer" else "x", "dq"], ["y"], "mm"),
    ]
    held = {"w": codes, "s": np.ones(N, np.float32), "step": step, "middle": middle}
    onnx.save(model_of(nodes, held, ["B", K]), tmp_path / "odd.onnx")
    with pytest.raises(InputError, match=reason):
        plan_only(tmp_path / "odd.onnx", "cpu", Recipe())


def test_a_wrong_table_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    onnx.save(nvfp4()[0], tmp_path / "nv.onnx")
    real = imported._weight

    def shifted(*args: Any) -> Any:
        found = real(*args)
        read = found.read

        def one_off() -> Any:
            weight = read()
            weight.codes[3, 5] ^= 1
            return weight

        return dataclasses.replace(found, read=one_off)

    monkeypatch.setattr(imported, "_weight", shifted)
    with pytest.raises(VerificationError, match="transform: kept codes"):
        qcompile.compile(tmp_path / "nv.onnx")


def test_a_scale_below_0_of_an_output(tmp_path: Path) -> None:
    """qcompile writes such scales, so that a code without an opposite is the larger side."""
    codes, scales = codes_of("INT4"), scales_of("FLOAT", "axis")
    scales[::2] *= -1
    step = np.float32(2.0**-5)
    onnx.save(static_model(codes, scales, step), tmp_path / "below.onnx")
    artifact = qcompile.compile(tmp_path / "below.onnx")
    x = np.random.default_rng(1).standard_normal((5, K)).astype(np.float32)
    whole = np.clip(np.rint(x / step), -128, 127) @ codes.astype(np.float64)
    wanted = whole * (np.float64(step) * scales)
    found = qcompile.load(artifact.folder).run(None, {"x": x})[0]
    assert (np.abs(found - wanted) <= 3 * 2.0**-24 * np.abs(wanted)).all()  # N16: three roundings
    assert (np.abs(wanted) > 0).any() and (np.sign(found) == np.sign(wanted)).all()


@pytest.mark.parametrize("kind", ["INT4", "FLOAT8E4M3FN"])
def test_simulated_quantization_in_blocks(kind: str, tmp_path: Path) -> None:
    """A float weight behind QuantizeLinear, as training leaves it: the codes are ONNX Runtime's."""
    weight = np.random.default_rng(2).standard_normal((K, N)).astype(np.float32)
    scales = scales_of("FLOAT", "block")
    attributes = {"axis": 0, "block_size": BLOCK}
    nodes = [
        helper.make_node(
            "QuantizeLinear", ["w", "s"], ["q"], output_dtype=int(ir.DataType[kind]), **attributes
        ),
        helper.make_node("DequantizeLinear", ["q", "s"], ["dq"], **attributes),
        helper.make_node("MatMul", ["x", "dq"], ["y"], "product"),
    ]
    onnx.save(model_of(nodes, {"w": weight, "s": scales}, ["B", K]), tmp_path / "qat.onnx")
    artifact = qcompile.compile(tmp_path / "qat.onnx")
    source = ir.load(tmp_path / "qat.onnx")
    decoded = open_model(source, exact_options(source)).run(None, {"x": np.eye(K, dtype="f4")})[0]
    assert np.array_equal(weight_of_packed(product(artifact.folder)).decode(), decoded.T)


@pytest.mark.parametrize("change", ["one input", "output type", "scale", "block", "axis"])
def test_nodes_that_are_not_valid_are_refused(change: str, tmp_path: Path) -> None:
    model, _ = nvfp4()
    scales, back = model.graph.node[0], model.graph.node[1]
    attributes = {a.name: a for a in back.attribute}
    if change == "one input":
        del back.input[1:]
    if change == "output type":
        back.attribute.append(helper.make_attribute("output_dtype", 99))
    if change == "scale":
        scales.input[0] = "w"
    if change == "block":
        attributes["block_size"].i = -3
    if change == "axis":
        attributes["axis"].i = 7
    onnx.save(model, tmp_path / "broken.onnx")
    with pytest.raises(InputError):
        qcompile.compile(tmp_path / "broken.onnx")
