# SPDX-License-Identifier: Apache-2.0
"""Which of many samples are calibrated and tuned with: those that stand for many, and the unlike.

Temporal distribution-aligned calibration of EDA-DM (Liu et al. 2024), for any samples.
There an item is a time step of a diffusion model, whose features F are the maps in the middle of
the network; a step t gets n_t samples, in the proportion of D_t + λ V_t. D is the number of other
items within a radius (density), V the sum of 1 − cos to all of them (diversity), both brought to
0 … 1. Here an item is a sample, or all samples that have the same number in one input, the step.

Deviations: the radius is the median of all distances, since the paper's 3.0 is for one network;
λ = 1; F is what the middle product reads, at most 4096 elements of it, and of samples of different
lengths the mean of each channel.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from qcompile.data import BATCH, Data, Feed
from qcompile.division import Division
from qcompile.errors import InputError, nearest
from qcompile.graph import is_constant, is_op
from qcompile.products import weight_of
from qcompile.recipe import Recipe

DIVERSITY = 1.0  # λ: of two numbers from 0 to 1
_ELEMENTS = 4096  # of a sample's features
_PAIRED = 2048  # items whose distances give the median
_ROWS = 256  # of the matrix of distances at once


@dataclass(frozen=True)
class Selected:
    """The samples that are used, and a line about them; empty where nothing was selected."""

    data: Data | None
    note: str = ""


def check_selection(recipe: Recipe, *, has_data: bool) -> None:
    """InputError where samples are to be selected and there are none."""
    if recipe.calibration_select is not None and not has_data:
        raise InputError(
            f"{recipe.calibration_select} calibration samples cannot be selected: give "
            "--calibration-data, of which they are taken"
        )


def select_samples(
    model: ir.Model, data: Data | None, recipe: Recipe, division: Division
) -> Selected:
    """As many samples as the recipe's calibration_select, of the normalised model's data.

    A run of a fixed batch is one item, and counts as the samples that it has.
    """
    if data is None or recipe.calibration_select is None:
        return Selected(data)
    singles = _singles(data)
    per_item = max(data.batch.count(singles[0]), 1)
    wanted = max(recipe.calibration_select // per_item, 1)
    groups = _groups(model, singles, recipe.calibration_groups)
    if wanted >= len(singles):
        return Selected(data, f"calibration: all {data.num_samples} samples are used, no more came")
    value = _middle(model)
    if value is None:
        return Selected(data, "calibration: no product has an input to select samples by")
    features = _features(model, value, replace(data, feeds=singles), division)
    means = np.stack([features[list(group)].mean(0) for group in groups])
    counts = shares(weights_of(means), [len(group) for group in groups], wanted)
    rng = np.random.default_rng(recipe.seed)
    chosen = sorted(
        int(i)
        for group, count in zip(groups, counts, strict=True)
        for i in rng.choice(list(group), count, replace=False)
    )
    found = replace(data, feeds=_joined([singles[i] for i in chosen], data))
    by = "" if recipe.calibration_groups is None else f", {len(groups)} values of"
    by += "" if recipe.calibration_groups is None else f" {recipe.calibration_groups}"
    what = f"{found.num_samples} of {data.num_samples} samples, by density and diversity"
    return Selected(found, f"calibration: {what} of {value.name}{by}")


def weights_of(features: NDArray) -> NDArray[np.float64]:
    """D + λ V of items with features [num, elements].

    >>> weights_of(np.array([[1.0, 0], [1, 0], [1, 0], [0, 9]]))
    array([1., 1., 1., 1.])
    """
    x = features.astype(np.float64)
    power = (x * x).sum(1)
    length = np.sqrt(np.where(power > 0, power, 1))
    every = np.unique(np.linspace(0, len(x) - 1, min(len(x), _PAIRED)).astype(np.int64))
    few = _distances(x[every], power[every], x[every], power[every])
    radius = float(np.median(few[np.triu_indices(len(every), 1)])) if len(every) > 1 else 0.0
    density, diversity = np.zeros(len(x)), np.zeros(len(x))
    for first in range(0, len(x), _ROWS):
        rows = slice(first, first + _ROWS)
        near = _distances(x[rows], power[rows], x, power) <= radius
        density[rows] = near.sum(1) - 1
        cosine = (x[rows] @ x.T) / (length[rows, None] * length)
        diversity[rows] = (1 - cosine).sum(1)
    return _to_unit(density) + DIVERSITY * _to_unit(diversity)


def _distances(a: NDArray, a_power: NDArray, b: NDArray, b_power: NDArray) -> NDArray:
    """The mean squared difference of every pair; of equal ones at most rounding, which is 0."""
    wide = a_power[:, None] + b_power
    found = wide - 2 * (a @ b.T)
    found[found <= 4 * a.shape[1] * 2.0**-53 * wide] = 0
    return np.asarray(found / max(a.shape[1], 1))


def _to_unit(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """From the least, 0, to the largest, 1; zeros where all are one number."""
    spread = float(np.ptp(x))
    return (x - x.min()) / spread if spread > 2.0**-40 * np.abs(x).max() else np.zeros_like(x)


def shares(weights: NDArray, sizes: Sequence[int], total: int) -> list[int]:
    """How many of each item: total · w ÷ Σ w, rounded, at most its size, and total in sum.

    What rounding leaves goes to the largest remainders first. total is at most Σ sizes.

    >>> shares(np.array([3.0, 1, 1]), [9, 9, 9], 6), shares(np.array([3.0, 1, 1]), [2, 9, 9], 6)
    ([4, 1, 1], [2, 2, 2])
    """
    w, most = weights.astype(np.float64), np.asarray(sizes)
    w = w if w.sum() > 0 else np.ones(len(w))
    quota = total * w / w.sum()
    counts = np.minimum(np.rint(quota).astype(np.int64), most)
    while (left := total - int(counts.sum())) != 0:
        if left > 0:
            counts[np.where(counts < most, quota - counts, -np.inf).argmax()] += 1
        else:
            counts[np.where(counts > 0, quota - counts, np.inf).argmin()] -= 1
    return [int(count) for count in counts]


def _singles(data: Data) -> list[Feed]:
    """A feed of each sample; of a fixed batch the feeds as they are."""
    if not data.batch.is_free:
        return list(data.feeds)
    return [one for feed in data.feeds for one in data.batch.split(feed, 1)]


def _groups(model: ir.Model, feeds: list[Feed], name: str | None) -> list[tuple[int, ...]]:
    """Numbers of the samples that share the value of an input; each by itself without a name."""
    if name is None:
        return [(i,) for i in range(len(feeds))]
    names = [v.name or "" for v in model.graph.inputs]
    if name not in names:
        raise InputError(f'calibration groups: "{name}" is no input: {nearest(name, names)}')
    found: dict[bytes, list[int]] = {}
    for i, feed in enumerate(feeds):
        found.setdefault(feed[name].tobytes(), []).append(i)
    return [tuple(group) for group in found.values()]


def _middle(model: ir.Model) -> ir.Value | None:
    """What the middle one of all products reads, in the order of the graph."""
    found = [
        node.inputs[0]
        for node in model.graph
        if is_op(node, "Conv", "MatMul", "Gemm") and weight_of(node) is not None
    ]
    computed = [v for v in found if v is not None and not is_constant(v)]
    return computed[len(computed) // 2] if computed else None


def _features(
    model: ir.Model, value: ir.Value, singles: Data, division: Division
) -> NDArray[np.float32]:
    """[num, elements] of the value, a row a feed."""
    name = value.name or ""
    found: list[NDArray[np.float32]] = []
    means: list[NDArray[np.float32]] = []
    for _, arrays in division.runs(model, {name: [name]}, singles):
        x = np.asarray(arrays[name], np.float32)
        flat = x.ravel()
        every = np.linspace(0, flat.size - 1, min(flat.size, _ELEMENTS)).astype(np.int64)
        found.append(flat[every])
        means.append(x.mean((0, 2, 3)) if x.ndim == 4 else x.reshape(-1, x.shape[-1]).mean(0))
    is_one_size = len({row.size for row in found}) == 1
    return np.stack(found if is_one_size else means)


def _joined(feeds: list[Feed], data: Data) -> list[Feed]:
    """Runs of several samples again, of neighbours that have the same shapes."""
    if not data.batch.is_free:
        return feeds
    runs: list[list[Feed]] = []
    for feed in feeds:
        is_alike = bool(runs) and len(runs[-1]) < BATCH and _alike(runs[-1][0], feed, data)
        runs.append([feed]) if not is_alike else runs[-1].append(feed)
    return [
        {
            name: np.concatenate([each[name] for each in run]) if name in data.batch.sizes else x
            for name, x in run[0].items()
        }
        for run in runs
    ]


def _alike(one: Feed, other: Feed, data: Data) -> bool:
    """Whether both can be one run: the same shapes, and the same inputs that have no samples."""
    return all(
        x.shape == other[name].shape
        and ((name in data.batch.sizes and name != data.step) or np.array_equal(x, other[name]))
        for name, x in one.items()
    )
