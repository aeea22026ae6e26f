# SPDX-License-Identifier: Apache-2.0
"""Stats: what calibration found, as the transform passes read it."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from qcompile.numerics.params import QuantParams
from qcompile.plan import Plan
from qcompile.recipe import Recipe


@dataclass(frozen=True)
class Stats:
    """ranges: leader value → params. means: input → mean map [C, H, W] or row [K], float64."""

    ranges: dict[str, QuantParams] = field(default_factory=dict)
    means: dict[str, NDArray[np.float64]] = field(default_factory=dict)


@dataclass(frozen=True)
class Work:
    """What every transform pass gets: the plan, the statistics, the recipe."""

    plan: Plan
    stats: Stats
    recipe: Recipe

    def params(self, value: str) -> QuantParams:
        """The params of a static activation, its leader's."""
        return self.stats.ranges[self.plan.leaders[value]]
