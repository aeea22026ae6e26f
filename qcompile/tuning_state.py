# SPDX-License-Identifier: Apache-2.0
"""TuningState: steps of tuning, kept beside the layers, so that an interrupted tuning goes on.

The file holds all that the next step depends on, the state of the random numbers among it: the
artifact is that of an uninterrupted run.
"""

import hashlib
import json
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from qcompile.layer_cache import LayerCache
from qcompile.recipe import Recipe
from qcompile.reverse_products import Real
from qcompile.tunable import Adam, Tunable
from qcompile.tuning_ways import Way


@dataclass
class Progressed:
    """How far a tuning is. best: the numbers with the least loss so far. way: what it follows."""

    found: dict[str, Tunable]
    adam: Adam
    rng: np.random.Generator
    least: float
    best: dict[str, Real]
    step: int = 0
    way: Way = field(default_factory=Way)

    @classmethod
    def start(cls, found: dict[str, Tunable], before: float, seed: int, way: Way) -> "Progressed":
        """Before the first step, with that loss."""
        best = {name: each.t for name, each in found.items()}
        return cls(found, Adam(found), np.random.default_rng(seed), before, best, way=way)

    def look(self, error: float, step: int) -> None:
        """The loss after so many steps."""
        self.step = step
        if error < self.least:
            self.least, self.best = error, {name: each.t for name, each in self.found.items()}

    def arrays(self) -> dict[str, NDArray]:
        """Everything, by names that a file can have."""
        zeros = {name: np.zeros_like(each.t) for name, each in self.found.items()}
        held: dict[str, NDArray] = {"least": np.array(self.least), "step": np.array(self.step)}
        held["rng"] = np.array(json.dumps(self.rng.bit_generator.state))
        for i, (name, each) in enumerate(sorted(self.found.items())):
            mean, square = self.adam.moments.get(name, (zeros[name], zeros[name]))
            held |= {f"t{i}": each.t, f"best{i}": self.best[name]}
            held |= {f"mean{i}": mean, f"square{i}": square}
        return held | {f"way_{name}": array for name, array in self.way.arrays().items()}

    def take(self, held: Any) -> None:
        """Go on from what a file holds; an error, and nothing taken, where it does not fit."""
        taken: dict[str, list[NDArray]] = {}
        for i, (name, each) in enumerate(sorted(self.found.items())):
            taken[name] = [held[f"{part}{i}"] for part in ("t", "best", "mean", "square")]
            if any(a.shape != each.t.shape or a.dtype.kind != "f" for a in taken[name]):
                raise ValueError(f"its numbers of {name} have another shape")
        least, step, state = float(held["least"]), int(held["step"]), json.loads(str(held["rng"]))
        own = {n.removeprefix("way_"): held[n] for n in held if n.startswith("way_")}
        self.way.take(own)
        self.rng.bit_generator.state = state
        self.least, self.step, self.adam.steps = least, step, step
        for name, (t, best, mean, square) in taken.items():
            self.found[name].t, self.best[name] = t, best
            self.adam.moments[name] = mean, square


@dataclass(frozen=True)
class TuningState:
    """Where the steps are kept: nowhere without a cache. own: what they depend on."""

    cache: LayerCache | None
    seed: int
    own: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls, cache: LayerCache | None, quantized: ir.Model, recipe: Recipe, most: int
    ) -> "TuningState":
        """Of a tuning of this QDQ graph with so many samples a run."""
        if cache is None:
            return cls(None, recipe.seed)
        digest = hashlib.sha256()
        for name, value in sorted(quantized.graph.initializers.items()):
            assert value.const_value is not None
            digest.update(name.encode() + value.const_value.tobytes())
        own = {"tuning": digest.hexdigest(), "seed": recipe.seed, "effort": recipe.effort}
        return cls(cache, recipe.seed, own | {"samples": most})

    def at(self, rate: float, word: str) -> "TuningState":
        """Of a try at that rate, in the way of that word."""
        return replace(self, own=self.own | {"rate": rate, "way": word})

    def read(self, progressed: Progressed) -> None:
        """Go on from the file, where there is one."""
        if self.cache is not None:
            self.cache.load(self.own, progressed.take)

    def write(self, progressed: Progressed) -> None:
        """Keep everything."""
        if self.cache is not None:
            self.cache.store(self.own, progressed.arrays())
