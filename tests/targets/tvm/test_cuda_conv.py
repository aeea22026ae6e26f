# SPDX-License-Identifier: Apache-2.0
"""Convolutions on tensor cores: the generated CUDA source, lane by lane, equals numerics."""

import re
from collections.abc import Iterable

import numpy as np
import pytest

from qcompile.integer_graph import CodeMap, Conv, IntegerGraph
from qcompile.numerics.conv import Window
from qcompile.numerics.dyadic import as_operand
from qcompile.numerics.requantize import Dyadic
from qcompile.targets.tvm import words
from qcompile.targets.tvm.cuda_build import source_of
from qcompile.targets.tvm.cuda_emulator import EmulationError
from qcompile.targets.tvm.cuda_plan import plan
from qcompile.targets.tvm.emulated import EmulatedPlan
from qcompile.targets.tvm.plan import Plan
from qcompile.targets.tvm.tile import Tile
from tests.targets.tvm.nets import codes_of, conv, window

SMALL = Tile(1, 1, 1, 1, 4)
# Every value of every knob, ragged against the maps below.
TILES = [
    SMALL,
    Tile(1, 2, 1, 2, 8),
    Tile(2, 1, 2, 1, 16),
    Tile(2, 2, 1, 1, 32),
    Tile(1, 4, 4, 2, 4),
    Tile(4, 1, 1, 4, 8),
    Tile(1, 1, 2, 8, 16),
    Tile(2, 2, 8, 1, 8),
]


def plan_of(convs: Iterable[Conv], batch: int, tile: Tile) -> Plan:
    convs = tuple(convs)
    return plan(IntegerGraph(convs[0].x, convs, batch), lambda node, count: tile)


def differences(made: Plan, source: str | None = None) -> dict[str, int]:
    """Codes that differ from numerics by map, with threads run forward and backward."""
    graph = made.graph
    codes = codes_of(np.random.default_rng(1), graph.input, graph.batch)
    emulated = EmulatedPlan(made, source)
    expected = graph.run(codes)
    counts = dict.fromkeys((node.y.name for node in graph.nodes), 0)
    for is_backward in (False, True):
        found = emulated.codes(emulated.run(codes, is_backward=is_backward))
        for name in counts:
            assert len(np.unique(expected[name])) > 3, "the test must see a range"
            counts[name] += int((found[name] != expected[name]).sum())
    return counts


@pytest.mark.parametrize("tile", TILES, ids=str)
def test_every_knob(tile: Tile) -> None:
    rng = np.random.default_rng(0)
    x = CodeMap("x", (5, 7, 20), 8, False, 9)
    made = plan_of([conv(rng, x, "y", 13, window(3), zero_point=4)], 3, tile)
    assert differences(made) == {"y": 0}


def kinds_of_codes(bits: int) -> list[Conv]:
    rng = np.random.default_rng(bits)
    # 32 channels are whole vectors of words at both widths.
    x = CodeMap("x", (4, 5, 32), bits, False, 0 if bits == 4 else 200)
    y_zero = 7 if bits == 4 else 100
    residual = CodeMap("r", (4, 5, 9), bits, False, 3)
    made = [
        conv(rng, x, "r", 9, window(3), bits=bits, zero_point=3),
        conv(rng, x, "signed", 9, window(1), bits=bits, is_signed=True, zero_point=-2),
        conv(rng, x, "other", 9, window(1), bits=12 - bits, zero_point=1),
        conv(rng, x, "sums", 9, window(3), bits=32),
        conv(rng, x, "clipped", 9, window(1), bits=bits, zero_point=1, clip=(1, 12)),
        conv(
            rng,
            x,
            "residual",
            9,
            window(3),
            bits=bits,
            zero_point=y_zero,
            residual=residual,
        ),
    ]
    return made if bits == 4 else [*made, conv(rng, x, "w4", 9, window(3), weight_bits=4)]


@pytest.mark.parametrize("bits", [4, 8])
def test_every_kind_of_code(bits: int) -> None:
    made = plan_of(kinds_of_codes(bits), 2, Tile(1, 2, 2, 1, 8))
    found = differences(made)
    assert found == dict.fromkeys(found, 0)


@pytest.mark.parametrize("bits", [4, 8])
def test_signed_activations(bits: int) -> None:
    rng = np.random.default_rng(bits)
    x = CodeMap("x", (4, 5, 16), bits, True, -3)
    made = plan_of([conv(rng, x, "y", 8, window(3), is_signed=True)], 2, SMALL)
    assert differences(made) == {"y": 0}


def windows() -> list[Window]:
    return [
        window(1, 2),
        window(3, 2),
        window(7, 2),
        window(2, 2, 0),
        window(5, 1, 1),
        Window((1, 3), (1, 2), (0, 1, 0, 0)),
        Window((3, 2), (2, 1), (2, 0, 0, 1)),
        Window((9, 8)),  # dense over a whole map
    ]


@pytest.mark.parametrize("channels", [1, 3, 17])
def test_every_window(channels: int) -> None:
    rng = np.random.default_rng(channels)
    x = CodeMap("x", (9, 8, channels), 8, False, 77)
    made = [conv(rng, x, f"y{i}", 10, w) for i, w in enumerate(windows())]
    # One output pixel a sample would go to the thin kernel: nine samples do not.
    found = differences(plan_of(made, 9, Tile(1, 1, 2, 2, 8)))
    assert found == dict.fromkeys(found, 0)


@pytest.mark.parametrize("bits", [4, 8])
def test_ragged_outputs(bits: int) -> None:
    rng = np.random.default_rng(0)
    x = CodeMap("x", (3, 11, 5), bits, False, 1)
    middle = 1 << (bits - 1)
    sizes = (1, 7, 8, 9, 31)
    made = [conv(rng, x, f"y{N}", N, window(1), bits=bits, zero_point=middle) for N in sizes]
    found = differences(plan_of(made, 1, Tile(1, 1, 1, 2, 4)))
    assert found == dict.fromkeys(found, 0)


def test_extreme_codes_and_weights_meet_no_overflow() -> None:
    """All codes 255 and weights −128, and the largest sums that the graph allows."""
    x, y = CodeMap("x", (4, 4, 64), 8), CodeMap("y", (4, 4, 8), 32)
    weight = np.full((8, 3, 3, 64), -128, np.int8)
    bias = np.full(8, -(2**31 - 1) + 9 * 64 * 128 * 255, np.int32)
    one = Dyadic(*as_operand([1.0]))
    node = Conv(x, y, weight, bias, one, window(3))
    emulated = EmulatedPlan(plan_of([node], 1, SMALL))
    codes = np.full((1, 4, 4, 64), 255)
    found = emulated.codes(emulated.run(codes))["y"]
    np.testing.assert_array_equal(found, node.run(codes))
    assert found.min() == -(2**31 - 1)


# Twins: what must fail. Each breaks the generated source or the data in one place.
BROKEN = {
    "a barrier": (r"__syncthreads\(\);(?!.*__syncthreads\(\);.*__syncthreads)", ""),
    "the first barrier": (r"__syncthreads\(\);", ""),
    "the column of a lane": (r"\{%0,%1\}, \{%2\}", "{%1,%0}, {%2}"),
    "the operands": (r"\{%2\}, \{%3\}", "{%3}, {%2}"),
    "the sign of the codes": (r"s32\.u8\.s8", "s32.s8.s8"),
    "the rounding": (r"\(int64_t\)1 <<", "(int64_t)0 <<"),
    "the padding": (r"= 151587081;", "= 0;"),
}


def twin() -> Plan:
    rng = np.random.default_rng(0)
    x = CodeMap("x", (5, 7, 20), 8, False, 9)
    return plan_of([conv(rng, x, "y", 13, window(3), zero_point=4)], 3, Tile(2, 1, 1, 2, 8))


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_kernel_is_found(what: str) -> None:
    made = twin()
    source = source_of(made)
    pattern, replacement = BROKEN[what]
    start = source.index("conv_0_kernel", source.index("conv_0_kernel") + 1)
    kernel = source[:start] if "{%" in pattern or "s32" in pattern else source[start:]
    broken, count = re.subn(pattern, replacement, kernel, count=0 if "%" in pattern else 1)
    assert count, "the source no longer holds what the twin breaks"
    text = broken + source[start:] if kernel == source[:start] else source[:start] + broken
    try:
        found = differences(made, text)["y"]
    except EmulationError:
        return
    assert found > 0


def test_a_wrong_word_order_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights packed from the highest code down do not meet their activations."""
    pack = words.pack
    monkeypatch.setattr(
        "qcompile.targets.tvm.cuda_conv.words.pack",
        lambda codes, bits: pack(codes[..., ::-1], bits),
    )
    made = twin()
    monkeypatch.undo()
    assert differences(made)["y"] > 0


def test_the_table_of_another_channel_is_found() -> None:
    made = twin()
    (table,) = (dict(step.arguments)["channels"] for step in made.steps if "conv" in step.name)
    table[0] = np.roll(table[0], 1)
    assert differences(made)["y"] > 0
