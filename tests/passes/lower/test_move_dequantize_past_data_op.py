# SPDX-License-Identifier: Apache-2.0
"""Ops that only move data move codes."""

import numpy as np
import pytest

from qcompile.graph import constant, input_of
from qcompile.passes.lower.lower_matmul import LowerMatmul
from qcompile.passes.lower.move_dequantize_past_data_op import MoveDequantizePastDataOp
from qcompile.passes.normalise.remove_unused import RemoveUnused
from tests.passes.graphs import assert_left_alone, assert_rewritten, parse
from tests.passes.stages import assert_lowered, ops, run_passes, staged, with_weights

CONSTANTS = (
    "<float s = {0.5}, float t = {0.25}, uint8 p = {8}, uint8 lo = {0}, uint8 hi = {15}, "
    "int64[1] flat = {6}, int64[1] one = {1}, int64[1] two = {2}, int64[4] pads = {0, 1, 2, 0}>"
)
MOVES = {
    "reshape": ("Reshape", "flat", "6"),
    "flatten": ("Flatten <axis = 1>", "", "2,3"),
    "transpose": ("Transpose <perm = [1, 0]>", "", "3,2"),
    "slice": ("Slice", "one, two, one", "2,1"),
    "unsqueeze": ("Unsqueeze", "one", "2,1,3"),
}


def net(body: str, outputs: str) -> str:
    """A graph on codes a."""
    return f"f (uint8[2,3] a) => ({outputs}) {CONSTANTS} {{ {body} }}"


@pytest.mark.parametrize(("op", "more", "shape"), MOVES.values(), ids=MOVES)
@pytest.mark.parametrize("clip", [False, True])
def test_moved(op: str, more: str, shape: str, clip: bool) -> None:
    inputs = ", ".join(filter(None, ["x", more]))
    end = "w = QuantizeLinear (m, s, p)   y = Clip (w, lo, hi)"
    body = f"x = DequantizeLinear (a, s, p)   m = {op} ({inputs})   " + (
        end if clip else "y = QuantizeLinear (m, s, p)"
    )
    after = net(f"y = {op} ({inputs.replace('x', 'a', 1)})", f"uint8[{shape}] y")
    model = parse(after)
    RemoveUnused()(model)
    used = {v.name for n in model.graph for v in n.inputs} - {"a"}
    kept = [c for c in CONSTANTS[1:-1].split(", ") if c.split(" =")[0].split()[-1] in used]
    shown = after.replace(CONSTANTS, f"<{', '.join(kept)}>" if kept else "")
    assert_rewritten(
        MoveDequantizePastDataOp(), net(body, f"uint8[{shape}] y"), shown, is_runnable=not clip
    )


def test_pad_writes_the_zero_point() -> None:
    body = "x = DequantizeLinear (a, s, p) m = Pad (x, pads) y = QuantizeLinear (m, s, p)"
    model = parse(net(body, "uint8[4,4] y"))
    assert MoveDequantizePastDataOp()(model).modified
    RemoveUnused()(model)
    (pad,) = model.graph
    assert constant(input_of(pad, 2)).tolist() == 8
    assert constant(input_of(pad, 2)).dtype == np.uint8


@pytest.mark.parametrize(
    ("body", "outputs", "reason"),
    [
        (
            "x = DequantizeLinear (a, s, p)   y = Reshape (x, flat)",
            "float[6] y",
            "its output does not become codes",
        ),
        (
            "x = DequantizeLinear (a, s, p)   m = Reshape (x, flat)   y = QuantizeLinear (m, t, p)",
            "uint8[6] y",
            "its output has another scale than its input",
        ),
        (
            "x = DequantizeLinear (a, s, p)   m = Reshape (x, flat)   "
            "y = QuantizeLinear (m, s, lo)",
            "uint8[6] y",
            "its output has another scale than its input",
        ),
        (
            "x = DequantizeLinear (a, s, p)   m = Reshape (x, flat)   r = Relu (m)   "
            "y = QuantizeLinear (r, s, p)",
            "uint8[6] y",
            "Relu stands between it and its codes",
        ),
        ("y = Reshape (a, flat)", "uint8[6] y", None),
    ],
    ids=["float output", "scale", "zero point", "relu", "no codes"],
)
def test_left_alone(body: str, outputs: str, reason: str | None) -> None:
    assert_left_alone(MoveDequantizePastDataOp(), net(body, outputs), reason)


@pytest.mark.parametrize("preset", ["w8a8", "w4a4"])
def test_between_two_products(preset: str) -> None:
    text = """f (float[b,2,8] x, float w, float u) => (float[b,6] y)
    <int64[2] flat = {0, -1}, int64[1] i = {1}, int64[1] j = {5}, int64[1] axis = {2},
     int64[6] pads = {0, 0, 1, 0, 0, 1}>
    { m = MatMul (x, w)   p = Pad (m, pads)   c = Slice (p, i, j, axis)
      r = Reshape (c, flat)   y = MatMul (r, u) }"""
    for seed in (0, 1, 2):
        found = staged(with_weights(text, seed, w=(8, 6), u=(8, 6)), preset)
        lowered = run_passes(
            found.quantized, LowerMatmul(), MoveDequantizePastDataOp(), RemoveUnused()
        )
        clip = ["Clip"] * (preset == "w4a4")
        assert ops(lowered) == [
            *("QuantizeLinear", *clip, "QMatMul", "Pad", "Slice", "Reshape", "QMatMul"),
            "DequantizeLinear",
        ]
        assert_lowered(found.quantized, lowered, found.feed, at_least=5)


def test_moved_where_the_time_step_chooses_the_scale() -> None:
    text = (
        "f (float[b,4,6] x, int64[b] t, float w, float u) => (float[b,12,4] y) "
        "{ h = MatMul (x, w)   a = Transpose <perm = [0,2,1]> (h)   y = MatMul (a, u) }"
    )
    found = staged(with_weights(text, w=(6, 12), u=(4, 4)), timestep_input="t", gives_floats=True)
    lowered = run_passes(found.quantized, LowerMatmul(), MoveDequantizePastDataOp(), RemoveUnused())
    kept = [op for op in ops(lowered) if op not in ("Gather", "Cast", "Reshape", "Clip")]
    assert kept == ["QuantizeLinear", "QMatMul", "Transpose", "QMatMul"]
    assert_lowered(found.quantized, lowered, found.feed)
