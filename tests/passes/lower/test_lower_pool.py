# SPDX-License-Identifier: Apache-2.0
"""Pools of quantized maps become QPool."""

import pytest

from qcompile.graph import attribute
from qcompile.passes import LOWER_CPU
from qcompile.passes.lower.lower_conv import LowerConv
from qcompile.passes.lower.lower_pool import LowerPool
from qcompile.passes.normalise.remove_unused import RemoveUnused
from tests.passes.graphs import assert_left_alone
from tests.passes.stages import assert_lowered, find, ops, run_passes, staged, with_weights

POOLS = {
    "max": ("MaxPool <kernel_shape = [2,2], strides = [2,2]>", "max"),
    "padded max": ("MaxPool <kernel_shape = [3,3], pads = [1,1,1,1]>", "max"),
    "average": ("AveragePool <kernel_shape = [2,3], strides = [1,2]>", "average"),
    "padded average": ("AveragePool <kernel_shape = [3,3], pads = [1,0,1,2]>", "average"),
    "average with pads": (
        "AveragePool <kernel_shape = [3,3], pads = [1,1,1,1], count_include_pad = 1>",
        "average",
    ),
    "global": ("GlobalAveragePool", "average"),
    "global max": ("GlobalMaxPool", "max"),
    "ceil max": ("MaxPool <kernel_shape = [3,2], strides = [2,4], ceil_mode = 1>", "max"),
    "padded ceil max": (
        "MaxPool <kernel_shape = [2,2], strides = [3,3], pads = [1,1,1,1], ceil_mode = 1>",
        "max",
    ),
    "ceil average": (
        "AveragePool <kernel_shape = [3,2], strides = [2,3], pads = [1,0,1,0], ceil_mode = 1>",
        "average",
    ),
    "dilated max": ("MaxPool <kernel_shape = [2,3], dilations = [3,2]>", "max"),
    "mean": ("ReduceMean <axes = [2,3]>", "average"),
    "mean from behind": ("ReduceMean <axes = [-1,-2], keepdims = 1>", "average"),
}


@pytest.mark.parametrize("preset", ["w8a8", "w4a4"])
@pytest.mark.parametrize(("pool", "mode"), POOLS.values(), ids=POOLS)
def test_lowered(pool: str, mode: str, preset: str) -> None:
    text = f"""f (float[b,4,6,6] x, float w) => (float[b,4,h,v] y)
    {{ c = Conv (x, w)   y = {pool} (c) }}"""
    for seed in (0, 1, 2):
        found = staged(with_weights(text, seed, w=(4, 4, 1, 1)), preset)
        lowered = run_passes(found.quantized, LowerConv(), LowerPool(), RemoveUnused())
        assert attribute(find(lowered, "QPool"), "mode") == mode
        assert attribute(find(lowered, "QPool"), "kernel_shape") is not None
        assert_lowered(found.quantized, lowered, found.feed, at_least=2)


@pytest.mark.parametrize("preset", ["w8a8", "w4a4"])
def test_a_mean_that_drops_its_axes(preset: str) -> None:
    text = """f (float[b,4,6,6] x, float w, float u) => (float[b,3] y)
    { c = Conv (x, w)   m = ReduceMean <axes = [2,3], keepdims = 0> (c)   y = MatMul (m, u) }"""
    found = staged(with_weights(text, w=(4, 4, 1, 1), u=(4, 3)), preset)
    lowered = run_passes(found.quantized, *LOWER_CPU())
    clip = ["Clip"] * (preset == "w4a4")
    assert ops(lowered) == [
        *("QuantizeLinear", *clip, "Transpose", "QConv", "QPool", "Reshape", "QMatMul"),
        "DequantizeLinear",
    ]
    assert_lowered(found.quantized, lowered, found.feed, at_least=3)


CONSTANTS = "<float s = {0.5}, float t = {0.25}, uint8 p = {8}>"


@pytest.mark.parametrize(
    ("body", "outputs", "reason"),
    [
        (
            "x = DequantizeLinear (a, s, p)   y = GlobalAveragePool (x)",
            "float[1,2,1,1] y",
            "its output does not become codes",
        ),
        (
            "x = DequantizeLinear (a, s, p)   m = MaxPool <kernel_shape = [2,2]> (x)   "
            "y = QuantizeLinear (m, t, p)",
            "uint8[1,2,1,1] y",
            "its output has another scale than its input",
        ),
        (
            "x = DequantizeLinear (a, s, p)   m = AveragePool <kernel_shape = [2,2], "
            "ceil_mode = 1, count_include_pad = 1> (x)   y = QuantizeLinear (m, t, p)",
            "uint8[1,2,1,1] y",
            "AveragePool: ceil_mode with count_include_pad",
        ),
        (
            "x = DequantizeLinear (a, s, p)   m = ReduceMean <axes = [1]> (x)   "
            "y = QuantizeLinear (m, t, p)",
            "uint8[1,1,2,2] y",
            "ReduceMean: only over height and width, not [1]",
        ),
        ("x = Cast <to = 1> (a)   y = GlobalAveragePool (x)", "float[1,2,1,1] y", None),
    ],
    ids=["float output", "another scale", "ceil and pads", "channels", "float input"],
)
def test_left_alone(body: str, outputs: str, reason: str | None) -> None:
    text = f"f (uint8[1,2,2,2] a) => ({outputs}) {CONSTANTS} {{ {body} }}"
    assert_left_alone(LowerPool(), text, reason)
