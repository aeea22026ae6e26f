# SPDX-License-Identifier: Apache-2.0
"""Which codes of narrow presets have 8 bits, and which products read a narrow copy."""

import pytest

from qcompile import targets
from qcompile.annotate import annotate
from qcompile.normalise import normalise
from qcompile.plan import Plan
from qcompile.recipe import Recipe
from tests.passes.stages import staged, with_weights

STREAM = """f (float[b,4,6,6] x, float w, float u, float v, float k) => (float[b,4,6,6] y)
{ c = Conv <pads = [1,1,1,1]> (x, w)   r = Relu (c)   d = Conv <pads = [1,1,1,1]> (r, u)
  s = Add (d, r)   e = Conv <pads = [1,1,1,1]> (s, v)   y = Conv <pads = [1,1,1,1]> (e, k) }"""
SHAPES = dict.fromkeys("wuvk", (4, 4, 3, 3))
CHAIN = """f (float[b,4,6,6] x, float w, float u, float v) => (float[b,4,6,6] y)
{ c = Conv (x, w)   r = Relu (c)   d = Conv (r, u)   p = MaxPool <kernel_shape = [1,1]> (d)
  y = Conv (p, v) }"""


def plan_of(text: str, preset: str, **asked) -> Plan:
    """The plan of a net with 4x4 weights."""
    names = [n for n in "wuvk" if f"float {n}" in text]
    shape = (4, 4, 3, 3) if text is STREAM else (4, 4, 1, 1)
    model = normalise(with_weights(text, **dict.fromkeys(names, shape)))
    recipe = Recipe(preset=preset, **asked)
    return annotate(model, recipe, targets.get("cpu"), has_data=True)


def bits(plan: Plan) -> dict[str, int]:
    return {name: spec.bits for name, spec in plan.activations.items()}


def test_sums_and_edges_are_wide_and_inner_products_read_copies() -> None:
    plan = plan_of(STREAM, "w4a4")
    # x and e go into the first and the last product, which have 8 bits; d is only added
    assert bits(plan) == {"x": 8, "r": 8, "d": 8, "s": 4, "e": 8, "r_narrow": 4}
    assert plan.copies == {"r_narrow": "r"}
    assert plan.leaders["r_narrow"] == "r_narrow"
    read = {p.node: p.activation.bits for p in plan.nodes.values()}
    assert sorted(read.values()) == [4, 4, 8, 8]
    assert any("8 bits" in note for note in plan.notes)


def test_weights_of_eight_bits_read_what_was_asked() -> None:
    plan = plan_of(STREAM, "w8a4")
    assert bits(plan) == {
        **{"x": 4, "r": 8, "d": 8, "s": 4, "e": 4},
        "r_narrow": 4,
    }
    integer = plan_of(STREAM, "w8a4", integer_only=True)
    assert set(bits(integer).values()) == {8}  # no kernel of 8-bit weights gains from 4


def test_integer_only_networks_have_the_same_copies() -> None:
    plan = plan_of(STREAM, "w4a4", integer_only=True)
    assert plan.copies == {"r_narrow": "r"}
    assert bits(plan) == bits(plan_of(STREAM, "w4a4"))


@pytest.mark.parametrize("preset", ["w8a8", "w4a8", "w8a8-dynamic"])
def test_other_presets_stay(preset: str) -> None:
    plan = plan_of(STREAM, preset)
    assert not plan.copies
    assert set(bits(plan).values()) <= {8}
    assert not any("--activation-format" in note for note in plan.notes)


def test_a_format_that_was_asked_for_stays() -> None:
    plan = plan_of(STREAM, "w4a4", activation_format="uint4")
    assert set(bits(plan).values()) == {4}
    assert not plan.copies


def test_codes_that_a_pool_keeps_stay_narrow() -> None:
    plan = plan_of(CHAIN, "w8a4")
    assert bits(plan) == {"x": 4, "r": 4, "d": 4, "p": 4}


def test_a_copy_has_statistics_of_its_own() -> None:
    found = staged(with_weights(STREAM, **SHAPES), "w4a4", widens=True)
    wide, narrow = (found.work.stats.ranges[name] for name in ("r", "r_narrow"))
    assert wide.format.bits == 8
    assert narrow.format.bits == 4
    largest = {
        name: (2**p.format.bits - 1 - p.zero_point) * p.scale
        for name, p in {"wide": wide, "narrow": narrow}.items()
    }
    assert largest["narrow"] < largest["wide"]  # mse clips four bits, minmax nothing
