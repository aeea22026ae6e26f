# SPDX-License-Identifier: Apache-2.0
"""Gather of a quantized table becomes QGather."""

import numpy as np
import onnx_ir as ir
import pytest

from qcompile.pack import pack
from qcompile.passes import LOWER_CPU
from qcompile.passes.lower.lower_gather import LowerGather
from qcompile.passes.normalise.remove_unused import RemoveUnused
from qcompile.targets.cpu import CPU
from qcompile.verify_lowered import check_constants
from tests.passes.graphs import assert_left_alone
from tests.passes.stages import assert_lowered, find, ops, run_passes, staged, with_weights


@pytest.mark.parametrize("preset", ["w8a16", "w4a16", "w3a8-dynamic", "w1a16"])
@pytest.mark.parametrize("dtype", ["int64", "int32"])
@pytest.mark.parametrize("dims", ["b", "b,3"])
def test_lowered(preset: str, dtype: str, dims: str) -> None:
    text = f"f ({dtype}[{dims}] i, float w) => (float[{dims},40] y) {{ y = Gather (w, i) }}"
    found = staged(with_weights(text, w=(5, 40)), preset, edge_bits=1)
    lowered = run_passes(found.quantized, LowerGather(), RemoveUnused())
    assert ops(lowered) == ["Cast"] * (dtype == "int32") + ["QGather"]
    assert lowered.graph.outputs[0].name == "y"
    assert_lowered(found.quantized, lowered, found.feed)


def test_two_tables_of_the_same_int32_indices_have_casts_of_their_own() -> None:
    text = """f (int32[b] i, float w, float u) => (float[b,8] y)
    { p = Gather (w, i)   q = Gather (u, i)   y = Add (p, q) }"""
    found = staged(with_weights(text, w=(5, 8), u=(5, 8)), "w8a16")
    lowered = run_passes(found.quantized, LowerGather(), RemoveUnused())
    names = [v.name for n in lowered.graph for v in n.outputs]
    assert len(set(names)) == len(names)
    assert ops(lowered).count("QGather") == 2


def test_a_table_tied_to_the_head_is_stored_once() -> None:
    text = """f (int64[b] i, float w) => (float[b,5] y)
    { e = Gather (w, i)   t = Transpose <perm = [1, 0]> (w)   y = MatMul (e, t) }"""
    found = staged(with_weights(text, w=(5, 40)), "w4a16", edge_bits=4)
    codes = {
        v.name for v in found.quantized.graph.initializers.values() if v.name.endswith("_codes")
    }
    assert len(codes) == 1
    assert find(run_passes(found.quantized, LowerGather()), "QGather").inputs[1].name in codes


def test_a_table_tied_to_a_static_head_is_stored_once() -> None:
    text = """f (int64[b] i, float w) => (float[b,5] y)
    { e = Gather (w, i)   t = Transpose <perm = [1, 0]> (w)   y = MatMul (e, t) }"""
    found = staged(with_weights(text, w=(5, 40)), "w8a8")
    lowered = run_passes(found.quantized, *LOWER_CPU())
    gather, product = find(lowered, "QGather"), find(lowered, "QMatMul")
    assert gather.inputs[1] is product.inputs[1]
    assert check_constants(lowered, found.quantized).measured == 0
    scale = gather.inputs[2]
    scale.const_value = ir.tensor(scale.const_value.numpy() * np.float32(1.001))
    assert check_constants(lowered, found.quantized).worst == f"{gather.name} (scale)"
    lowered = run_passes(found.quantized, *LOWER_CPU())
    packed = pack(lowered, CPU)
    assert find(packed, "QGather").inputs[1] is find(packed, "QMatMul").inputs[1]
    assert_lowered(found.quantized, lowered, found.feed)


def test_a_tied_table_with_zero_points_has_them_and_its_scales() -> None:
    """A QGather of shared codes has a scale of rows, and no zero points."""
    text = """f (int64[b] i, float w) => (float[b,5] y)
    { e = Gather (w, i)   t = Transpose <perm = [1, 0]> (w)   y = MatMul (e, t) }"""
    found = staged(with_weights(text, w=(5, 40)), "w8a8", weight_format="uint8")
    lowered = run_passes(found.quantized, *LOWER_CPU())
    gather = find(lowered, "QGather")
    assert find(lowered, "QMatMul").attributes["has_zero_point"].value == 1
    assert gather.attributes["has_zero_point"].value == 1
    assert [v is not None for v in gather.inputs] == [True, True, False, False, True, True]
    assert_lowered(found.quantized, lowered, found.feed)


@pytest.mark.parametrize(
    "text",
    [
        "f (int64[2] i) => (float[2,2] y) <float[2,2] w = {1, 2, 3, 4}> { y = Gather (w, i) }",
        "f (float[4] x) => (float[1] y) <int64[1] i = {1}> { y = Gather (x, i) }",
    ],
    ids=["a float table", "activations"],
)
def test_left_alone(text: str) -> None:
    assert_left_alone(LowerGather(), text)
