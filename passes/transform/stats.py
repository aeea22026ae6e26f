# SPDX-License-Identifier: Apache-2.0
"""Stats: what calibration found, as the transform passes read it."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from qcompile.memory import Budget
from qcompile.numerics.lognp import LogNP
from qcompile.numerics.params import QuantParams
from qcompile.numerics.weight import CodedWeight
from qcompile.passes.transform.array_file import ArrayFile, StoredArray
from qcompile.passes.transform.saliency_rank import LowRank
from qcompile.plan import Plan
from qcompile.recipe import Recipe
from qcompile.spec import QuantSpec
from qcompile.step_tables import Buckets


@dataclass(frozen=True)
class Compensated:
    """A weight whose codes make up for one another's errors (gptq.py), kept in a file.

    inputs: held-out inputs float32 [num, groups, K] that decided for these codes. error and
    nearest_error: Σ ((Ŵ − W) x)² over them, of these codes and of the nearest ones.
    """

    spec: QuantSpec
    parts: tuple[StoredArray, StoredArray, StoredArray | None]
    inputs: StoredArray
    error: float
    nearest_error: float

    @classmethod
    def store(
        cls,
        file: ArrayFile,
        spec: QuantSpec,
        weight: CodedWeight,
        inputs: StoredArray,
        errors: tuple[float, float],
    ) -> "Compensated":
        """Write the weight to the file."""
        assert weight.scale is not None
        point = None if weight.zero_point is None else file.put(weight.zero_point)
        parts = (file.put(weight.codes), file.put(weight.scale), point)
        return cls(spec, parts, inputs, *errors)

    def read(self) -> CodedWeight:
        """The coded weight."""
        codes, scale, zero_point = (None if p is None else p.read() for p in self.parts)
        assert codes is not None
        size = self.spec.block_size
        return CodedWeight(codes, scale, zero_point, self.spec.format, size, self.spec.scale_format)


@dataclass(frozen=True)
class Stats:
    """What the data says.

    ranges: leader value → params. means: input → mean map [C, H, W] or row [K], float64.
    compensated: weight → codes that were found with the data; others go to the nearest code.
    low_rank: product → what is added to it (low_rank.py). polish: copy of an activation → its
    levels (polish.py). buckets: of time steps, where activations have a scale for each.
    """

    ranges: dict[str, QuantParams] = field(default_factory=dict)
    means: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    compensated: dict[str, Compensated] = field(default_factory=dict)
    low_rank: dict[str, LowRank] = field(default_factory=dict)
    polish: dict[str, LogNP] = field(default_factory=dict)
    buckets: Buckets | None = None


@dataclass(frozen=True)
class Work:
    """What every transform pass gets: the plan, the statistics, the recipe, the memory."""

    plan: Plan
    stats: Stats
    recipe: Recipe
    budget: Budget = field(default_factory=Budget)

    def params(self, value: str) -> QuantParams:
        """The params of a static activation, its leader's."""
        return self.stats.ranges[self.plan.leaders[value]]
