# SPDX-License-Identifier: Apache-2.0
"""rebuild_blocks: codes again, block by block, with an eye on every layer inside.

EDA-DM (Liu et al. 2024, fine-grained block reconstruction): a block's codes are found by AdaRound
(adaround.py), its scales of activations by LSQ, with the loss

    ‖block − float block‖² + 0.8 Σ ‖layer − float layer‖²

on inputs that the quantized network before it gives. A block (blocks.py) is kept where the error of
its own output on held-out samples falls, all of it where that of the network's outputs falls.

Deviations: every squared error is divided by the variance of the float numbers, so that both parts
mean the same in every block; a weight begins at the code of descent and its neighbour on the side
of the float weight, since rounding next to the weight itself loses at 2 bits (docs/results.md);
fewer and larger steps of 8 samples; samples are not chosen (the paper's density and diversity need
time steps of a diffusion model).
"""

from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

import qcompile.runtime_ops as runtime_ops
from qcompile.blocks import Block, blocks_of
from qcompile.bodies import nodes_of
from qcompile.data import Data, Feed
from qcompile.division import Division
from qcompile.graph import DOMAIN, constant
from qcompile.numerics.weight import CodedWeight
from qcompile.passes.transform.adaround import Levels, inverse, pull, rectified
from qcompile.passes.transform.grid import Grid
from qcompile.passes.transform.layer_rows import Real32, Setting, Steps
from qcompile.plan import Plan
from qcompile.recipe import Recipe
from qcompile.reverse import Tape, spec_of
from qcompile.session import run_float, with_outputs
from qcompile.tape_weights import weights_of
from qcompile.tunable import ActivationScale, Tunable, WeightScale, put, tunables, write
from qcompile.tuned import Tuned, kept_if_better
from qcompile.tuning_loss import Loss
from qcompile.tuning_samples import Samples
from qcompile.verify_compensated import written_weight

STEPS = {"quick": 100, "default": 400, "best": 2000}  # of a block
_LAYERS = 0.8  # of the layers' errors beside the block's
_SAMPLES = 8  # of a step
_MOST = 128  # samples, and held-out ones
_COPIES = 6  # of a value in a step
_FAR = 4.0  # that V can move in all steps
_RATE = 1e-3  # of scales
_LAMBDA = 0.01  # of AdaRound's regulariser
_INSIDE = 0.4  # of a step: so near to its code every weight begins


def rebuild_blocks(
    quantized: ir.Model,
    normalised: ir.Model,
    plan: Plan,
    recipe: Recipe,
    data: Data,
    division: Division,
) -> Tuned:
    """A rebuilt copy of the QDQ graph, or the graph where nothing is gained."""
    word = recipe.weight_rounding
    copy = quantized.clone()
    tape = Tape.of(copy, plan)
    if isinstance(tape, str):
        return Tuned(quantized, f"no {word}: {tape}")
    samples, held = Samples.of(data)
    problem = _problem(quantized, data, samples, held)
    if problem:
        return Tuned(quantized, f"no {word}: {problem}")
    kept = 0
    work = _Work(copy, normalised, tape, recipe, division, not plan.is_integer_only)
    work.begin(samples, held)
    try:
        blocks = blocks_of(tape, normalised)
        for number, block in enumerate(blocks):
            kept += work.rebuild(block, number)
            if data.watch is not None:
                data.watch("blocks", number + 1, len(blocks))
    except NotImplementedError as error:
        return Tuned(quantized, f"no {word}: {error}")
    note = f"{word}: {kept} of {len(blocks)} blocks gained on held-out samples"
    if not kept:
        return Tuned(quantized, note)
    write(copy, tape, work.found)
    return kept_if_better(quantized, copy, normalised, note, held.feeds(_SAMPLES), division)


def _problem(quantized: ir.Model, data: Data, samples: Samples, held: Samples) -> str:
    """Why no block can be rebuilt; "" where they can."""
    if any(n.domain == DOMAIN for n in nodes_of(quantized)) and not runtime_ops.is_available():
        return "the op library is not installed"
    rows = [group[0] for each in (samples, held) for group in each.groups]
    shapes = {tuple(array.shape for array in row.values()) for row in rows}
    if not data.batch.is_free or not samples.count or not held.count or len(shapes) != 1:
        return "it needs samples of one shape and a free batch"
    return ""


@dataclass
class Rounded:
    """A weight between two levels. dims: its shape; rows [N, K] elsewhere."""

    start: CodedWeight
    levels: Levels
    dims: tuple[int, ...]

    @classmethod
    def of(cls, node: ir.Node, real: Real32, *, is_signed: bool) -> "Rounded":
        """Of a dequantizer, beside the float weight of its shape."""
        codes = constant(node.inputs[0])
        assert codes is not None
        start = written_weight(node, codes, spec_of(node))
        grid: Grid = Setting(spec_of(node), is_signed=is_signed).grid(start)
        coded, step = start.decode(), np.abs(grid.scale[0])
        moved = np.clip(real.reshape(coded.shape) - coded, -_INSIDE * step, _INSIDE * step)
        return cls(start, Levels.of((coded + moved).astype(np.float32), grid), codes.shape)

    def real(self, v: Real32) -> Real32:
        """The weight with so much of the step taken."""
        return self.levels.real(rectified(v)[0]).reshape(self.dims)

    def slope(self, gradient: Real32, v: Real32, progress: float) -> Real32:
        """By V, with the regulariser."""
        share, slope = rectified(v)
        by_share = gradient.reshape(v.shape) * self.levels.gap
        return np.asarray((by_share + np.float32(_LAMBDA) * pull(share, progress)) * slope)


@dataclass
class _Work:
    """What the blocks share. before: values of cuts in the quantized network, by name."""

    model: ir.Model
    normalised: ir.Model
    tape: Tape
    recipe: Recipe
    division: Division
    is_signed: bool
    found: dict[str, Tunable] = field(default_factory=dict)
    feed: Feed = field(default_factory=dict)
    cuts: dict[str, NDArray] = field(default_factory=dict)
    count: int = 0  # of the samples to work on; held-out ones follow
    total: int = 0

    def begin(self, samples: Samples, held: Samples) -> None:
        """The samples of all blocks, and the numbers as they are."""
        (first,), (second,) = samples.feeds(_MOST)[:1], held.feeds(_MOST)[:1]
        self.count = samples.batch.count(first)
        self.total = self.count + samples.batch.count(second)
        both = samples.batch.sizes
        self.feed = {
            n: np.concatenate([a, second[n]]) if n in both else a for n, a in first.items()
        }
        self.found = tunables(self.tape)

    def rebuild(self, block: Block, number: int) -> bool:
        """Better numbers of the block into the graph; whether there are any. The value behind it
        is then that of the quantized network.
        """
        names = list(dict.fromkeys([*block.tape.entries, *block.tape.outputs]))
        sizes = self.division.footprint.sizes
        each = sum(sizes.get(name, 0) for name in names)
        inside = sum(sizes.get(step.output, 0) for step in block.tape.steps)
        needed = _COPIES * _SAMPLES * inside + 2 * self.total * each
        if needed > self.division.working_bytes:
            raise NotImplementedError("a block larger than the memory")
        wanted = self._float_values([n for n in names if n not in self.cuts])
        known = {**wanted, **self.cuts}
        entries = {n: known[n] for n in block.tape.entries}
        is_better = bool(block.tape.weights) and self._improve(block, number, entries, wanted)
        self.cuts = {block.output: self._run(block, entries, slice(0, self.total))[block.output]}
        return is_better

    def _improve(self, block: Block, number: int, entries: Feed, wanted: Feed) -> bool:
        losses = {n: Loss(n, variance=_variance(wanted[n])) for n in block.tape.outputs}
        held = slice(self.count, self.total)
        own, rounded = losses[block.output], self._rounded(block)
        before = own.of(self._run(block, entries, held)[block.output], wanted[block.output][held])
        old = {n: each.t for n, each in self.found.items()}
        codes = self._steps(block, number, rounded, losses, entries, wanted)
        self._put(rounded, codes)
        after = own.of(self._run(block, entries, held)[block.output], wanted[block.output][held])
        if after[0] < before[0]:
            return True
        self._put(rounded, {n: each.start.codes for n, each in rounded.items()})
        for name, t in old.items():
            self.found[name].t = t
        return False

    def _steps(
        self,
        block: Block,
        number: int,
        rounded: dict[str, Rounded],
        losses: dict[str, Loss],
        entries: Feed,
        wanted: Feed,
    ) -> dict[str, NDArray[np.int16]]:
        """Codes of the weights; scales of activations move in place."""
        rng = np.random.default_rng([self.recipe.seed, number])
        moved = Steps(**{n: inverse(each.levels.share) for n, each in rounded.items()})
        scales = self._own_scales(block)
        moved.arrays |= {n: self.found[n].t for n in scales}
        steps = STEPS[self.recipe.effort]
        width = np.float32(wanted[block.output].shape[1])  # AdaRound's loss is a sum over outputs
        for step in range(steps):
            at = rng.integers(0, self.count, min(_SAMPLES, self.count))
            leaves = {n: each.real() for n, each in self.found.items()}
            leaves |= {n: each.real(moved.arrays[n]) for n, each in rounded.items()}
            made = block.tape.run(leaves, _rows(entries, at, self.total), keeps=True)
            seeds = {}
            for name, y in made.items():
                share = np.float32(1 if name == block.output else _LAYERS)
                seeds[name] = share * width * losses[name].of(y, wanted[name][at])[1]
            gradients = block.tape.reverse(seeds)
            fade = (1 + np.cos(np.pi * step / steps)) / 2
            moves = {
                n: (each.slope(gradients[n], moved.arrays[n], step / steps), _FAR / steps)
                for n, each in rounded.items()
                if n in gradients
            }
            moves |= {n: (each.slope(gradients[n]), fade * _RATE) for n, each in scales.items()}
            moved.step(**moves)
            for name in scales:
                self.found[name].t = moved.arrays[name]
        return {
            n: each.start.masked(each.levels.codes(rectified(moved.arrays[n])[0] >= 0.5))
            for n, each in rounded.items()
        }

    def _rounded(self, block: Block) -> dict[str, Rounded]:
        """Weights below 8 bits that only this block reads."""
        made = {}
        for each in weights_of(block.tape, self.normalised):
            node = block.tape.weights[each.leaf]
            if spec_of(node).bits < 8 and self._is_own(block, each.leaf):
                made[each.leaf] = Rounded.of(node, each.real, is_signed=self.is_signed)
        return made

    def _own_scales(self, block: Block) -> dict[str, ActivationScale]:
        found = {n: self.found[n] for n in block.tape.scales if self._is_own(block, n)}
        return {n: each for n, each in found.items() if isinstance(each, ActivationScale)}

    def _is_own(self, block: Block, leaf: str) -> bool:
        """Whether no other block reads the leaf."""
        every = sum(leaf in step.inputs for step in self.tape.steps)
        return every == sum(leaf in step.inputs for step in block.tape.steps)

    def _put(self, rounded: dict[str, Rounded], codes: dict[str, NDArray[np.int16]]) -> None:
        for name in rounded:
            node = self.tape.weights[name]
            held = constant(node.inputs[0])
            assert held is not None
            put(self.model, node.inputs[0], codes[name].astype(held.dtype).reshape(held.shape))
            self.found[name] = WeightScale.of(node)

    def _run(self, block: Block, entries: Feed, at: slice) -> dict[str, NDArray]:
        """The block's outputs for some samples, as its numbers are."""
        leaves = {n: each.real() for n, each in self.found.items()}
        parts = [
            block.tape.run(leaves, _rows(entries, slice(i, min(i + _SAMPLES, at.stop)), self.total))
            for i in range(at.start, at.stop, _SAMPLES)
        ]
        return {n: np.concatenate([part[n] for part in parts]) for n in block.tape.outputs}

    def _float_values(self, names: list[str]) -> Feed:
        """Of the float network, or of the feed, for all samples."""
        inner = [n for n in names if n not in self.feed]
        found = {n: self.feed[n] for n in names if n in self.feed}
        if inner:
            session = self.division.open(with_outputs(self.normalised, inner))
            parts = [
                run_float(session, inner, _rows(self.feed, slice(i, i + _SAMPLES), self.total))
                for i in range(0, self.total, _SAMPLES)
            ]
            for name, each in zip(inner, zip(*parts, strict=True), strict=True):
                is_counted = sum(len(part) for part in each) == self.total
                found[name] = np.concatenate(each) if is_counted else each[0]
        return found


def _rows(values: Feed, at: NDArray | slice, total: int) -> Feed:
    """These samples; what does not count them stays."""
    return {n: a[at] if a.ndim and len(a) == total else a for n, a in values.items()}


def _variance(array: NDArray) -> float:
    return max(float(array.var(dtype=np.float64)), 2.0**-126)
