# SPDX-License-Identifier: Apache-2.0
"""Which activations get a scale by time step, and what keeps the others at one."""

import pytest

from qcompile import targets
from qcompile.annotate import annotate
from qcompile.normalise import normalise
from qcompile.plan import Plan
from qcompile.recipe import Recipe
from tests.passes.stages import with_weights

SHAPES = {"w": (4, 4, 1, 1), "u": (4, 4, 1, 1), "v": (4, 4, 1, 1)}
HEAD = "f (float[b,4,6,6] x, int64[b] t, float w, float u, float v) => (float[b,4,6,6] y)"


def planned(body: str, preset: str = "w8a8") -> Plan:
    model = normalise(with_weights(f"{HEAD} {{ {body} }}", **SHAPES))
    recipe = Recipe(preset=preset, timestep_input="t")
    return annotate(model, recipe, targets.get("cpu"), has_data=True)


@pytest.mark.parametrize(
    ("body", "stepped", "unstepped"),
    [
        ("c = Conv (x, w)   r = Relu (c)   y = Conv (r, u)", {"x", "r"}, {}),
        (
            "c = Conv (x, w)   g = Sigmoid (c)   s = Mul (c, g)   y = Conv (s, u)",
            {"x", "c", "s"},
            {},
        ),
        (
            "c = Conv (x, w)   a = Transpose <perm = [0,1,3,2]> (c)   y = Conv (a, u)",
            {"x", "c", "a"},
            {},
        ),
        (
            "c = Conv (x, w)   s = Add (c, x)   r = Relu (s)   y = Conv (r, u)",
            set(),
            {
                "x": "Add reads it, whose scale is an attribute",
                "c": "Add reads it, whose scale is an attribute",
                "r": "Add writes it, whose scale is an attribute",
            },
        ),
        (
            "c = Conv (x, w)   p = MaxPool <kernel_shape = [1,1]> (c)   y = Conv (p, u)",
            {"x"},
            {
                "c": "MaxPool reads it, whose scale is an attribute",
                "p": "MaxPool writes it, whose scale is an attribute",
            },
        ),
        (
            "c = Conv (x, w)   a = Transpose <perm = [0,1,3,2]> (c)   d = Conv (a, u) "
            "s = Add (a, d)   y = Conv (s, v)",
            {"x"},
            {
                "c": "it shares its scale with a: Add reads it, whose scale is an attribute",
                "a": "Add reads it, whose scale is an attribute",
                "d": "Add reads it, whose scale is an attribute",
                "s": "Add writes it, whose scale is an attribute",
            },
        ),
        ("n = Mul (x, x)   m = ReduceMax (n)   f = Div (x, m)   y = Conv (f, u)", {"f"}, {}),
    ],
)
def test_reasons(body: str, stepped: set[str], unstepped: dict[str, str]) -> None:
    plan = planned(body)
    assert plan.stepped == stepped
    assert plan.unstepped == unstepped


def test_narrow_copies_of_a_sum_have_them() -> None:
    """Below 8 bits a product reads codes of the codes of a sum, which a table makes."""
    plan = planned("c = Conv (x, w)   s = Add (c, x)   y = Conv (s, u)", "w4a4")
    assert plan.stepped == {n for n in plan.activations if n.endswith("_narrow")}


def test_notes_name_them() -> None:
    plan = planned("c = Conv (x, w)   s = Add (c, x)   y = Conv (s, u)")
    assert plan.notes[-3:-1] == (
        "0 of 3 activations have a scale for each of up to 16 buckets of the time step t, of a run "
        "that of its first sample; the others keep one (--why VALUE says why)",
        "one scale for all time steps: x, c: Add reads it, whose scale is an attribute",
    )
