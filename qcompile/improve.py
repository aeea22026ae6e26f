# SPDX-License-Identifier: Apache-2.0
"""improve: which of the ways to better a quantized network is taken.

As a rule the network is tuned (tune.py) as descent left it. Where the steps gain nothing or take
some seconds, and always with `--effort best`, its layers are rebuilt (reconstruct.py, `sequential`)
and tuned, too; of both networks the one with the smaller loss on held-out samples is taken. A
recipe that names its `weight_rounding` gets that one alone.
"""

from dataclasses import dataclass, replace

import onnx_ir as ir

from qcompile.data import Data
from qcompile.division import Division
from qcompile.layer_cache import LayerCache
from qcompile.plan import Plan
from qcompile.progress import Progress
from qcompile.recipe import Recipe
from qcompile.reconstruct import reconstruct
from qcompile.tune import tune
from qcompile.tuned import Tuned, outputs_ratio

OTHER = "sequential"
_FEW_PRODUCTS = 1e11  # of all steps: some 10 s of one core
Changes = tuple[Tuned, Tuned]  # by reconstruct, and by tune on top of it


def improve(
    quantized: ir.Model,
    normalised: ir.Model,
    plan: Plan,
    recipe: Recipe,
    data: Data | None,
    division: Division,
    layers: LayerCache | None = None,
    progress: Progress | None = None,
) -> Changes:
    """What reconstruct and tune made of the QDQ graph; the model of the second one goes on."""
    ways = _Ways(quantized, normalised, plan, data, division, layers, progress or Progress())
    first = ways.take(recipe)
    rebuilt, tuned = first
    if recipe.weight_rounding is not None or not _is_worth_more(tuned, recipe):
        return first
    other = ways.take(replace(recipe, weight_rounding=OTHER))
    if other[0].is_tuned and _ratio(normalised, first, other, division) < 1:
        return other
    return rebuilt, replace(tuned, note=f"{tuned.note}; {OTHER} rounding is no better")


@dataclass(frozen=True)
class _Ways:
    """What they share."""

    quantized: ir.Model
    normalised: ir.Model
    plan: Plan
    data: Data | None
    division: Division
    layers: LayerCache | None
    progress: Progress

    def take(self, recipe: Recipe) -> Changes:
        """One of them."""
        normalised, plan, data, run = self.normalised, self.plan, self.data, self.progress.run
        rebuilt = run(reconstruct, self.quantized, normalised, plan, recipe, data, self.division)
        model = rebuilt.model
        tuned = run(tune, model, normalised, plan, recipe, data, self.division, self.layers)
        return rebuilt, tuned


def _is_worth_more(tuned: Tuned, recipe: Recipe) -> bool:
    """Whether there were steps, and they gained nothing or were short, or all is asked."""
    is_short = not tuned.is_tuned or tuned.products < _FEW_PRODUCTS
    return tuned.products > 0 and (is_short or recipe.effort == "best")


def _ratio(normalised: ir.Model, first: Changes, other: Changes, division: Division) -> float:
    """The loss of the other network ÷ that of the first, on held-out samples."""
    last = other[1] if other[1].is_tuned else other[0]
    ratio = outputs_ratio(normalised, first[1].model, last, division)
    return float("inf") if ratio is None else ratio
