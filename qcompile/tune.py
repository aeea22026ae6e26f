# SPDX-License-Identifier: Apache-2.0
"""tune: scales and biases of the whole quantized network, by the gradient of its outputs' error.

The float model is the teacher: the loss is the squared error of every float output relative to its
variance; where a Softmax ends the network, the divergence KL(teacher ‖ network) of what it gives
(Hinton et al. 2015, section 2, at temperature 1). Adam moves the scales of weights and
activations (LSQ, Esser et al. 2020) and the biases; codes of weights stay, since moving them too
fits the few samples and no others (docs/results.md), but for `pv` (move_codes.py). The numbers
with the least error on held-out samples are kept, and only where that is clearly less than before.

Deviations from LSQ: a teacher in place of labels, weights stay, Adam on logarithms of scales in
place of SGD with a scaled gradient.
"""

from dataclasses import dataclass, field, replace

import numpy as np
import onnx_ir as ir

from qcompile.data import Data, Feed
from qcompile.division import Division
from qcompile.layer_cache import LayerCache
from qcompile.move_codes import ROUNDS, Moves
from qcompile.output_curvature import drawn
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
_DIRECTIONS = 8  # a mean of so many squares is known to a factor of 2
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
        work = _Work(tape, teacher, samples, _held_feeds(held, most, recipe.seed), most)
        state = TuningState.of(layers, quantized, recipe, most)
        note = work.run(recipe, data, state)
    except NotImplementedError as error:  # an op in a form that has no gradient here
        return Tuned(quantized, f"not tuned: {error} has no gradient here")
    if not work.is_better:
        return Tuned(quantized, f"not tuned: {note}", products=work.products)
    write(copy, tape, work.found)
    moved: dict[str, int] = {}
    if work.moves is not None:
        work.moves.write(copy, tape)
        moved = {tape.weights[n].name or "": c for n, c in work.moves.num_moved.items()}
    tuned = Tuned(
        copy, f"tuned: {note}", work.held, work.losses, products=work.products, moved=moved
    )
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
        for rate in (_RATE, _RATE / _SLOWER):
            least = self._steps(steps, count, rate, before, data, state.at(rate))
            self.is_better = least < _GAIN * before
            if self.is_better:
                break
        slowly = "" if rate == _RATE else f" at {1 / _SLOWER:g} of the rate"
        codes = ""
        if rounding_of(recipe.weight_rounding).moves_codes:
            least = self._move_codes(recipe, count, least, data)
            self.is_better = least < _GAIN * before
            codes = f", {sum(self.moves.num_moved.values())} codes moved" if self.moves else ""
        return (
            f"{steps} steps{slowly}{codes}; loss of the outputs on held-out samples "
            f"{before:.3g} → {least:.3g}" + ("" if self.is_better else ", too little")
        )

    def _move_codes(self, recipe: Recipe, count: int, least: float, data: Data) -> float:
        """V steps from the numbers found, and P steps between them (move_codes.py)."""
        rng, state = np.random.default_rng([recipe.seed, 2]), TuningState(None, recipe.seed)
        samples, rate = max(count, self.samples.count), _RATE / _SLOWER
        self.moves = Moves(
            self.error,
            lambda: self._gradients(samples, rng),
            lambda: self._curvatures(min(count, self.most), rng),
            lambda loss: self._go_on(_EVERY, count, rate, loss, data, state),
        ).of(self.tape, self.found)
        return self.moves.run(ROUNDS[recipe.effort], least)

    def _steps(
        self, steps: int, count: int, rate: float, before: float, data: Data, state: TuningState
    ) -> float:
        """Tune from the start at that rate, or from where an interrupted tuning was; the least
        loss, and its numbers are those found.
        """
        for each in self.found.values():
            each.t = np.zeros_like(each.t)
        return self._go_on(steps, count, rate, before, data, state)

    def _go_on(
        self, steps: int, count: int, rate: float, before: float, data: Data, state: TuningState
    ) -> float:
        """The same from the numbers of now, whose loss is `before`."""
        now = Progressed.start(self.found, before, state.seed)
        state.read(now)
        for step in range(now.step, steps):
            gradients = self._gradients(count, now.rng)
            now.adam.step(gradients, rate * (1 + np.cos(np.pi * step / steps)) / 2)
            if (step + 1) % _EVERY == 0 or step + 1 == steps:
                now.look(self.error(), step + 1)
                state.write(now)
            if data.watch is not None:
                data.watch("steps", step + 1, steps)
        for name, t in now.best.items():
            self.found[name].t = t
        return now.least

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

    def _gradients(self, count: int, rng: np.random.Generator) -> dict[str, Real]:
        """Of the mean loss of so many samples drawn, in runs that fit the memory."""
        leaves, total = self._leaves(), dict[str, Real]()
        for start in range(0, count, self.most):
            part = min(self.most, count - start)
            entries, wanted = self.teacher.answer(self.samples.draw(part, rng))
            made = self.tape.run(leaves, entries, keeps=True)
            share = np.float32(part / count)
            seeds = {n: share * self.losses[n].of(made[n], wanted[n])[1] for n in made}
            for name, gradient in self.tape.reverse(seeds).items():
                total[name] = total[name] + gradient if name in total else gradient
        return total

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

        count = _SAMPLES
        while count > _FEWEST_SAMPLES and _WORK[effort] < STEPS[effort] * of_step(count):
            count //= 2
        steps = int(min(_WORK[effort] / of_step(count), STEPS[effort]))
        if steps >= _FEWEST_STEPS:
            self.products = steps * of_step(count)
        return steps, count
