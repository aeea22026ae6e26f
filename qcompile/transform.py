# SPDX-License-Identifier: Apache-2.0
"""transform: the normalised model as a QDQ graph, by the plan and the statistics."""

import onnx_ir as ir

from qcompile.memory import Budget
from qcompile.passes import TRANSFORM
from qcompile.passes.transform.stats import Stats, Work
from qcompile.plan import Plan
from qcompile.recipe import Recipe
from qcompile.stage import Inspector, run_passes


def transform(
    model: ir.Model,
    plan: Plan,
    stats: Stats,
    recipe: Recipe,
    inspect: Inspector | None = None,
    budget: Budget | None = None,
) -> ir.Model:
    """A QDQ copy of the model."""
    work = Work(plan, stats, recipe, budget or Budget())
    return run_passes(model.clone(), "transform", TRANSFORM(work), inspect)
