# SPDX-License-Identifier: Apache-2.0
"""`--weight-format iroots2`: complex weights become the nearest of ±1 and ±i times scales."""

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

import qcompile
from qcompile.compile import plan_only
from qcompile.errors import InputError
from qcompile.pack import weight_of_packed
from qcompile.recipe import Recipe, Rule

K, N = 64, 24
F32 = np.float32


def weights(seed: int = 0) -> NDArray[np.complex128]:
    """Random complex numbers [K, N] of float32 parts."""
    rng = np.random.default_rng(seed)
    parts = (rng.standard_normal((K, N)).astype(F32) * F32(0.1) for _ in range(2))
    real, imaginary = parts
    return real.astype(np.float64) + 1j * imaginary.astype(np.float64)


def saved(folder: Path, *, with_head: bool = False) -> Path:
    """The paper's product: re = xr·Re + xi·Im, im = xr·Im − xi·Re; and a real head behind re."""
    w = weights()
    parts = [
        *(("MatMul", ["r", "a"], "p"), ("MatMul", ["i", "b"], "q"), ("Add", ["p", "q"], "u")),
        *(("MatMul", ["r", "b"], "s"), ("MatMul", ["i", "a"], "t"), ("Sub", ["s", "t"], "v")),
    ]
    if with_head:
        parts.append(("MatMul", ["u", "h"], "y"))
    nodes = [helper.make_node(op, inputs, [name], name) for op, inputs, name in parts]
    held = {"a": w.real, "b": w.imag}
    if with_head:
        held["h"] = np.random.default_rng(1).standard_normal((N, 4))
    graph = helper.make_graph(
        nodes,
        "complex",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["m", K]) for n in ("r", "i")],
        [
            helper.make_tensor_value_info(n, TensorProto.FLOAT, None)
            for n in (("y", "v") if with_head else ("u", "v"))
        ],
        [numpy_helper.from_array(array.astype(F32), name) for name, array in held.items()],
    )
    path = folder / "complex.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), path)
    return path


def nearest(w: NDArray[np.complex128]) -> NDArray[np.complex128]:
    """iFairy's roots, by the phase."""
    phase = np.angle(w)
    code = np.where(np.abs(phase) >= 3 * np.pi / 4, 2, np.where(phase >= np.pi / 4, 1, 3))
    return 1j ** np.where((phase >= -np.pi / 4) & (phase < np.pi / 4), 0, code)


def stored(folder: Path) -> tuple[NDArray[np.complex128], ir.Node]:
    """The complex weight [K, N] of the packed signs, and a product that has them."""
    found = [n for n in ir.load(folder / "model.onnx").graph if n.op_type == "QMatMul"]
    weight = weight_of_packed(found[0])
    assert weight.format.name == "binary" and weight.block_size == 0
    u, v = np.split(weight.decode().astype(np.float64), 2, axis=1)
    return ((u - v) + 1j * (u + v)).T, found[0]


@pytest.mark.parametrize("preset", ["w1a16", "w2a8-dynamic"])
def test_the_nearest_roots_times_the_mean_of_each_output(preset: str, tmp_path: Path) -> None:
    recipe = Recipe(preset, weight_format="iroots2", weight_rounding="nearest")
    artifact = qcompile.compile(saved(tmp_path), recipe=recipe)
    assert artifact.content["coverage"] == 1
    found, _ = stored(artifact.folder)
    w = weights()
    scale = np.maximum(np.abs(w.real), np.abs(w.imag)).mean(0)  # of what is assigned
    np.testing.assert_allclose(found, nearest(w) * scale, rtol=2.0**-22, atol=2.0**-24)
    size = sum(layer["packed_bytes"] for layer in artifact.content["nodes"][:1])
    assert size <= K * N * 2 / 8 + 4 * N + 64 * 16  # 2 bits a complex weight, scales, padding


def test_the_product_is_the_complex_one(tmp_path: Path) -> None:
    recipe = Recipe("w1a16", weight_format="iroots2", weight_rounding="nearest")
    artifact = qcompile.compile(saved(tmp_path), recipe=recipe)
    w, _ = stored(artifact.folder)
    rng = np.random.default_rng(2)
    x = {name: rng.standard_normal((5, K)).astype(F32) for name in ("r", "i")}
    z = (x["r"] + 1j * x["i"]).conj().astype(np.complex128) @ w
    real, imaginary = qcompile.load(artifact.folder).run(None, x)
    size = (np.abs(x["r"]) + np.abs(x["i"])).sum(1, keepdims=True) * np.abs(w).max()
    limit = (2 * K + 8) * 2.0**-23 * size  # N14, of sums of two inputs
    for found, wanted in ((real, z.real), (imaginary, z.imag)):
        assert (np.abs(found - wanted) <= limit).all()
        assert (np.abs(found - wanted * 1.01) > limit).any()


def test_with_data_every_weight_is_a_root_and_the_error_is_smaller(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    mixed = rng.standard_normal((256, K)) @ rng.standard_normal((K, K))
    data = {"r": mixed.astype(F32), "i": (mixed[::-1] / 2).astype(F32)}
    z = (data["r"] + 1j * data["i"]).conj().astype(np.complex128)
    errors = []
    for rounding in ("nearest", "descent"):
        recipe = Recipe("w1a16", weight_format="iroots2", weight_rounding=rounding, effort="quick")
        artifact = qcompile.compile(
            saved(tmp_path), recipe=recipe, calibration_data=data, force=True
        )
        w, _ = stored(artifact.folder)
        scale = np.abs(w).max(0)
        np.testing.assert_allclose(w, nearest(w) * scale, atol=1e-6)
        errors.append(np.linalg.norm(z @ (w - weights())))
    assert errors[1] < errors[0]


def test_real_products_are_refused_by_name(tmp_path: Path) -> None:
    path = saved(tmp_path, with_head=True)
    with pytest.raises(InputError, match='MatMul "y": iroots2 is for complex products'):
        plan_only(path, "cpu", Recipe("w1a16", weight_format="iroots2"))
    rule = Rule(match="^y$", weight_format="int4")
    plan, _ = plan_only(path, "cpu", Recipe("w1a16", weight_format="iroots2", rules=(rule,)))
    formats = {n.weight.format.name for n in plan.nodes.values() if n.weight is not None}
    assert formats == {"binary", "int4"}


def test_other_formats_leave_complex_weights_as_they_are(tmp_path: Path) -> None:
    plan, _ = plan_only(saved(tmp_path), "cpu", Recipe("w4a16"))
    assert len(plan.nodes) == 4
