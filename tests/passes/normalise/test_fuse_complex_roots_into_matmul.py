# SPDX-License-Identifier: Apache-2.0
"""Complex products with roots of unity (iFairy): the same numbers, two bits a complex weight."""

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

import qcompile
from qcompile.exact_weights import RULE
from qcompile.observers.weight_range import code_weight
from qcompile.pack import weight_of_packed
from qcompile.passes.normalise.fuse_complex_roots_into_matmul import (
    FuseComplexRootsIntoMatmul,
    signs,
)
from qcompile.recipe import Recipe
from qcompile.spec import QuantSpec
from tests.passes.graphs import parse, run

F32 = np.float32
M, K, N = 5, 37, 24
UNIT = 2.0**-24
# The paper's conjugate and the plain product; the order of the terms must not matter.
PARTS = {
    "conjugate": ("Add (p, q)", "Sub (s, t)"),
    "plain": ("Sub (p, q)", "Add (s, t)"),
    "turned": ("Add (q, p)", "Add (t, s)"),
    "odd": ("Sub (q, p)", "Sub (t, s)"),
}


def roots(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Fourth roots of unity as iFairy assigns them to random complex numbers, by their phase."""
    phase = np.angle(rng.standard_normal(shape) + 1j * rng.standard_normal(shape))
    code = np.where(np.abs(phase) >= 3 * np.pi / 4, 2, np.where(phase >= np.pi / 4, 1, 3))
    code = np.where((phase >= -np.pi / 4) & (phase < np.pi / 4), 0, code)
    return 1j**code


def net(parts: tuple[str, str], scales: tuple[float, float], k: int = K) -> ir.Model:
    w = roots(np.random.default_rng(3), (k, N))
    model = parse(
        f"""f (float[m,{k}] r, float[m,{k}] i, float[{k},{N}] a, float[{k},{N}] b)
        => (float[m,{N}] u, float[m,{N}] v)
        {{ p = MatMul (r, a)   q = MatMul (i, b)   u = {parts[0]}
           s = MatMul (r, b)   t = MatMul (i, a)   v = {parts[1]} }}"""
    )
    for part, scale in ((w.real, scales[0]), (w.imag, scales[1])):
        value = model.graph.inputs.pop(2)
        value.const_value = ir.tensor((np.rint(part) * F32(scale)).astype(F32))
        model.graph.register_initializer(value)
    return model


@pytest.mark.parametrize("scales", [(0.25, 0.25), (0.3, 0.7)])
@pytest.mark.parametrize("kind", list(PARTS))
def test_the_numbers_are_the_same(kind: str, scales: tuple[float, float]) -> None:
    before, after = (net(PARTS[kind], scales) for _ in range(2))
    assert FuseComplexRootsIntoMatmul()(after).modified
    assert [n.op_type for n in after.graph].count("MatMul") == 2
    assert [v.name for v in after.graph.outputs] == ["u", "v"]
    rng = np.random.default_rng(4)
    feed = {n: rng.standard_normal((M, K)).astype(F32) for n in ("r", "i")}
    size = (np.abs(feed["r"]) + np.abs(feed["i"])).sum(1, keepdims=True) * max(scales)
    limit = (2 * K + 8) * UNIT * 2 * size  # sums of 2 K terms, each of them a rounded sum
    for left, right in zip(run(before, feed), run(after, feed), strict=True):
        assert (np.abs(left - right) <= limit).all()
        assert (np.abs(left - right * F32(1.01)) > limit).any()


def test_two_signs_are_a_root_turned_by_45_degrees() -> None:
    """The nearest root is the signs of re + im and of im − re: no mismatch of a million."""
    rng = np.random.default_rng(5)
    z = rng.standard_normal(1_000_000) + 1j * rng.standard_normal(1_000_000)
    nearest = np.argmin(np.abs(z[:, None] - 1j ** np.arange(4)), 1)
    u, v = np.sign(z.real + z.imag), np.sign(z.imag - z.real)
    assert np.array_equal(((u - v) + (u + v) * 1j) / 2, 1j**nearest)
    w = roots(rng, (6, 4))
    pair = signs(np.rint(w.real), np.rint(w.imag))
    assert np.array_equal(((pair[:6] - pair[6:]) + 1j * (pair[:6] + pair[6:])) / 2, np.rint(w))


def test_weights_between_two_roots() -> None:
    """Equally far from both, a weight is coded as the format says: a sum of 0 is −1."""
    between = np.array([1 + 1j, -1 + 1j, -1 - 1j, 1 - 1j])
    turned = np.stack([between.real + between.imag, between.imag - between.real])
    coded = code_weight(turned.astype(F32), QuantSpec.parse("binary/axis(axis=0)/sym/f32"), "mse")
    u, v = coded.values().astype(int)
    assert (((u - v) + (u + v) * 1j) / 2).tolist() == [1, -1, -1j, -1j]


@pytest.mark.parametrize("change", ["a second size", "both parts", "no input rank"])
def test_left_alone(change: str) -> None:
    model = net(PARTS["conjugate"], (0.25, 0.25))
    a = model.graph.initializers["a"].const_value.numpy().copy()
    if change == "a second size":
        a[a != 0] *= np.linspace(1, 2, int((a != 0).sum())).astype(F32)
    elif change == "both parts":
        a[a == 0] = 0.25
    model.graph.initializers["a"].const_value = ir.tensor(a)
    if change == "no input rank":
        model.graph.inputs[0].shape = None
    rewrite = FuseComplexRootsIntoMatmul()
    assert not rewrite(model).modified
    reasons = {r.reason for r in rewrite.refusals}
    assert reasons == ({"the rank of its input is not known"} if "rank" in change else set())


def test_two_bits_of_a_complex_weight_run_packed(tmp_path: Path) -> None:
    """The codes decode to the roots without any error, and are stored once for both products."""
    model = net(PARTS["conjugate"], (0.25, 0.25), k=64)
    ir.save(model, tmp_path / "net.onnx")
    artifact = qcompile.compile(
        tmp_path / "net.onnx", recipe=Recipe("w8a8-dynamic", edge_bits=8), force=True
    )
    nodes = artifact.content["nodes"]
    assert [n["weight"] for n in nodes] == ["binary/axis(axis=0)/sym/f32"] * 2
    assert {n["decided_by"] for n in nodes} == {RULE}
    packed = ir.load(artifact.folder / "model.onnx")
    products = [n for n in packed.graph if n.op_type == "QMatMul"]
    assert len({n.inputs[1].name for n in products}) == 1
    w = roots(np.random.default_rng(3), (64, N))
    found = weight_of_packed(products[0]).decode()
    assert np.array_equal(found, 0.125 * signs(np.rint(w.real), np.rint(w.imag)).T)
