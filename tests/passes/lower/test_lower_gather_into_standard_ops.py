# SPDX-License-Identifier: Apache-2.0
"""Target ort: Gather of a quantized table unpacks the rows that MatMulNBits packs."""

import numpy as np
import pytest

from qcompile.numerics.gather import qgather
from qcompile.observers.weight_range import code_weight
from qcompile.passes import LOWER_ORT
from qcompile.passes.lower.lower_gather_into_standard_ops import LowerGatherIntoStandardOps
from qcompile.passes.lower.qdq import weight_codes_of
from qcompile.passes.normalise.remove_unused import RemoveUnused
from qcompile.passes.transform.code_store import scale_method
from tests.passes.graphs import assert_left_alone, run
from tests.passes.stages import find, run_passes, staged, with_weights


@pytest.mark.parametrize("preset", ["w8a16", "w4a16", "w2a16"])
@pytest.mark.parametrize("dtype", ["int64", "int32"])
@pytest.mark.parametrize("k", [32, 40, 70])
@pytest.mark.parametrize("dims", ["b", "b,3"])
def test_rows(preset: str, dtype: str, k: int, dims: str) -> None:
    text = f"f ({dtype}[{dims}] i, float w) => (float[{dims},{k}] y) {{ y = Gather (w, i) }}"
    model = with_weights(text, w=(5, k))
    raw = model.graph.initializers["w"].const_value.numpy()
    found = staged(model, preset, "ort", edge_bits=1)
    spec = weight_codes_of(find(found.quantized, "Gather").inputs[0]).spec
    lowered = run_passes(found.quantized, LowerGatherIntoStandardOps(), RemoveUnused())
    assert all(n.domain == "" for n in lowered.graph)
    method = scale_method(spec, found.work.recipe.weight_scale_method)
    weight = code_weight(raw, spec, method)
    (got,) = run(lowered, found.feed)
    assert np.array_equal(got, qgather(weight, found.feed["i"]))  # one rounding (N23)
    assert not np.array_equal(got, qgather(weight, found.feed["i"] - 1))


def test_a_tied_head_shares_the_bytes() -> None:
    text = """f (int64[b] i, float w) => (float[b,5] y)
    { e = Gather (w, i)   t = Transpose <perm = [1, 0]> (w)   y = MatMul (e, t) }"""
    found = staged(with_weights(text, w=(5, 64)), "w4a16", "ort", edge_bits=4)
    lowered = run_passes(found.quantized, *LOWER_ORT())
    table = next(n for n in lowered.graph if n.op_type == "Gather").inputs[0]
    assert find(lowered, "MatMulNBits").inputs[1] is table
    assert run(lowered, found.feed)[0].shape == (4, 5)


@pytest.mark.parametrize(
    "text",
    [
        "f (int64[2] i) => (float[2,2] y) <float[2,2] w = {1, 2, 3, 4}> { y = Gather (w, i) }",
        "f (float[4] x) => (float[1] y) <int64[1] i = {1}> { y = Gather (x, i) }",
    ],
    ids=["a float table", "activations"],
)
def test_left_alone(text: str) -> None:
    assert_left_alone(LowerGatherIntoStandardOps(), text)
