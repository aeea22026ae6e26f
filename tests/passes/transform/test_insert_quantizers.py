# SPDX-License-Identifier: Apache-2.0
"""Activations become codes and come back."""

import numpy as np
import pytest

from qcompile.graph import constant
from qcompile.passes.transform.code_store import CodeStore
from qcompile.passes.transform.insert_quantizers import InsertQuantizers
from qcompile.passes.transform.round_weights import RoundWeights
from qcompile.step_tables import table_of_steps
from tests.passes.graphs import lines_of
from tests.passes.stages import Staged, ops, run_passes, staged, with_weights

TEXT = """f (float[b,4,6,6] x, float w, float u) => (float[b,4,6,6] y)
{ c = Conv (x, w)   r = Relu (c)   y = Conv (r, u) }"""
SHAPES = {"w": (4, 4, 1, 1), "u": (4, 4, 1, 1)}


def net(preset: str = "w8a8", text: str = TEXT) -> Staged:
    """Two Convs."""
    return staged(with_weights(text, **SHAPES), preset)


def test_a_pair_on_every_activation_of_the_plan() -> None:
    found = net()
    model = run_passes(found.normalised, InsertQuantizers(found.work))
    pair = ["QuantizeLinear", "DequantizeLinear"]
    assert ops(model) == [*pair, "Conv", "Relu", *pair, "Conv", *pair]  # none inside Conv and Relu
    assert sorted(found.plan.activations) == ["r", "x", "y"]
    for node in model.graph:
        if node.op_type == "QuantizeLinear":
            name = node.name.removesuffix("/quantize")
            params = found.work.params(name)
            assert float(constant(node.inputs[1])) == params.scale
            assert int(constant(node.inputs[2])) == params.zero_point


def test_outputs_keep_their_names() -> None:
    model = net().quantized
    assert [v.name for v in model.graph.inputs] == ["x"]
    assert [v.name for v in model.graph.outputs] == ["y"]
    assert model.graph.outputs[0].producer().op_type == "DequantizeLinear"


def test_an_input_that_is_an_output_stays_float() -> None:
    model = with_weights(
        "f (float[b,4] x, float w) => (float[b,4] y) { y = MatMul (x, w) }", w=(4, 4)
    )
    model.graph.outputs.append(model.graph.inputs[0])
    quantized = staged(model).quantized
    assert [v.name for v in quantized.graph.inputs] == ["x"]
    assert [v.name for v in quantized.graph.outputs] == ["y", "x"]
    assert quantized.graph.outputs[1] is quantized.graph.inputs[0]


def test_every_reader_reads_codes() -> None:
    text = TEXT.replace("y)", "y, float[b,4,6,6] z)").replace(
        "y = Conv (r, u)", "y = Conv (r, u) z = Neg (r)"
    )
    model = net(text=text).quantized
    neg = next(n for n in model.graph if n.op_type == "Neg")
    assert neg.inputs[0].producer().op_type == "DequantizeLinear"


def test_narrow_codes_are_clipped() -> None:
    model = net("w8a4").quantized
    clips = [n for n in model.graph if n.op_type == "Clip"]
    assert [int(constant(v)) for n in clips for v in n.inputs[1:]] == [0, 15] * 3


STREAM = """f (float[b,4,6,6] x, float w, float u) => (float[b,4,6,6] y)
{ c = Conv <pads = [1,1,1,1]> (x, w)   r = Relu (c)   d = Conv <pads = [1,1,1,1]> (r, u)
  y = Add (d, r) }"""


def test_products_read_a_narrow_copy_of_a_stream() -> None:
    found = staged(with_weights(STREAM, w=(4, 4, 3, 3), u=(4, 4, 3, 3)), "w8a4", widens=True)
    assert found.work.plan.copies == {"r_narrow": "r"}
    graph = found.quantized.graph
    add = next(n for n in graph if n.op_type == "Add")
    conv = add.inputs[0].producer().inputs[0].producer().inputs[0].producer()
    assert conv.op_type == "Conv"
    assert [v.name for v in add.inputs] == ["d_dequantized", "r_dequantized"]
    assert conv.inputs[0].name == "r_narrow_dequantized"
    copy = next(n for n in graph if n.name == "r_narrow/quantize")
    assert copy.inputs[0].name == "r_dequantized"  # codes of codes
    assert [n.name for n in graph if n.op_type == "Clip"] == ["x/clip", "r_narrow/clip"]
    lines = lines_of(found.quantized)
    assert not InsertQuantizers(found.work)(found.quantized).modified
    assert lines_of(found.quantized) == lines


def test_dynamic_products_of_one_value_share_the_pair() -> None:
    text = """f (float[b,8] x, float w, float u) => (float[b,4] y)
    { m = MatMul (x, w)   n = MatMul (x, u)   y = Add (m, n) }"""
    found = staged(with_weights(text, w=(8, 4), u=(8, 4)), "w8a8-dynamic")
    model = run_passes(found.normalised, InsertQuantizers(found.work))
    assert ops(model).count("Quantize") == 1
    first, second = [n for n in model.graph if n.op_type == "MatMul"]
    assert first.inputs[0] is second.inputs[0]


@pytest.mark.parametrize("preset", ["w8a8", "w8a4", "w8a8-dynamic"])
def test_a_second_run_changes_nothing(preset: str) -> None:
    found = net(preset)
    store = CodeStore(found.work)
    model = run_passes(
        found.normalised, RoundWeights(found.work, store), InsertQuantizers(found.work)
    )
    before = lines_of(model)
    assert not InsertQuantizers(found.work)(model).modified
    assert lines_of(model) == before


@pytest.mark.parametrize("preset", ["w8a16", "w4a16"])
def test_left_alone_because_activations_stay_float(preset: str) -> None:
    text = "f (float[b,8] x, float w) => (float[b,4] y) { y = MatMul (x, w) }"
    found = staged(with_weights(text, w=(8, 4)), preset)
    model = found.normalised.clone()
    before = lines_of(model)
    assert not InsertQuantizers(found.work)(model).modified
    assert lines_of(model) == before


def test_codes_say_their_spec() -> None:
    codes = [n.outputs[0] for n in net().quantized.graph if n.op_type == "QuantizeLinear"]
    specs = {v.metadata_props["qcompile.spec"] for v in codes}
    assert specs == {"uint8/tensor/asym/f32"}
    assert all(np.dtype(v.dtype.numpy()) == np.uint8 for v in codes)


def test_scales_of_time_steps_are_rows_of_a_table() -> None:
    """One zero point, and one bucket that all tables share; both nodes of a pair read one scale."""
    text = TEXT.replace("x, float w", "x, int64[b] t, float w")
    found = staged(with_weights(text, **SHAPES), timestep_input="t")
    model = run_passes(found.normalised, InsertQuantizers(found.work))
    nodes = [n for n in model.graph if n.op_type in ("QuantizeLinear", "DequantizeLinear")]
    tables = [table_of_steps(n.inputs[1]) for n in nodes]
    assert len(nodes) == 6 and found.plan.stepped == {"x", "r"}
    held = {n.name: t for n, t in zip(nodes, tables, strict=True)}
    for name in ("x", "r"):
        params = found.work.params(name)
        for part in ("quantize", "dequantize"):
            table = held[f"{name}/{part}"]
            assert table is not None
            np.testing.assert_array_equal(table.rows, params.steps)
    assert held["y/quantize"] is None  # it leaves the network
    assert len({t.index for t in tables if t is not None}) == 1
    assert found.plan.unstepped == {"y": "it leaves the network"}
