# SPDX-License-Identifier: Apache-2.0
"""The bias takes back the mean error of the rounded weights."""

import numpy as np
import pytest
from numpy.typing import NDArray

from qcompile.graph import constant
from qcompile.observers.weight_range import code_weight
from qcompile.passes.transform.code_store import CodeStore, as_matrix, scale_method
from qcompile.passes.transform.correct_bias import CorrectBias
from qcompile.products import weight_of
from tests.numerics import loops
from tests.passes.graphs import lines_of
from tests.passes.stages import Staged, run_passes, staged, with_weights

CASES = {
    "conv": (
        "float[b,4,6,6]",
        "y = Conv <pads = [1,1,1,1], strides = [2,1]> (x, w, k)",
        (4, 4, 3, 3),
    ),
    "no bias": ("float[b,4,6,6]", "y = Conv (x, w)   z = Neg (k)", (4, 4, 3, 3)),
    "groups": ("float[b,4,6,6]", "y = Conv <group = 2> (x, w, k)", (4, 2, 3, 3)),
    "depthwise": (
        "float[b,4,6,6]",
        "y = Conv <group = 4, pads = [1,0,2,1]> (x, w, k)",
        (4, 1, 3, 3),
    ),
    "gemm": ("float[b,16]", "y = Gemm (x, w, k)", (16, 4)),
    "gemm without bias": ("float[b,16]", "y = Gemm (x, w)", (16, 4)),
}
EACH = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def net(case: tuple, preset: str = "w3a8", seed: int = 0) -> Staged:
    """One product at 3 bits."""
    dims, body, shape = case
    output = "float[b,4,h,v]" if "6" in dims and "16" not in dims else "float[b,4]"
    text = f"f ({dims} x, float w, float k) => ({output} y) {{ {body} }}"
    return staged(with_weights(text, seed, w=shape, k=(4,)), preset, edge_bits=3)


def correct(found: Staged) -> CorrectBias:
    """The pass for this net."""
    return CorrectBias(found.work, CodeStore(found.work))


def mean_error(found: Staged) -> NDArray[np.float64]:
    """E[(Ŵ − W) x] over the samples (and places), by loops."""
    node = next(n for n in found.normalised.graph if n.op_type in ("Conv", "Gemm"))
    raw = weight_of(node).const_value
    spec = found.plan.nodes[node.name].weight
    error = code_weight(as_matrix(raw), spec, scale_method(spec, None)).decode().astype(
        np.float64
    ) - as_matrix(raw)
    x = found.feed["x"].astype(np.float64)
    if node.op_type == "Gemm":
        return (x @ error.T).mean(0)
    a = {k: v.value for k, v in node.attributes.items()}
    n, _, kh, kw = raw.shape
    error = error.reshape(raw.shape.numpy()).transpose(0, 2, 3, 1).reshape(n, -1)
    units = 2.0**20  # loops.conv counts in integers
    sums = loops.conv(
        np.rint(x.transpose(0, 2, 3, 1) * units).astype(object),
        np.rint(error * units).astype(object),
        (kh, kw),
        tuple(a.get("strides", (1, 1))),
        tuple(a.get("pads", (0, 0, 0, 0))),
        (1, 1),
        a.get("group", 1),
    )
    return sums.mean((0, 1, 2)) / units**2


@EACH
def test_new_bias(case: tuple) -> None:
    found = net(case)
    model = run_passes(found.normalised, correct(found))
    old = "k" in case[1].split("z =")[0]
    before = constant(found.normalised.graph.initializers["k"]) if old else np.zeros(4)
    after = constant(model.graph.initializers["y_bias"])
    shift = mean_error(found)
    # f32 storage: 2^-24 of the bias. The loop's integers: 2^-21 of each factor, 36 taps, |x| < 5.
    limit = 2.0**-24 * np.abs(after) + 36 * 6 * 2.0**-21 * (case[0] != "float[b,16]") + 2.0**-40
    assert (np.abs(before - shift - after) <= limit).all()
    assert (np.abs(before - after) > limit).any()  # uncorrected fails


@EACH
def test_a_second_run_changes_nothing(case: tuple) -> None:
    found = net(case)
    model = run_passes(found.normalised, correct(found))
    before, each = lines_of(model), correct(found)
    assert not each(model).modified
    assert [r.reason for r in each.refusals] == ["corrected already"]
    assert lines_of(model) == before


def test_a_bias_of_two_convs_is_corrected_for_each() -> None:
    text = """f (float[b,4,6,6] x, float w, float u, float k) => (float[b,4,6,6] y)
    { c = Conv (x, w, k)   y = Conv (c, u, k) }"""
    found = staged(with_weights(text, w=(4, 4, 1, 1), u=(4, 4, 1, 1), k=(4,)), "w3a8", edge_bits=3)
    model = run_passes(found.normalised, correct(found))
    first, second = model.graph
    assert first.inputs[2].name == "c_bias"
    assert second.inputs[2].name == "y_bias"


@EACH
def test_left_alone_because_no_data(case: tuple) -> None:
    found = net(case, "w3a8-dynamic")
    each, model = correct(found), found.normalised.clone()
    before = lines_of(model)
    assert not each(model).modified
    assert [r.reason for r in each.refusals] == ["no calibration data"]
    assert lines_of(model) == before


def test_left_alone_because_no_bias() -> None:
    text = "f (float[b,4] x, float w) => (float[b,4] y) { y = MatMul (x, w) }"
    found = staged(with_weights(text, w=(4, 4)))
    each = correct(found)
    assert not each(found.normalised.clone()).modified
    assert [r.reason for r in each.refusals] == ["no bias"]


@pytest.mark.parametrize("order", [1, -1])
def test_a_conv_and_a_matmul_read_one_value(order: int) -> None:
    """The mean of a MatMul's rows comes from the map of the means that the Conv needs."""
    nodes = ["y = Conv (x, w, k)", "m = MatMul (x, v)   z = Add (m, k)"][::order]
    text = f"""f (float[b,4,6,8] x, float w, float v, float k)
    => (float[b,4,p,q] y, float[b,4,6,4] z) {{ {" ".join(nodes)} }}"""
    found = staged(with_weights(text, w=(4, 4, 3, 3), v=(8, 4), k=(4,)), "w3a8", edge_bits=3)
    product = next(n for n in found.normalised.graph if n.op_type == "MatMul")
    rows = found.feed["x"].reshape(-1, 8).mean(0, dtype=np.float64)
    each = correct(found)
    mean = each.match(product)
    assert isinstance(mean, np.ndarray)
    np.testing.assert_allclose(mean, rows, atol=2.0**-23 * 8)
    assert run_passes(found.normalised, each) and not each.refusals


def test_a_conv_of_one_pixel_keeps_no_rows() -> None:
    text = """f (float[b,4,1,1] x, float w, float v, float k)
    => (float[b,4,p,q] y, float[b,4,1,4] z)
    { y = Conv (x, w, k)   m = MatMul (x, v)   z = Add (m, k) }"""
    found = staged(with_weights(text, w=(4, 4, 1, 1), v=(1, 4), k=(4,)), "w3a8", edge_bits=3)
    product = next(n for n in found.normalised.graph if n.op_type == "MatMul")
    assert correct(found).match(product) == "a Conv reads its input, too"
