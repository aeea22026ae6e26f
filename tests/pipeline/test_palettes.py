# SPDX-License-Identifier: Apache-2.0
"""Weights whose blocks have values of their own run packed without any error, end to end."""

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper

import qcompile
import qcompile.targets as targets
from qcompile.errors import InputError
from qcompile.exact_weights import RULE
from qcompile.formats.block import block_format
from qcompile.graph import attribute, constant
from qcompile.numerics.matmul import qmatmul_float
from qcompile.observers.grid_of import spec_of
from qcompile.observers.palette_of import palette_of
from qcompile.pack import weight_of_packed
from qcompile.passes.transform.round_weights import dequantize_node
from qcompile.recipe import Recipe
from qcompile.spec import QuantSpec
from qcompile.targets.target import Request
from qcompile.verify_weights import weight_error
from tests.cli.run import run
from tests.observers.test_palette_of import palettized
from tests.pipeline.test_exact_weights import codebook, compiled

F32 = np.float32
N, K = 96, 320
LOST = "its blocks have values of their own, which integer products cannot read; use w..a16"


def saved(weight: np.ndarray, folder: Path, op: str = "MatMul") -> Path:
    """x → a product with weight [N, K], and a bias."""
    rng = np.random.default_rng(5)
    bias = (rng.standard_normal(len(weight)) * 0.1).astype(F32)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["p"], "product")]
    nodes += [helper.make_node("Add", ["p", "b"], ["y"], "bias")]
    held = weight.T.copy()
    if op == "Gemm":
        nodes, held = (
            [helper.make_node("Gemm", ["x", "w", "b"], ["y"], "product", transB=1)],
            weight,
        )
    if op == "Gather":
        nodes = [helper.make_node("Gather", ["w", "x"], ["y"], "product", axis=0)]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", 7 if op == "Gather" else 1, ["m", weight.shape[1]])],
        [helper.make_tensor_value_info("y", 1, None)],
        [numpy_helper.from_array(held, "w"), numpy_helper.from_array(bias, "b")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, folder / "net.onnx")
    return folder / "net.onnx"


def product(artifact: qcompile.Artifact) -> ir.Node:
    (node,) = (n for n in ir.load(artifact.folder / "model.onnx").graph if n.op_type == "QMatMul")
    return node


@pytest.mark.parametrize("op", ["MatMul", "Gemm"])
@pytest.mark.parametrize(
    ("bits", "block", "kind"),
    [(4, 0, F32), (4, 64, np.float16), (3, 0, np.float16), (3, 128, F32), (2, 32, np.float16)]
    + [(2, 64, F32), (1, 64, F32), (4, 128, F32)],
)
def test_end_to_end(tmp_path: Path, op: str, bits: int, block: int, kind: type) -> None:
    weight = palettized((N, K), bits, block, kind)
    path = saved(weight, tmp_path, op)
    artifact = qcompile.compile(path, recipe=Recipe("w4a16", edge_bits=4), force=True)
    (layer,) = artifact.content["nodes"]
    form = "f16" if kind is np.float16 else "f32"
    where = f"block(axis=1,size={block})" if block else "axis(axis=0)"
    assert layer["weight"] == f"palette{bits}/{where}/sym/{form}"
    assert layer["decided_by"] == RULE
    node = product(artifact)
    packed = weight_of_packed(node)
    assert np.array_equal(packed.decode(), weight)
    assert attribute(node, "layout") == "n16k4c/1"
    blocks = -(-K // block) if block else 1
    size = N * (K * bits // 8 + blocks * 2**bits * (2 if kind is np.float16 else 4))
    data = constant(node.inputs[1])
    assert data is not None and data.nbytes == size

    rng = np.random.default_rng(6)
    bias = constant(node.inputs[2])
    for rows in (1, 2, 40):
        x = rng.standard_normal((rows, K)).astype(F32)
        (got,) = qcompile.load(artifact.folder).run(None, {"x": x})
        _, bound = qmatmul_float(x, packed, bias)
        (wanted,) = ort.InferenceSession(path).run(None, {"x": x})
        assert (np.abs(got - wanted) <= 2 * bound).all()  # both are within it of the real product
        other = packed.levels.copy()
        other[7, 0, 0] += F32(0.25)  # the twin: one level off
        broken = type(packed)(
            *(packed.codes, None, None, packed.format, packed.block_size, "f32"), levels=other
        )
        assert (np.abs(got - qmatmul_float(x, broken, bias)[0]) > 2 * bound).any()


@pytest.mark.parametrize("preset", ["w4a16", "w8a16"])
def test_a_codebook_times_rounded_scales(tmp_path: Path, preset: str) -> None:
    """QLoRA's nf4 written in float16: the products are of no one table any more."""
    given = codebook().astype(np.float16).astype(F32)
    found = compiled([given], preset, tmp_path)
    (layer,) = found.content["nodes"]
    assert layer["weight"] == "palette4/block(axis=1,size=64)/sym/f16"
    assert np.array_equal(weight_of_packed(product(found)).decode(), given.T)


@pytest.mark.parametrize("preset", ["w4a8-dynamic", "w4a8"])
def test_integer_products_round_and_say_why(tmp_path: Path, preset: str) -> None:
    path = saved(palettized((1024, K), 4, 0), tmp_path)
    x = np.random.default_rng(1).standard_normal((64, K)).astype(F32)
    recipe = Recipe(preset, edge_bits=4, effort="quick")
    found = qcompile.compile(path, recipe=recipe, calibration_data={"x": x}, force=True)
    (layer,) = found.content["nodes"]
    assert layer["decided_by"] != RULE and "palette" not in layer["weight"]
    assert [n for n in found.content["notes"] if n.startswith("w_nk: it is rounded") and LOST in n]


def test_what_is_not_kept_is_named(tmp_path: Path) -> None:
    """On another target, and where a block is too short."""
    path = saved(palettized((1024, K), 4, 0), tmp_path)
    recipe = Recipe("w4a16", edge_bits=4)
    notes = qcompile.compile(path, "ort", recipe=recipe, force=True).content["notes"]
    assert [n for n in notes if n.endswith("no kernel for palette4: use --target cpu")]
    path = saved(palettized((1024, K), 4, 64), tmp_path)  # levels of f32: 64 bytes for 32
    notes = qcompile.compile(path, recipe=recipe, force=True).content["notes"]
    assert [n for n in notes if n.endswith("their levels would take more bytes than their codes")]


@pytest.mark.parametrize("block", [0, 64])
def test_verification_sees_one_level(block: int) -> None:
    weight = palettized((24, 150), 3, block, np.float16)
    found = palette_of(weight, [block])
    assert found is not None and found.levels is not None
    spec, errors = spec_of(found), []
    levels = found.levels.copy()
    levels[7, 0, found.codes[7, 3]] = np.nextafter(levels[7, 0, found.codes[7, 3]], F32(9))
    for held in (found.levels, levels):
        tensors = [ir.tensor(found.codes.astype(np.int8)), ir.tensor(held)]
        inputs = [ir.Value(name=str(i), const_value=t) for i, t in enumerate(tensors)]
        node = dequantize_node(spec, inputs, "node", "w")
        errors.append(weight_error(weight, found.codes.astype(np.int8), node, spec))
    assert errors == [0.0, np.inf]


def test_a_table_that_is_gathered_is_rounded() -> None:
    spec = QuantSpec.parse("palette4/axis(axis=0)/sym/f16")
    assert targets.get("cpu").refuse(Request("MatMul", spec, None, K)) is None
    found = targets.get("cpu").refuse(Request("Gather", spec, None, K))
    assert found == "palette4 is for MatMul, and Gather reads it, too"


def test_fewer_bits_win(tmp_path: Path) -> None:
    path = saved(palettized((1024, K), 4, 0), tmp_path)
    found = qcompile.compile(path, recipe=Recipe("w3a16", edge_bits=3), force=True)
    assert "palette" not in found.content["nodes"][0]["weight"]


def test_it_cannot_be_asked_for(tmp_path: Path) -> None:
    wanted = "its values are those of each block of a weight, so it is recognised and cannot be"
    with pytest.raises(InputError, match=f'weight format "palette4": {wanted}'):
        block_format("palette4")
    path = saved(palettized((N, K), 4, 0), tmp_path)
    with pytest.raises(InputError, match=wanted):
        recipe = Recipe("w4a16", weight_format="palette3/f16/32")
        qcompile.compile(path, recipe=recipe, force=True)


def test_qdq_out_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = saved(palettized((N, K), 4, 0), tmp_path)
    out = tmp_path / "qdq.onnx"
    found = run(capsys, path, "--preset", "w4a16", "--edge-bits", "4", "--qdq-out", out)
    assert found.code == 2 and "palette4 has values that ONNX has no type for" in found.err


def test_a_damaged_weight_is_refused(tmp_path: Path) -> None:
    path = saved(palettized((N, K), 4, 0), tmp_path)
    artifact = qcompile.compile(path, recipe=Recipe("w4a16", edge_bits=4), force=True)
    model = onnx.load(artifact.folder / "model.onnx")
    (node,) = (n for n in model.graph.node if n.op_type == "QMatMul")
    (tensor,) = (t for t in model.graph.initializer if t.name == node.input[1])
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor)[:-64], tensor.name))
    options = ort.SessionOptions()
    qcompile.runtime_ops.register(options)
    with pytest.raises(Exception, match=r"W has .* bytes; n16k4c/1 of N = 96, K = 320, palette4"):
        ort.InferenceSession(model.SerializeToString(), options)
