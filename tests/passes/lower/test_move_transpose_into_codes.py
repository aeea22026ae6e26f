# SPDX-License-Identifier: Apache-2.0
"""Target ort: a static MatMul reads transposed codes."""

import numpy as np
import pytest

from qcompile.graph import attribute
from qcompile.passes.lower.move_transpose_into_codes import MoveTransposeIntoCodes
from qcompile.passes.normalise.remove_unused import RemoveUnused
from tests.passes.graphs import lines_of, run
from tests.passes.stages import find, ops, run_passes, staged, with_weights

TEXT = """f (float[b,8] x, float w, float k) => (float[b,6] y)
{ m = MatMul (x, w)   y = Add (k, m) }"""


def net(preset: str, seed: int = 0):  # type: ignore[no-untyped-def]
    """One MatMul with its bias first."""
    return staged(with_weights(TEXT, seed, w=(8, 6), k=(6,)), preset, "ort", edge_bits=1)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_moved(seed: int) -> None:
    found = net("w8a8", seed)
    lowered = run_passes(found.quantized, MoveTransposeIntoCodes(), RemoveUnused())
    assert "Transpose" in ops(found.quantized)
    assert "Transpose" not in ops(lowered)
    back = find(lowered, "MatMul").inputs[1].producer()
    assert attribute(back, "axis") == 1
    assert np.array_equal(run(found.quantized, found.feed)[0], run(lowered, found.feed)[0])


def test_a_second_run_changes_nothing() -> None:
    model = run_passes(net("w8a8").quantized, MoveTransposeIntoCodes(), RemoveUnused())
    before = lines_of(model)
    assert not MoveTransposeIntoCodes()(model).modified
    assert lines_of(model) == before


def test_a_weight_of_two_products_is_transposed_once() -> None:
    text = "f (float[b,8] x, float w) => (float[b,8] y) { m = MatMul (x, w)   y = MatMul (m, w) }"
    found = staged(with_weights(text, w=(8, 8)), "w8a8", "ort")
    lowered = run_passes(found.quantized, MoveTransposeIntoCodes(), RemoveUnused())
    first, second = [n.inputs[1].producer() for n in lowered.graph if n.op_type == "MatMul"]
    assert first.inputs[0] is second.inputs[0]
    assert np.array_equal(run(found.quantized, found.feed)[0], run(lowered, found.feed)[0])


@pytest.mark.parametrize("preset", ["w8a8-dynamic", "w8a16"])
def test_left_alone_because_activations_are_not_static(preset: str) -> None:
    model, each = net(preset).quantized.clone(), MoveTransposeIntoCodes()
    before = lines_of(model)
    assert not each(model).modified
    assert each.refusals == []
    assert lines_of(model) == before


def test_left_alone_because_of_blocks() -> None:
    model, each = net("w4a16").quantized.clone(), MoveTransposeIntoCodes()
    static = net("w8a8").quantized
    matmul, other = find(model, "MatMul"), find(static, "MatMul")
    matmul.replace_input_with(0, other.inputs[0])
    assert not each(model).modified
    assert [r.reason for r in each.refusals] == ["its weight has block scales"]
