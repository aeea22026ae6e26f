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

import numpy as np
import onnx_ir as ir

from qcompile.data import Data, Feed
from qcompile.division import Division
from qcompile.layer_cache import LayerCache
from qcompile.passes.transform.rounding import rounding_of
from qcompile.plan import Plan
from qcompile.recipe import Recipe
from qcompile.reverse import Tape
from qcompile.tunable import write
from qcompile.tuned import Tuned, outputs_ratio
from qcompile.tuning_samples import Samples
from qcompile.tuning_state import TuningState
from qcompile.tuning_teacher import Teacher, losses_of_tape
from qcompile.tuning_work import GAIN, SAMPLES, STEPS, TuningWork

_FEWEST_HELD = 2
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
    if any(p.is_imported or p.is_exact for p in plan.nodes.values()):
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
        work = TuningWork(tape, teacher, samples, feeds, most, normalised)
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
    if ratio is not None and ratio > GAIN:  # codes that sums in another order give
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
    return int(min(fitting, SAMPLES if samples.batch.is_free else 1))


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
