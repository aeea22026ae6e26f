# SPDX-License-Identifier: Apache-2.0
"""tune: scales and biases of the whole quantized network, by the gradient of its outputs' error.

The float model is the teacher: the loss is the squared error of every float output relative to its
variance; where a Softmax ends the network, the divergence KL(teacher ‖ network) of what it gives
(Hinton et al. 2015, section 2, at temperature 1). Adam moves the scales of weights and
activations (LSQ, Esser et al. 2020) and the biases; codes of weights stay, since moving them too
fits the few samples and no others (docs/results.md). The numbers with the least error on held-out
samples are kept, and only where that is clearly less than before.

Deviations from LSQ: a teacher in place of labels, weights stay, Adam on logarithms of scales in
place of SGD with a scaled gradient.
"""

from dataclasses import dataclass, field, replace

import numpy as np
import onnx_ir as ir

from qcompile.data import Data, Feed
from qcompile.division import Division
from qcompile.layer_cache import LayerCache
from qcompile.passes.transform.rounding import rounding_of
from qcompile.plan import Plan
from qcompile.recipe import Recipe
from qcompile.reverse import Tape
from qcompile.reverse_products import Real
from qcompile.tunable import Bias, Tunable, tunables, write
from qcompile.tuned import Tuned, outputs_ratio
from qcompile.tuning_loss import Loss
from qcompile.tuning_samples import Samples
from qcompile.tuning_state import Progressed, TuningState
from qcompile.tuning_teacher import Teacher, losses_of_tape
from qcompile.tuning_ways import Gradients, Leaves, Start
from qcompile.tunings import TUNINGS, Tried

# By effort: steps at most, and multiplications in all, which is some minutes of one core.
STEPS = {"default": 60, "best": 300}
_WORK = {"default": 2e12, "best": 2e13}
_FEWEST_STEPS = 10
_FEWEST_HELD = 2
_SAMPLES = 32  # of a step
_FEWEST_SAMPLES = 8
_RATE = 4e-3
_SLOWER = 10  # once more where nothing was gained: near the optimum large steps only add noise
_EVERY = 10  # steps between two looks at the held-out samples
_GAIN = 0.98  # of the error before: less is no noise of sums in another order
_MIXTURES = 3  # for each held-out sample
_COPIES = 6  # of a value: codes, slopes, gradients
_WEIGHT_COPIES = 5


def tune(
    quantized: ir.Model,
    normalised: ir.Model,
    plan: Plan,
    recipe: Recipe,
    data: Data | None,
    division: Division,
    layers: LayerCache | None = None,
) -> Tuned:
    """A tuned copy of the QDQ graph, or the graph where nothing is gained or possible.

    layers: where the steps are kept, so that an interrupted tuning goes on.
    """
    if data is None or not is_asked(plan, recipe):
        return Tuned(quantized)
    if any(p.is_imported for p in plan.nodes.values()):
        return Tuned(quantized, "not tuned: the model has codes of its own")
    copy = quantized.clone()
    tape = Tape.of(copy, plan)
    if isinstance(tape, str):
        return Tuned(quantized, f"not tuned: {tape}")
    losses = losses_of_tape(copy, normalised, tape)
    samples, held = Samples.of(data)
    if held.count < _FEWEST_HELD or not samples.count:
        return Tuned(quantized, "not tuned: too few samples")
    most = _samples_of_run(quantized, samples, division)
    if most < 1:
        return Tuned(quantized, "not tuned: the values of one sample do not fit the memory")
    teacher = Teacher(normalised, losses, tape.entries, division)
    try:
        feeds = _held_feeds(held, most, recipe.seed)
        work = _Work(tape, teacher, samples, feeds, most, normalised)
        state = TuningState.of(layers, quantized, recipe, most)
        note = work.run(recipe, data, state)
    except NotImplementedError as error:  # an op in a form that has no gradient here
        return Tuned(quantized, f"not tuned: {error} has no gradient here")
    if not work.is_better:
        return Tuned(quantized, f"not tuned: {note}", products=work.products)
    write(copy, tape, work.found)
    tuned = Tuned(copy, f"tuned: {note}", work.held, work.losses, products=work.products)
    ratio = outputs_ratio(normalised, quantized, tuned, division)
    if ratio is not None and ratio > _GAIN:  # codes that sums in another order give
        note = f"not tuned: {note}, but in ONNX Runtime {ratio:.3g} of it"
        return Tuned(quantized, note, products=work.products)
    return tuned


def is_asked(plan: Plan, recipe: Recipe) -> bool:
    """Whether the recipe wants it: below 8 bits, on top of descent, not for effort quick."""
    is_narrow = any(p.weight is not None and p.weight.bits < 8 for p in plan.nodes.values())
    is_narrow |= any(spec.bits < 8 for spec in plan.activations.values())
    is_asked = rounding_of(recipe.weight_rounding).is_tuned
    return is_narrow and is_asked and recipe.effort != "quick"


def planned(plan: Plan, recipe: Recipe) -> str:
    """What a dry run can say; "" where nothing is tuned."""
    if not is_asked(plan, recipe):
        return ""
    return (
        f"at most {STEPS[recipe.effort]} steps of tuning follow, kept where held-out samples gain "
        "(--effort quick: none)"
    )


def _samples_of_run(quantized: ir.Model, samples: Samples, division: Division) -> int:
    """How many fit the memory with all that reverse keeps; of a fixed batch 1."""
    sizes = division.footprint.sizes
    weights, taps = 0, 1
    for value in quantized.graph.initializers.values():
        dims = [int(d) for d in value.shape or () if isinstance(d, int)]
        weights += 4 * int(np.prod(dims))
        taps = max(taps, int(np.prod(dims[2:])) if len(dims) == 4 else 1)
    each = _COPIES * sum(sizes.values()) + 2 * taps * max(sizes.values(), default=0)
    fitting = (division.working_bytes - _WEIGHT_COPIES * weights) // max(each, 1)
    return int(min(fitting, _SAMPLES if samples.batch.is_free else 1))


def _held_feeds(held: Samples, most: int, seed: int) -> list[Feed]:
    """Held-out samples, and mixtures of them."""
    feeds = held.feeds(most)
    rng = np.random.default_rng([seed, 1])
    if held.is_mixable:
        left = _MIXTURES * held.count
        while left > 0:
            feeds.append(held.draw(min(most, left), rng))
            left -= most
    return feeds


@dataclass
class _Work:
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
        self.is_better = best.loss < _GAIN * before
        slowly = "" if best.rate == _RATE else f" at {1 / _SLOWER:g} of the rate"
        return (
            f"{steps} steps{slowly}{best.note}; loss of the outputs on held-out samples "
            f"{before:.3g} → {best.loss:.3g}" + ("" if self.is_better else ", too little")
        )

    def _try(
        self, word: str, steps: int, count: int, before: float, data: Data, state: TuningState
    ) -> Tried:
        """One way at its first rate, and more slowly where that gains nothing."""
        tried = Tried(word, _RATE, before, {})
        for rate in (_RATE, _RATE / _SLOWER):
            way = TUNINGS[word]()
            for each in self.found.values():
                each.t = np.zeros_like(each.t)
            start = Start(self.tape, self.normalised, self.found, before, steps, self._values)
            way.prepare(start)
            now = Progressed.start(self.found, before, state.seed, way)
            self._steps(now, steps, count, rate, data, state.at(rate, word))
            tried = Tried(word, rate, now.least, dict(now.best))
            if now.least < _GAIN * before:
                break
        return tried

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

        count = _SAMPLES
        while count > _FEWEST_SAMPLES and _WORK[effort] < STEPS[effort] * of_step(count):
            count //= 2
        steps = int(min(_WORK[effort] / of_step(count), STEPS[effort]))
        if steps >= _FEWEST_STEPS:
            self.products = steps * of_step(count)
        return steps, count
