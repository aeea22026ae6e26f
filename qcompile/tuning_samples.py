# SPDX-License-Identifier: Apache-2.0
"""Samples to tune on: drawn from the data, mixed where inputs are floats, every eighth held out.

The float model says what the outputs should be, so inputs that no data set holds serve, too: convex
mixtures of two samples (mixup, Zhang et al. 2018, section 2, without its labels; the share is
uniform).
"""

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from qcompile.data import Batch, Data, Feed

HELD = 8  # every eighth sample decides and is never trained on
_MIXED = 0.5  # of the samples drawn


@dataclass(frozen=True)
class Samples:
    """Samples, each a feed of one; a fixed batch is one sample. groups: those of equal shapes, and
    of one time step where it counts no samples. step: the input that holds it.
    """

    groups: tuple[tuple[Feed, ...], ...]
    batch: Batch
    step: str | None = None

    @classmethod
    def of(cls, data: Data) -> "tuple[Samples, Samples]":
        """Those to tune on, and the held-out ones."""
        rows = [
            row
            for feed in data.feeds
            for row in (data.batch.split(feed, 1) if data.batch.is_free else [feed])
        ]
        kept = [row for i, row in enumerate(rows) if i % HELD]
        one, other = (cls._grouped(part, data.batch, data.step) for part in (kept, rows[::HELD]))
        return one, other

    @classmethod
    def _grouped(cls, rows: list[Feed], batch: Batch, step: str | None) -> "Samples":
        own = None if step in batch.sizes else step
        groups: dict[tuple[object, ...], list[Feed]] = {}
        for row in rows:
            shapes = [array.shape for array in row.values()]
            groups.setdefault((*shapes, _step(row, own)), []).append(row)
        return cls(tuple(tuple(group) for group in groups.values()), batch, step)

    @property
    def count(self) -> int:
        """All samples."""
        return sum(map(len, self.groups))

    @property
    def is_mixable(self) -> bool:
        """Whether every input that counts samples holds floats."""
        first = self.groups[0][0]
        return all(first[name].dtype == np.float32 for name in self.batch.sizes)

    def draw(self, count: int, rng: Generator) -> Feed:
        """A feed of so many samples of equal shapes, some mixed; of one fixed batch."""
        sizes = np.array([len(group) for group in self.groups])
        group = self.groups[rng.choice(len(sizes), p=sizes / sizes.sum())]
        first = self._joined([group[i] for i in rng.integers(0, len(group), count)])
        if not self.is_mixable:
            return first
        second = self._joined([group[i] for i in rng.integers(0, len(group), count)])
        share = np.where(rng.random(count) < _MIXED, rng.random(count), 1).astype(np.float32)
        return {
            name: mixed(array, second[name], share) if name in self.batch.sizes else array
            for name, array in first.items()
        }

    def feeds(self, count: int) -> list[Feed]:
        """All of them, at most so many a feed, and of one time step."""
        runs: dict[tuple[int, int], list[Feed]] = {}
        for number, group in enumerate(self.groups):
            for row in group:
                runs.setdefault((number, _step(row, self.step)), []).append(row)
        return [
            self._joined(run[i : i + count])
            for run in runs.values()
            for i in range(0, len(run), count)
        ]

    def _joined(self, rows: list[Feed]) -> Feed:
        counted = self.batch.sizes
        return {
            name: np.concatenate([row[name] for row in rows]) if name in counted else array
            for name, array in rows[0].items()
        }


def _step(row: Feed, name: str | None) -> int:
    """The time step of a sample; 0 where there is none."""
    return 0 if name is None else int(row[name].flat[0])


def mixed(a: NDArray, b: NDArray, share: NDArray) -> NDArray[np.float32]:
    """share · a + (1 − share) · b, a share for every sample (or for a fixed batch)."""
    each = np.repeat(share, len(a) // len(share)).reshape(-1, *[1] * (a.ndim - 1))
    return np.asarray(each * a + (1 - each) * b, np.float32)
