# SPDX-License-Identifier: Apache-2.0
"""TuningWork: the steps of one tuning (tune.py): which ways, how many, at which rate."""

from dataclasses import dataclass, field, replace

import numpy as np
import onnx_ir as ir

from qcompile.data import Data, Feed
from qcompile.move_codes import ROUNDS, Moves
from qcompile.output_curvature import drawn
from qcompile.passes.transform.rounding import rounding_of
from qcompile.recipe import Recipe
from qcompile.reverse import Tape
from qcompile.reverse_products import Real
from qcompile.tunable import Bias, Tunable, tunables
from qcompile.tuning_loss import Loss
from qcompile.tuning_samples import Samples
from qcompile.tuning_state import Progressed, TuningState
from qcompile.tuning_teacher import Teacher
from qcompile.tuning_ways import Gradients, Leaves, Start, Way
from qcompile.tunings import TUNINGS, Tried

# By effort: steps at most, and multiplications in all, which is some minutes of one core.
STEPS = {"default": 60, "best": 300}
_WORK = {"default": 2e12, "best": 2e13}
_FEWEST_STEPS = 10
SAMPLES = 32  # of a step
_FEWEST_SAMPLES = 8
_RATE = 4e-3
_SLOWER = 10  # once more where nothing was gained: near the optimum large steps only add noise
_EVERY = 10  # steps between two looks at the held-out samples
GAIN = 0.98  # of the error before: less is no noise of sums in another order
_DIRECTIONS = 8  # a mean of so many squares is known to a factor of 2


@dataclass
class TuningWork:
    """One tuning: what is tuned, on which samples, and the best numbers so far."""

    tape: Tape
    teacher: Teacher
    samples: Samples
    held: list[Feed]
    most: int  # samples of a run
    normalised: ir.Model
    found: dict[str, Tunable] = field(default_factory=dict)
    losses: dict[str, Loss] = field(default_factory=dict)
    is_better: bool = False
    products: float = 0
    moves: Moves | None = None

    def run(self, recipe: Recipe, data: Data, state: TuningState) -> str:
        """Tune, and say what came of it."""
        self.found = tunables(self.tape)
        answers = [self.teacher.answer(feed)[1] for feed in self.held]
        for name in self.tape.outputs:
            every = np.concatenate([answer[name].ravel() for answer in answers])
            variance = max(float(every.var(dtype=np.float64)), 2.0**-126)
            self.losses[name] = replace(self.teacher.losses[name], variance=variance)
        before = self.error()
        steps, count = self._plan(recipe.effort)
        if steps < _FEWEST_STEPS:
            return "the network is too large for the effort; --effort best allows more"
        self._measure_sums()
        best = self._try("plain", steps, count, before, data, state)
        if recipe.tuning != "plain":
            other = self._try(recipe.tuning, steps, count, before, data, state)
            best = other.against(best)
        best.put(self.found)
        least, slowly = best.loss, "" if best.rate == _RATE else f" at {1 / _SLOWER:g} of the rate"
        codes = ""
        if rounding_of(recipe.weight_rounding).moves_codes:
            least = self._move_codes(recipe, count, least, data)
            codes = f", {sum(self.moves.num_moved.values())} codes moved" if self.moves else ""
        self.is_better = least < GAIN * before
        return (
            f"{steps} steps{slowly}{best.note}{codes}; loss of the outputs on held-out samples "
            f"{before:.3g} → {least:.3g}" + ("" if self.is_better else ", too little")
        )

    def _move_codes(self, recipe: Recipe, count: int, least: float, data: Data) -> float:
        """V steps from the numbers found, and P steps between them (move_codes.py)."""
        rng, state = np.random.default_rng([recipe.seed, 2]), TuningState(None, recipe.seed)
        samples, rate = max(count, self.samples.count), _RATE / _SLOWER
        self.moves = Moves(
            self.error,
            lambda: self._gradients(samples, rng)(self._leaves()),
            lambda: self._curvatures(min(count, self.most), rng),
            lambda loss: self._go_on(_EVERY, count, rate, loss, data, state),
        ).of(self.tape, self.found)
        return self.moves.run(ROUNDS[recipe.effort], least)

    def _try(
        self, word: str, steps: int, count: int, before: float, data: Data, state: TuningState
    ) -> Tried:
        """One way at its first rate, and more slowly where that gains nothing."""
        tried = Tried(word, _RATE, before, {})
        for rate in (_RATE, _RATE / _SLOWER):
            for each in self.found.values():
                each.t = np.zeros_like(each.t)
            way = self._prepared(word, steps, before)
            now = Progressed.start(self.found, before, state.seed, way)
            self._steps(now, steps, count, rate, data, state.at(rate, word))
            tried = Tried(word, rate, now.least, dict(now.best))
            if now.least < GAIN * before:
                break
        return tried

    def _go_on(
        self, steps: int, count: int, rate: float, before: float, data: Data, state: TuningState
    ) -> float:
        """Plain steps from the numbers of now, whose loss is `before`; the least loss, and its
        numbers are those found.
        """
        way = self._prepared("plain", steps, before)
        now = Progressed.start(self.found, before, state.seed, way)
        self._steps(now, steps, count, rate, data, state)
        for name, t in now.best.items():
            self.found[name].t = t
        return now.least

    def _prepared(self, word: str, steps: int, before: float) -> Way:
        way = TUNINGS[word]()
        way.prepare(Start(self.tape, self.normalised, self.found, before, steps, self._values))
        return way

    def _steps(
        self,
        now: Progressed,
        steps: int,
        count: int,
        rate: float,
        data: Data,
        state: TuningState,
    ) -> None:
        """Tune from the start at that rate, or from where an interrupted tuning was."""
        state.read(now)
        for step in range(now.step, steps):
            slopes = now.way.slopes(self._gradients(count, now.rng), step)
            now.adam.step(slopes, rate * (1 + np.cos(np.pi * step / steps)) / 2, now.way.stays)
            if (step + 1) % _EVERY == 0 or step + 1 == steps:
                now.look(self.error(), step + 1)
                state.write(now)
            if data.watch is not None:
                data.watch("steps", step + 1, steps)

    def error(self) -> float:
        """The loss on the held-out samples."""
        leaves, total = self._leaves(), 0.0
        for feed in self.held:
            entries, wanted = self.teacher.answer(feed)
            made = self.tape.run(leaves, entries)
            share = self._size(feed) / sum(map(self._size, self.held))
            total += share * sum(self.losses[n].of(made[n], wanted[n])[0] for n in made)
        return total

    def _size(self, feed: Feed) -> int:
        return self.samples.batch.count(feed)

    def _leaves(self) -> dict[str, Real]:
        return {name: each.real() for name, each in self.found.items()}

    def _gradients(self, count: int, rng: np.random.Generator) -> Gradients:
        """Of the mean loss of so many samples drawn, in runs that fit the memory."""
        sizes = [min(self.most, count - start) for start in range(0, count, self.most)]
        feeds = [self.samples.draw(size, rng) for size in sizes]

        def gradients(leaves: Leaves) -> Leaves:
            total: Leaves = {}
            for size, feed in zip(sizes, feeds, strict=True):
                entries, wanted = self.teacher.answer(feed)
                made = self.tape.run(leaves, entries, keeps=True)
                share = np.float32(size / count)
                seeds = {n: share * self.losses[n].of(made[n], wanted[n])[1] for n in made}
                for name, gradient in self.tape.reverse(seeds).items():
                    total[name] = total[name] + gradient if name in total else gradient
            return total

        return gradients

    def _values(self, names: list[str]) -> dict[str, Real]:
        """Of the quantized network on some samples."""
        feed = self.samples.draw(self.most, np.random.default_rng(0))
        return self.tape.run(self._leaves(), self.teacher.answer(feed)[0], names)

    def _curvatures(self, count: int, rng: np.random.Generator) -> dict[str, Real]:
        """The diagonal of the loss's Gauss-Newton matrix, from random directions of the outputs."""
        leaves, total = self._leaves(), dict[str, Real]()
        for _ in range(_DIRECTIONS):
            entries, _ = self.teacher.answer(self.samples.draw(count, rng))
            made = self.tape.run(leaves, entries, keeps=True)
            seeds = {n: drawn(self.losses[n], y, rng) for n, y in made.items()}
            for name, gradient in self.tape.reverse(seeds).items():
                square = gradient * gradient / np.float32(_DIRECTIONS)
                total[name] = total[name] + square if name in total else square
        return total

    def _measure_sums(self) -> None:
        """The unit of every bias: the root mean square of what it is added to, on one feed."""
        users = {name: step.output for step in self.tape.steps for name in step.inputs}
        sums = {users[n]: each for n, each in self.found.items() if isinstance(each, Bias)}
        made = self.tape.run(self._leaves(), self.teacher.answer(self.held[0])[0], list(sums))
        for name, each in sums.items():
            each.unit = np.float32(np.sqrt(np.square(made[name]).mean()))

    def _plan(self, effort: str) -> tuple[int, int]:
        """Steps, and samples of each, that the effort allows; after a look at the held-out ones."""
        looked = self._size(self.held[-1])
        each = self.tape.products / max(looked, 1)
        held = sum(map(self._size, self.held))

        def of_step(count: int) -> float:
            return max(each * (3 * count + held / _EVERY), 1)

        count = SAMPLES
        while count > _FEWEST_SAMPLES and _WORK[effort] < STEPS[effort] * of_step(count):
            count //= 2
        steps = int(min(_WORK[effort] / of_step(count), STEPS[effort]))
        if steps >= _FEWEST_STEPS:
            self.products = steps * of_step(count)
        return steps, count
