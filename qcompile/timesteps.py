# SPDX-License-Identifier: Apache-2.0
"""Time steps of a diffusion model: which of them share the scales of activations (QuEST).

QuEST (Wang et al. 2024, its time-wise quantizers) gives every time step scales of its own. Here
steps that are neighbours share them in buckets, which hold about as many calibration samples each,
so that a range is not that of two samples. A step that no sample has is in the bucket of the
nearest.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from qcompile.data import BATCH, Data, Feed
from qcompile.errors import InputError, nearest
from qcompile.step_tables import Buckets

FEWEST = 8  # samples of a bucket: the range of a few is too small for others
LARGEST_STEP = 65_535  # the table of buckets has an entry for every step up to the largest


def bucketed(name: str, steps: Sequence[int], most: int) -> Buckets:
    """Buckets of about equal counts, at most `most`, of the time steps of all samples.

    >>> bucketed("t", [0, 0, 1, 4, 5, 5], 3).of_step.tolist()
    [0, 1, 1, 1, 1, 2]
    >>> bucketed("t", [3, 9], 16).of_step.tolist()
    [0, 0, 0, 0, 0, 0, 0, 1, 1, 1]
    """
    seen, counts = np.unique(np.asarray(steps, np.int64), return_counts=True)
    middles = np.cumsum(counts) - counts / 2
    share = np.minimum(np.floor(middles / counts.sum() * most), most - 1)
    bucket = np.unique(share, return_inverse=True)[1].astype(np.int64)
    borders = (seen[1:] + seen[:-1]) // 2  # a tie goes to the lower step
    return Buckets(name, bucket[np.searchsorted(borders, np.arange(seen[-1] + 1), side="left")])


def check_timestep(inputs: Sequence[ir.Value], name: str) -> ir.Value:
    """The input that holds the time step; InputError where it is none."""
    found = {v.name or "": v for v in inputs}
    if name not in found:
        raise InputError(f'timestep input "{name}": no input of the model: {nearest(name, found)}')
    value = found[name]
    if value.dtype not in (ir.DataType.INT64, ir.DataType.INT32):
        raise InputError(
            f'timestep input "{name}" is {value.dtype}: the scales stand in a table, which an '
            "int64 or int32 step chooses from; export the model with whole time steps"
        )
    if value.shape is None or len(value.shape) > 1:
        raise InputError(
            f'timestep input "{name}" has the shape {value.shape}: one number, [1] or [batch], all '
            "of which are equal, are supported"
        )
    return value


def by_timestep(data: Data, inputs: Sequence[ir.Value], name: str) -> Data:
    """The samples in feeds of one time step each, in a random order that is always the same.

    InputError where a feed that cannot be divided has several, or a step is out of range.
    """
    check_timestep(inputs, name)
    feeds = data.feeds
    if data.batch.is_free and name in data.batch.sizes:
        feeds = [single for feed in feeds for single in data.batch.split(feed, 1)]
        rows: dict[int, list[Feed]] = {}
        for feed in feeds:
            rows.setdefault(step_of(feed, name), []).append(feed)
        feeds = [
            _joined(group[i : i + BATCH], data)
            for _, group in sorted(rows.items())
            for i in range(0, len(group), BATCH)
        ]
    for feed in feeds:
        step_of(feed, name)
    order = np.random.default_rng(0).permutation(len(feeds))
    return replace(data, feeds=[feeds[i] for i in order], step=name)


def step_of(feed: Feed, name: str) -> int:
    """The time step of a feed."""
    steps = np.unique(feed[name])
    if len(steps) != 1:
        raise InputError(
            f'timestep input "{name}": one run has the steps {steps[:4].tolist()}; all samples of '
            "a run share their scales: give samples of one step a run"
        )
    if not 0 <= steps[0] <= LARGEST_STEP:
        raise InputError(
            f'timestep input "{name}": a sample has the step {steps[0]}; 0 to {LARGEST_STEP} are '
            "possible"
        )
    return int(steps[0])


def buckets_of(data: Data, name: str, most: int) -> Buckets:
    """Buckets of the steps that the data has, of enough samples each."""
    counted = [(step_of(feed, name), data.batch.count(feed)) for feed in data.feeds]
    steps = [step for step, count in counted for _ in range(count)]
    return bucketed(name, steps, max(min(most, len(steps) // FEWEST), 1))


def _joined(feeds: list[Feed], data: Data) -> Feed:
    return {
        name: np.concatenate([f[name] for f in feeds]) if name in data.batch.sizes else array
        for name, array in feeds[0].items()
    }
