# SPDX-License-Identifier: Apache-2.0
"""Second moments E[x xᵀ] of the inputs of products, for Conv of their patches, from sampled rows.

One sample in eight is held out: its rows do not count in the moments but decide, later, whether
what was made of them is better. A single sample serves both.
"""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from qcompile.data import Data
from qcompile.division import Division
from qcompile.numerics.conv import Window

HELD_OUT = 8  # every eighth sample
_HELD_ROWS = 1024
_LEAST_ROWS, _ROWS_PER_COLUMN = 32768, 8  # more change E[x xᵀ] by less than its damping
_ROWS_BYTES = 32 << 20  # rows gathered at a time


@dataclass(frozen=True)
class Source:
    """Where rows come from: an activation [..., K], or through a window a map [B, C, H, W]."""

    value: str
    columns: int
    group: int = 1
    window: Window | None = None

    def rows(
        self, x: NDArray[np.float32], chosen: NDArray[np.bool_], most: int, rng: np.random.Generator
    ) -> Iterator[NDArray[np.float32]]:
        """At most `most` rows [num, groups, K] of the chosen samples, in pieces."""
        if self.window is None:
            flat = x.reshape(-1, self.columns)
            places = len(flat) // max(len(chosen), 1)
        else:
            places = int(np.prod(self.window.output_size(x.shape[2], x.shape[3])))
        index = np.flatnonzero(np.repeat(chosen, places))
        if len(index) > most:
            index = np.sort(rng.choice(index, most, replace=False))
        step = max(1, _ROWS_BYTES // (4 * self.columns * self.group))
        for i in range(0, len(index), step):
            piece = index[i : i + step]
            taken = flat[piece] if self.window is None else _patches(x, self.window, piece)
            yield taken.reshape(len(piece), self.group, self.columns)


def _patches(
    x: NDArray[np.float32], window: Window, index: NDArray[np.int64]
) -> NDArray[np.float32]:
    """The patches [num, C, kh, kw] of these output places, counted over [B, OH, OW]."""
    top, left, bottom, right = window.pads
    padded = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right))) if any(window.pads) else x
    oh, ow = window.output_size(x.shape[2], x.shape[3])
    (sh, sw), (dh, dw), (kh, kw) = window.strides, window.dilations, window.kernel
    over_b, over_c, over_h, over_w = padded.strides
    # output_size says that the last window ends inside the padded map
    windows = as_strided(
        padded,
        (len(x), x.shape[1], oh, ow, kh, kw),
        (over_b, over_c, over_h * sh, over_w * sw, over_h * dh, over_w * dw),
        writeable=False,
    )
    sample, row, column = np.unravel_index(index, (len(x), oh, ow))
    return np.asarray(windows[sample, :, row, column])


class Moments:
    """Sums over rows [num, groups, K]: the second moments and the mean; and the held-out rows."""

    def __init__(self, sources: tuple[Source, ...], seed: int) -> None:
        self.sources = sources
        first = sources[0]
        self.count = 0
        self._second = np.zeros((first.group, first.columns, first.columns), np.float32)
        self._first = np.zeros((first.group, first.columns))
        self._waiting: list[NDArray[np.float32]] = []  # for one product with enough rows
        self._held: list[NDArray[np.float32]] = []
        self._seen = [0] * len(sources)
        name = " ".join(s.value for s in sources).encode()
        self._rng = np.random.default_rng([seed, zlib.crc32(name)])

    @property
    def names(self) -> list[str]:
        """The values that rows come from."""
        return [s.value for s in self.sources]

    @staticmethod
    def bytes_of(source: Source) -> int:
        """What sums, waiting and held-out rows of one source take at most."""
        columns = source.group * source.columns
        rows = _HELD_ROWS + source.columns // 4 + 64
        return 4 * columns * (source.columns + rows)

    def update(
        self, found: dict[str, NDArray], period: int, num_feeds: int, num_held_feeds: int
    ) -> None:
        """Rows of one run of num_feeds; every `period`-th sample is held out."""
        for number, source in enumerate(self.sources):
            x = np.atleast_2d(np.asarray(found[source.value], np.float32))
            held = (self._seen[number] + np.arange(len(x))) % period == period - 1
            self._seen[number] += len(x)
            most = max(_LEAST_ROWS, _ROWS_PER_COLUMN * source.columns) // num_feeds
            for rows in source.rows(x, ~held | (period == 1), most + 1, self._rng):
                self._waiting.append(rows)
                self.count += len(rows)
                if sum(map(len, self._waiting)) >= source.columns // 4 + 64:
                    self._add()
            self._held += source.rows(x, held, _HELD_ROWS // num_held_feeds + 1, self._rng)

    def _add(self) -> None:
        """Rows that wait go into the sums."""
        if self._waiting:
            rows = np.concatenate(self._waiting)
            self._waiting = []
            wide = np.ascontiguousarray(rows.transpose(1, 0, 2))
            self._second += wide.transpose(0, 2, 1) @ wide
            self._first += rows.sum(0, dtype=np.float64)

    def result(self, *, is_centred: bool) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """E[x xᵀ] float32 [groups, K, K] and the held-out rows; without their mean if asked."""
        self._add()
        count = max(self.count, 1)
        second = self._second / np.float32(count)
        held = np.concatenate([np.empty((0, *second.shape[:2]), np.float32), *self._held])
        if not is_centred:
            return second, held
        mean = (self._first / count).astype(np.float32)
        return second - mean[:, :, None] * mean[:, None, :], held - mean


def collect(model: ir.Model, wanted: list[Moments], data: Data, division: Division) -> None:
    """Run the float model over the data, as `divided` gave it, and add up what is wanted."""
    period = min(HELD_OUT, max(data.num_samples, 1))
    num_feeds = len(data.feeds)
    num_held_feeds = max(min(num_feeds, data.num_samples // period), 1)
    for group, found in division.runs(model, {m: m.names for m in wanted}, data):
        for moments in group:
            moments.update(found, period, num_feeds, num_held_feeds)


def divided(wanted: list[Moments], data: Data, division: Division) -> Data:
    """The data in the runs that all of these allow; which rows are sampled depends on the runs."""
    return division.split({m: division.footprint.of_values(m.names) for m in wanted}, data)[0]
