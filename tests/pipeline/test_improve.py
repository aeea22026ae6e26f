# SPDX-License-Identifier: Apache-2.0
"""Descent or rebuilt layers: which of two networks goes on."""

from dataclasses import replace

import onnx_ir as ir
import pytest

from qcompile import improve as module
from qcompile.improve import OTHER, Changes, improve
from qcompile.tuned import Tuned
from qcompile.verify_tuned import check_tuned
from tests.pipeline.test_tune import Net


@pytest.fixture(scope="module")
def net() -> Net:
    return Net("w3a8")


def improved(net: Net, **recipe) -> Changes:
    asked = replace(net.recipe, **recipe)
    return improve(net.quantized, net.model, net.plan, asked, net.data, net.division)


class Ways:
    """In place of reconstruct and tune: what they give by the word of the recipe, and the calls."""

    def __init__(
        self, monkeypatch, net: Net, *, first_gains: bool, ratio: float, products: float = 1e11
    ) -> None:
        self.words: list[str | None] = []
        self.other = net.quantized.clone()
        held = net.data.first(2).feeds

        def rebuild(model: ir.Model, normalised, plan, recipe, *_) -> Tuned:
            self.words.append(recipe.weight_rounding)
            return Tuned(self.other, "rebuilt", held) if recipe.weight_rounding else Tuned(model)

        def tune(model: ir.Model, normalised, plan, recipe, *_) -> Tuned:
            if recipe.weight_rounding is None and first_gains:
                return Tuned(model, "tuned", held, products=products)
            return Tuned(model, "not tuned", products=products)

        monkeypatch.setattr(module, "reconstruct", rebuild)
        monkeypatch.setattr(module, "tune", tune)
        monkeypatch.setattr(module, "outputs_ratio", lambda *_: ratio)


@pytest.mark.parametrize(
    ("recipe", "first_gains", "products", "words"),
    [
        ({}, True, 1e11, [None]),
        ({}, True, 9e10, [None, OTHER]),
        ({}, False, 1e11, [None, OTHER]),
        ({}, False, 0, [None]),
        ({"effort": "best"}, True, 1e12, [None, OTHER]),
        ({"weight_rounding": "descent"}, False, 9e10, ["descent"]),
    ],
)
def test_when_the_other_way_is_tried(
    net: Net,
    monkeypatch,
    recipe: dict[str, str],
    first_gains: bool,
    products: float,
    words: list[str | None],
) -> None:
    ways = Ways(monkeypatch, net, first_gains=first_gains, ratio=0.5, products=products)
    rebuilt, tuned = improved(net, **recipe)
    assert ways.words == words
    assert (tuned.model is ways.other) == (len(words) == 2 or bool(recipe.get("weight_rounding")))
    assert rebuilt.is_tuned == (tuned.model is ways.other)


@pytest.mark.parametrize("ratio", [1.0, 2.0, float("nan"), None])
def test_a_network_that_is_no_better_is_not_taken(net: Net, monkeypatch, ratio) -> None:
    Ways(monkeypatch, net, first_gains=False, ratio=ratio)
    rebuilt, tuned = improved(net)
    assert tuned.model is net.quantized and not rebuilt.is_tuned
    assert tuned.note == "not tuned; sequential rounding is no better"


@pytest.mark.slow
def test_the_better_network_is_verified(net: Net) -> None:
    """Both ways as they are."""
    rebuilt, tuned = improved(net, effort="best")
    assert rebuilt.is_tuned or tuned.is_tuned
    checks = [
        *check_tuned(net.model, net.quantized, rebuilt, net.division),
        *check_tuned(net.model, rebuilt.model, tuned, net.division),
    ]
    assert checks and all(check.passed for check in checks)
